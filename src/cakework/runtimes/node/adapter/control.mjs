/** The port on which pid 1 gives orders. docs/dev/runtimes.md is what both keep to. */
import http from "node:http";
import { describe, show } from "./failure.mjs";
import { reseed } from "./random.mjs";

const PROTOCOL = 1;
const ORDER_MAX_BYTES = 8 * 1024 * 1024;
/** The User-Agent of pid 1, which a function that is made to fetch an address does not have. */
const CALLER = "cakework";

/** Returns the server for orders. It waits for `loaded`: `{handlers, failed, invocations, visitors}`. */
export function controlServer(loaded) {
  return http.createServer({ requestTimeout: 0 }, async (request, response) => {
    response.shouldKeepAlive = false;
    const order = ORDERS[`${request.method} ${request.url}`];
    if (request.headers["user-agent"] !== CALLER)
      return answer(response, 403, { error: "orders are given by pid 1" });
    if (!order) return answer(response, 404, { error: "there is no such order" });
    try {
      await order(await bodyOf(request), response, await loaded);
    } catch (error) {
      if (response.headersSent) response.destroy();
      else answer(response, 400, { error: `${error.name}: ${error.message}` });
    }
  });
}

const ORDERS = {
  "GET /ready": (_, response, { handlers, failed }) => {
    const told = {
      protocol: PROTOCOL,
      runtime: `node${process.versions.node}`,
      handlers: handlers.names,
      hooks: handlers.hooks,
    };
    answer(
      response,
      200,
      failed ? { state: "failed", error: describe(failed), ...told } : { state: "ready", ...told },
    );
  },
  "GET /idle": async (_, response, { invocations }) => {
    await invocations.untilIdle();
    answer(response, 200, { idle: true });
  },
  "POST /invoke": async (order, response, { failed, invocations }) => {
    if (failed) {
      const told = { outcome: "error", reason: "no_handler", error: describe(failed) };
      return begin(response).end(`${JSON.stringify(told)}\n{"idle":true}\n`);
    }
    const attempt = invocations.begin(order);
    if (!attempt) return answer(response, 410, { error: "this attempt was answered long ago" });
    const told = tell(response, attempt);
    attempt.told = Promise.all([attempt.told, told]);
    return told;
  },
  "POST /abort": (order, response, { invocations }) => {
    answer(response, 200, { found: invocations.abort(order.invocationId, order.attempt) });
  },
  "POST /secrets": (order, response, { invocations }) => {
    const given = Object.entries(order.secrets).map(([name, value]) => [name, String(value)]);
    invocations.giveSecrets(Object.fromEntries(given));
    answer(response, 200, {});
  },
  "POST /before-snapshot": async (_, response, { handlers, visitors }) => {
    await hook(response, handlers.functions.beforeSnapshot);
    visitors?.closeIdleConnections();
  },
  "POST /after-resume": async (_, response, { handlers, visitors }) => {
    visitors?.closeIdleConnections();
    reseed();
    await hook(response, handlers.functions.afterResume);
  },
};

async function hook(response, run) {
  try {
    await run?.();
    answer(response, 200, {});
  } catch (error) {
    show(error);
    answer(response, 500, { error: describe(error) });
  }
}

/** Sends the answer when it is there, and a line more when nothing of the attempt runs. */
async function tell(response, attempt) {
  begin(response).flushHeaders();
  const closed = new Promise((done) => response.once("close", done));
  response.write(`${await attempt.answer.promise}\n`);
  await attempt.idle.promise;
  const told = { idle: true };
  if (attempt.failedLater.length > 0) told.errors = attempt.failedLater.slice(0, 10);
  response.end(`${JSON.stringify(told)}\n`);
  await closed;
}

/** Its body ends with the connection. */
function begin(response) {
  response.useChunkedEncodingByDefault = false;
  response.setHeader("content-type", "application/x-ndjson");
  return response;
}

function answer(response, status, told) {
  const body = `${JSON.stringify(told)}\n`;
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
  });
  response.end(body);
}

async function bodyOf(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > ORDER_MAX_BYTES)
      throw new RangeError(`an order has at most ${ORDER_MAX_BYTES} bytes`);
    parts.push(part);
  }
  const order = size > 0 ? JSON.parse(Buffer.concat(parts).toString()) : {};
  if (typeof order !== "object" || order === null || Array.isArray(order))
    throw new TypeError("an order is an object");
  return order;
}
