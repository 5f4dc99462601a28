/** What a handler's answer may be. The runtime's, and that of unit tests. */

export const RESULT_MAX_BYTES = 1024 * 1024;

/** The answer is neither JSON nor bytes. */
export class BadAnswer extends Error {
  name = "BadAnswer";
  retriable = false;
}

/** The answer has more than 1 MiB. */
export class ResultTooLarge extends Error {
  name = "ResultTooLarge";
  retriable = false;
}

/** Returns an answer as JSON: `{"result": …}` or `{"resultBase64", "contentType"}`. */
export async function encoded(answer) {
  if (answer instanceof Response) return encodedResponse(answer);
  const bytes = asBytes(answer);
  if (bytes) return encodedBytes(bytes, "application/octet-stream");
  return `{"result":${sized(json(answer))}}`;
}

/** Returns a response's body as a result; a body of JSON is one of JSON. */
export async function encodedResponse(response) {
  const type = response.headers.get("content-type") ?? "application/octet-stream";
  const bytes = await read(response.body);
  if (bytes.length === 0) return `{"result":null}`;
  if (!/(\/|\+)json\s*(;|$)/i.test(type)) return encodedBytes(bytes, type);
  try {
    return `{"result":${sized(JSON.stringify(JSON.parse(bytes.toString())))}}`;
  } catch (error) {
    if (error instanceof ResultTooLarge) throw error;
    throw new BadAnswer(`the answer is no JSON: ${error.message}`);
  }
}

/** Returns bytes of a content type as `encoded` does. */
export function encodedBytes(bytes, contentType) {
  checkSize(bytes.length);
  return JSON.stringify({ resultBase64: bytes.toString("base64"), contentType });
}

function json(answer) {
  try {
    return JSON.stringify(answer, strict) ?? "null";
  } catch (error) {
    throw new BadAnswer(`the answer is no JSON: ${error?.message ?? error}`);
  }
}

/** JSON.stringify would make null of these, or leave them out, without a word. */
function strict(_key, value) {
  if (typeof value === "number" && !Number.isFinite(value))
    throw new TypeError(`${value} is no number of JSON`);
  if (typeof value === "function" || typeof value === "symbol")
    throw new TypeError(`a ${typeof value} is not JSON`);
  if (typeof value === "string" && !value.isWellFormed())
    throw new TypeError("half a surrogate pair is no text");
  return value;
}

function sized(text) {
  checkSize(Buffer.byteLength(text));
  return text;
}

function checkSize(size) {
  if (size > RESULT_MAX_BYTES)
    throw new ResultTooLarge(`the answer has ${size} bytes, of 1 MiB that it may have`);
}

function asBytes(answer) {
  if (ArrayBuffer.isView(answer))
    return Buffer.from(answer.buffer, answer.byteOffset, answer.byteLength);
  return answer instanceof ArrayBuffer ? Buffer.from(answer) : undefined;
}

async function read(body) {
  const parts = [];
  let size = 0;
  for await (const part of body ?? []) {
    size += part.length;
    checkSize(size);
    parts.push(part);
  }
  return Buffer.concat(parts);
}
