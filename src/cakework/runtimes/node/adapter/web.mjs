/** Requests and responses of the web's kind, from and to those of node:http. */
import { Readable } from "node:stream";
import { BadAnswer } from "../functions/results.mjs";

const HOP_BY_HOP = ["connection", "keep-alive", "transfer-encoding", "upgrade"];
const BODILESS = ["GET", "HEAD"];
export const RESPONSE_NEEDED = "a handler of http answers with a Response";

/** Returns a visitor's request, without the headers in `without`. */
export function webRequest(incoming, signal, without) {
  const headers = new Headers();
  for (let at = 0; at < incoming.rawHeaders.length; at += 2) {
    const name = incoming.rawHeaders[at].toLowerCase();
    if (!without.includes(name)) headers.append(name, incoming.rawHeaders[at + 1]);
  }
  const init = { method: incoming.method, headers, signal };
  if (!BODILESS.includes(incoming.method))
    Object.assign(init, { body: Readable.toWeb(incoming), duplex: "half" });
  return new Request(urlOf(incoming), init);
}

function urlOf(incoming) {
  const target = incoming.url.startsWith("/") ? incoming.url : "/";
  const host = `https://${incoming.headers.host ?? "localhost"}`;
  return new URL((URL.canParse(host) ? new URL(host).origin : "https://localhost") + target);
}

/** Sends a response, taking from its body what the client takes. Rejects when the body cannot be made. */
export async function sendResponse(response, outgoing, gone) {
  const headers = [];
  for (const [name, value] of response.headers) {
    if (!HOP_BY_HOP.includes(name)) headers.push(name, value);
  }
  outgoing.writeHead(response.status, headers);
  if (!response.body || outgoing.req.method === "HEAD") {
    await response.body?.cancel();
    outgoing.end();
    return;
  }
  outgoing.flushHeaders();
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (gone.aborted) break;
    if (done) return void outgoing.end();
    if (!outgoing.write(asBytes(value))) await drained(outgoing, gone);
  }
  await reader.cancel(gone.reason);
}

function asBytes(value) {
  if (ArrayBuffer.isView(value) || typeof value === "string") return value;
  throw new TypeError("a part of a body is bytes");
}

function drained(outgoing, gone) {
  return new Promise((done) => {
    outgoing.once("drain", done);
    gone.addEventListener("abort", done, { once: true });
    if (gone.aborted) done();
  });
}

/** Returns an event as `POST /` in CloudEvents' binary mode. */
export function eventRequest(event, signal) {
  const headers = new Headers();
  const attributes = typeof event === "object" && event !== null ? event : { data: event };
  for (const [name, value] of Object.entries(attributes)) {
    if (["data", "data_base64", "datacontenttype"].includes(name) || value === null) continue;
    headers.set(
      `ce-${name}`,
      encodeURI(textOf(value).toWellFormed()).replaceAll(
        /%(20|5B|5D|7C|5E|60|7B|7D|3C|3E)/g,
        decodeURIComponent,
      ),
    );
  }
  const type = attributes.datacontenttype ?? "application/json";
  headers.set("content-type", type);
  return new Request("https://localhost/", {
    method: "POST",
    headers,
    body: dataOf(attributes, type),
    signal,
  });
}

function textOf(value) {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function dataOf({ data, data_base64: base64 }, type) {
  if (base64 !== undefined) return Buffer.from(base64, "base64");
  if (data === undefined || data === null) return "";
  return typeof data === "string" && !type.endsWith("json") ? data : JSON.stringify(data);
}

/** Returns what the old form tells of a request. */
export async function restRequest(request) {
  const url = new URL(request.url);
  const text = await request.text();
  const isJson = /(\/|\+)json\s*(;|$)/i.test(request.headers.get("content-type") ?? "");
  return {
    method: request.method,
    path: decodeURIComponent(url.pathname),
    headers: Object.fromEntries(request.headers),
    query: Object.fromEntries(url.searchParams),
    params: {},
    body: text && isJson ? JSON.parse(text) : text || null,
  };
}

/** Returns what the old form `{statusCode, body, headers?}` means. */
export function restAnswer(answer) {
  const { statusCode, body, headers = {} } = answer ?? {};
  if (statusCode === undefined) throw new BadAnswer("the answer has no statusCode");
  if (!Number.isInteger(statusCode) || statusCode < 200 || statusCode > 599) {
    throw new BadAnswer("statusCode is no number from 200 to 599");
  }
  const [content, type] =
    typeof body === "string"
      ? [body, "text/plain; charset=utf-8"]
      : [JSON.stringify(body), "application/json"];
  const told = new Headers(headers ?? {});
  if (body === undefined || body === null)
    return new Response(null, { status: statusCode, headers: told });
  if (!told.has("content-type")) told.set("content-type", type);
  return new Response(content, { status: statusCode, headers: told });
}
