/** Calling handlers in unit tests, without a server and without a microVM. */
import { log } from "./log.mjs";
import { encoded } from "./results.mjs";

/** Returns an event with `data`. */
export function makeEvent(data = null, attributes = {}) {
  return { id: "evt_test", type: "test", source: "test", specversion: "1.0", data, ...attributes };
}

/** Returns what `handler` answers to `event`, once what it left to `waitUntil` is done. */
export async function call(handler, event = undefined, context = {}) {
  const { ctx, settled } = makeContext(context);
  const answer = await handler(event, ctx);
  await encoded(answer instanceof Response ? answer.clone() : answer);
  await settled();
  return answer;
}

/** Returns what `fetch` (or a function of a request) answers to `request`. */
export async function fetch(handler, request, env = {}, context = {}) {
  const { ctx, settled } = makeContext(context);
  const target = typeof handler === "function" ? { fetch: handler } : handler;
  const answer = await target.fetch(
    request instanceof Request ? request : new Request(request),
    env,
    ctx,
  );
  if (!(answer instanceof Response))
    throw new TypeError("a handler of http answers with a Response");
  await settled();
  return answer;
}

function makeContext(fields) {
  const later = [];
  const ctx = {
    invocationId: "inv_test",
    attempt: 1,
    maxAttempts: 1,
    secrets: {},
    log,
    signal: new AbortController().signal,
    waitUntil: (work) => void later.push(Promise.resolve(work)),
    ...fields,
  };
  const settled = async () => {
    while (later.length > 0) await later.shift();
  };
  return { ctx, settled };
}
