/** The port on which pid 1 gives orders. docs/dev/runtimes.md is what both keep to. */
import http from "node:http";
import { describe, show } from "./failure.mjs";
import { reseed } from "./random.mjs";

const PROTOCOL = 1;
const ORDER_MAX_BYTES = 8 * 1024 * 1024;
/** Of a function's files, in base64. */
const LOAD_MAX_BYTES = 32 * 1024 * 1024;
/** The User-Agent of pid 1, which a function that is made to fetch an address does not have. */
const CALLER = "cakework";

/** Returns the server for orders. It waits for `loaded`, the program: see main.mjs. */
export function controlServer(loaded) {
  return http.createServer({ requestTimeout: 0 }, async (request, response) => {
    response.shouldKeepAlive = false;
    const order = ORDERS[`${request.method} ${request.url}`];
    if (request.headers["user-agent"] !== CALLER)
      return answer(response, 403, { error: "orders are given by the platform" });
    if (!order) return answer(response, 404, { error: "there is no such order" });
    try {
      const most = request.url === "/load" ? LOAD_MAX_BYTES : ORDER_MAX_BYTES;
      await order(await bodyOf(request, most), response, await loaded);
    } catch (error) {
      if (response.headersSent) response.destroy();
      else answer(response, 400, { error: `${error.name}: ${error.message}` });
    }
  });
}

const ORDERS = {
  "GET /ready": (_, response, program) => answer(response, 200, stateOf(program)),
  "POST /load": async (order, response, program) => {
    if (program.state !== "empty")
      return answer(response, 409, { error: "there is a function already" });
    program.state = "loading";
    await program.take(order);
    answer(response, 200, stateOf(program));
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

function stateOf({ state, handlers, failed }) {
  const told = {
    protocol: PROTOCOL,
    runtime: `node${process.versions.node}`,
    state,
    handlers: handlers.names,
    hooks: handlers.hooks,
  };
  return failed ? { ...told, error: describe(failed) } : told;
}

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

async function bodyOf(request, most) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > most) throw new RangeError(`an order has at most ${most} bytes`);
    parts.push(part);
  }
  const order = size > 0 ? JSON.parse(Buffer.concat(parts).toString()) : {};
  if (typeof order !== "object" || order === null || Array.isArray(order))
    throw new TypeError("an order is an object");
  return order;
}
