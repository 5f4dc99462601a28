/** Reads answers: JSON where all went well, the error that a problem is where not. */
import { type ApiError, apiError, ConnectionError, type ReadProblem } from "./errors.js";

/** Returns the JSON of an answer; throws the ApiError that the answer is. */
export async function readAnswer(response: Response): Promise<unknown> {
  if (!response.ok) throw await readError(response);
  const text = await wholeText(response);
  try {
    return JSON.parse(text);
  } catch {
    throw apiError(unexpected(response, "answered with something that is not JSON"));
  }
}

/** Returns the bytes of an answer and their type; throws the ApiError that the answer is. */
export async function readBytes(
  response: Response,
): Promise<{ content: Uint8Array; contentType: string }> {
  if (!response.ok) throw await readError(response);
  try {
    const content = new Uint8Array(await response.arrayBuffer());
    return { content, contentType: response.headers.get("Content-Type") ?? "" };
  } catch (error) {
    throw new ConnectionError("The answer broke off.", error);
  }
}

/** Returns the error that an answer is. */
export async function readError(response: Response): Promise<ApiError> {
  const text = await wholeText(response);
  const fallback = unexpected(response, `answered ${response.status} ${response.statusText}`);
  try {
    const problem: unknown = JSON.parse(text);
    if (isProblem(problem)) return apiError({ ...fallback, ...problem });
  } catch {
    // Something between us and the server has answered in its own words.
  }
  return apiError(fallback);
}

async function wholeText(response: Response): Promise<string> {
  try {
    return await response.text();
  } catch (error) {
    throw new ConnectionError("The answer broke off.", error);
  }
}

function isProblem(found: unknown): found is Partial<ReadProblem> {
  return typeof found === "object" && found !== null && "code" in found && "detail" in found;
}

function unexpected(response: Response, what: string): ReadProblem {
  return {
    status: response.status,
    code: "unexpected_answer",
    detail: `The server ${what.trimEnd()}.`,
    requestId: response.headers.get("X-Request-Id") ?? undefined,
    retryAfter: secondsUntilRetry(response.headers.get("Retry-After")),
  };
}

/** Reads Retry-After: seconds, or a date (RFC 9110, 10.2.3). */
function secondsUntilRetry(value: string | null): number | undefined {
  if (!value) return undefined;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? undefined : Math.max(0, seconds);
}
