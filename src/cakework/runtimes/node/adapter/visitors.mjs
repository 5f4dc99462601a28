/** The port to which the router brings visitors: direct work. */
import { randomUUID } from "node:crypto";
import http from "node:http";
import { BadAnswer } from "../functions/results.mjs";
import { bounded, describe, Failure, show } from "./failure.mjs";
import { RESPONSE_NEEDED, restAnswer, restRequest, sendResponse, webRequest } from "./web.mjs";

/** Headers of the router's, which the function does not see. A visitor's own do not pass it. */
const TOLD = {
  "cakework-invocation-id": "invocationId",
  "cakework-deadline": "deadline",
  "cakework-function-id": "functionId",
  "cakework-version": "version",
  "cakework-user-id": "userId",
};
const ASKS_SETTLED = "cakework-settled";
/** Said after the answer, to a router that asks for it, when nothing of the request runs any more. */
const SETTLED = "HTTP/1.1 102 Settled\r\n\r\n";
const HEAD_MAX_BYTES = 65_536;
const WITHOUT = [
  ...Object.keys(TOLD),
  ASKS_SETTLED,
  "connection",
  "keep-alive",
  "transfer-encoding",
  "upgrade",
  "expect",
];

/** Returns the server for visitors of `program`; its `failed` is why the function could not be loaded. */
export function visitorsServer(program) {
  const server = http.createServer(
    { requestTimeout: 0, maxHeaderSize: HEAD_MAX_BYTES },
    (incoming, outgoing) => {
      serve(program, incoming, outgoing).catch((error) => {
        show(error);
        outgoing.destroy();
      });
    },
  );
  server.keepAliveTimeout = 0;
  return server;
}

async function serve(program, incoming, outgoing) {
  const { socket } = incoming;
  await answer(program, incoming, outgoing);
  if (incoming.headers[ASKS_SETTLED] === undefined || !outgoing.writableEnded) return;
  if (!outgoing.writableFinished && !outgoing.destroyed) {
    await new Promise((done) => outgoing.once("finish", done).once("close", done));
  }
  if (outgoing.writableFinished && socket.writable) socket.write(SETTLED);
}

async function answer({ handlers, failed, invocations }, incoming, outgoing) {
  if (failed) return problem(outgoing, 503, "version_failed", failed);
  if (!handlers.http)
    return problem(outgoing, 404, "no_handler", new Failure("NoHandler", "it has no http"));
  const gone = (abort) => outgoing.once("close", () => outgoing.writableFinished || abort());
  return invocations.direct(toldOf(incoming.headers), gone, async (ctx, attempt) => {
    attempt.broken = (error) => {
      attempt.told = new Promise((done) => outgoing.once("close", done));
      broken(outgoing, error, true);
    };
    try {
      await respond(handlers, invocations, incoming, outgoing, ctx);
    } catch (error) {
      if (!outgoing.destroyed && !outgoing.writableEnded) {
        show(error);
        broken(outgoing, error, false);
      }
    }
  });
}

async function respond(handlers, invocations, incoming, outgoing, ctx) {
  const request = webRequest(incoming, ctx.signal, WITHOUT);
  const { http: handler } = handlers;
  let response;
  if (handlers.rest) response = restAnswer(await handler(await restRequest(request), ctx));
  else response = await handler(request, invocations.env, ctx);
  if (!(response instanceof Response)) throw new BadAnswer(RESPONSE_NEEDED);
  await sendResponse(response, outgoing, ctx.signal);
}

/** Tells of an error; by an answer without an end if one was begun, as a whole one would be taken for good. */
function broken(outgoing, error, closing) {
  // When what was written before is sent.
  if (outgoing.headersSent) return void setImmediate(() => outgoing.socket?.destroySoon());
  if (closing) outgoing.shouldKeepAlive = false;
  const reason = error instanceof BadAnswer ? "bad_answer" : "handler_error";
  problem(outgoing, 502, reason, error);
}

function problem(outgoing, status, reason, error) {
  const body = JSON.stringify({ reason, error: describe(error) });
  outgoing.writeHead(status, {
    "content-type": "application/problem+json",
    "content-length": Buffer.byteLength(body),
    "cakework-error": reason,
  });
  outgoing.end(body);
}

function toldOf(headers) {
  const told = { invocationId: `direct_${randomUUID()}` };
  for (const [name, field] of Object.entries(TOLD)) {
    if (headers[name] !== undefined) told[field] = headers[name];
  }
  if (headers.traceparent) told.traceparent = bounded(headers.traceparent, 100);
  if (/^\d+$/.test(told.version ?? "")) told.version = Number(told.version);
  else delete told.version;
  return told;
}
