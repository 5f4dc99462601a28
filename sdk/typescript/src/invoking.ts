import { DeployFailedError } from "./errors.js";
import { listen, persist } from "./follow.js";
import type {
  Invocation,
  InvokeFunction,
  ListInvocationsQuery,
  Version,
} from "./generated/shapes.js";
import { checkNames } from "./known.js";
import { Limit } from "./limit.js";
import { backoffMs } from "./retries.js";
import type { CallOptions, ChangeOptions, Transport } from "./transport.js";

/** Longest that the server waits for an end in one call, in seconds. */
const WAIT_S = 50;
/** Of a timeout, so much is left for the answer when the server waits. */
const ANSWER_MS = 1000;
const AT_ONCE = 10;
/** Invocations that are remembered, so that none is given out twice. */
const GIVEN_MAX = 1000;
const OVER = new Set<Invocation["state"]>([
  "succeeded",
  "failed",
  "canceled",
  "expired",
  "skipped",
]);

/** How long something is waited for: without `timeout`, until its end. */
export interface WaitForOptions extends Pick<CallOptions, "signal" | "timeout"> {}

/** What a function is invoked with besides data, and for how long its end is waited for. */
export interface InvokeOptions
  extends Pick<InvokeFunction, "event" | "userId" | "version">,
    Pick<ChangeOptions, "signal" | "timeout" | "idempotencyKey"> {}

/** How a function is invoked with many data. */
export interface InvokeManyOptions
  extends Pick<InvokeFunction, "userId" | "version">,
    WaitForOptions {
  /** So many are under way at a time; 10 if absent. */
  atOnce?: number | undefined;
}

/** Which invocations are followed, and for how long: without `timeout`, for ever. */
export interface FollowInvocationsOptions
  extends Omit<ListInvocationsQuery, "follow" | "pagination">,
    WaitForOptions {}

/** What a handler answered, as it is. */
export interface InvocationResult {
  content: Uint8Array;
  contentType: string;
}

/** Invokes a function, and waits for the end. */
export async function invoke(
  transport: Transport,
  functionId: string,
  data: unknown,
  options: InvokeOptions,
  timeoutMs: number,
): Promise<Invocation> {
  const names = ["event", "userId", "version", "timeout", "signal", "idempotencyKey"];
  checkNames("invoke", options, names);
  const { timeout = timeoutMs, signal, idempotencyKey, ...asked } = options;
  const limit = new Limit(timeout, signal);
  limit.start();
  try {
    const body = { ...asked, ...(data === undefined ? {} : { data }), wait: waitS(limit) };
    const call = { timeout: limit.leftMs, signal: limit.signal, idempotencyKey };
    const made = await transport.call("invokeFunction", { path: { functionId }, body }, call);
    return await ended(transport, made, limit);
  } finally {
    limit.end();
  }
}

/** Invokes a function with each of many data; yields what became of each, in their order. */
export async function* invokeMany(
  transport: Transport,
  functionId: string,
  items: Iterable<unknown> | AsyncIterable<unknown>,
  options: InvokeManyOptions,
): AsyncGenerator<Invocation, void, undefined> {
  checkNames("invokeMany", options, ["userId", "version", "atOnce", "timeout", "signal"]);
  const { atOnce = AT_ONCE, timeout, signal, ...asked } = options;
  if (!(atOnce >= 1)) throw new RangeError(`atOnce must be at least 1, not ${atOnce}`);
  const underWay: string[] = [];
  const next = () => waitForInvocation(transport, underWay.shift() ?? "", { timeout, signal });
  for await (const data of items) {
    if (underWay.length >= atOnce) yield await next();
    const body = { ...asked, data, mode: "async" as const };
    const made = transport.call("invokeFunction", { path: { functionId }, body }, { signal });
    underWay.push((await made).id);
  }
  while (underWay.length > 0) yield await next();
}

/** Returns an invocation when it has ended, well or not. */
export async function waitForInvocation(
  transport: Transport,
  invocationId: string,
  options: WaitForOptions,
): Promise<Invocation> {
  checkNames("waitForInvocation", options, ["timeout", "signal"]);
  const limit = new Limit(options.timeout ?? Number.POSITIVE_INFINITY, options.signal);
  limit.start();
  try {
    return await ended(transport, await look(transport, invocationId, limit), limit);
  } finally {
    limit.end();
  }
}

/** Returns a version when it is ready; throws a DeployFailedError if it has failed. */
export async function waitForVersion(
  look: (options: CallOptions) => Promise<Version>,
  options: WaitForOptions,
): Promise<Version> {
  checkNames("waitForVersion", options, ["timeout", "signal"]);
  const limit = new Limit(options.timeout ?? Number.POSITIVE_INFINITY, options.signal);
  limit.start();
  try {
    for (let looks = 0; ; looks++) {
      const version = await look({ signal: limit.signal });
      if (version.state === "failed") throw new DeployFailedError(version);
      if (version.state !== "building") return version;
      await limit.sleep(backoffMs(Math.min(looks, 2)));
    }
  } finally {
    limit.end();
  }
}

/** Yields invocations each time they change, from now on. */
export async function* followInvocations(
  transport: Transport,
  options: FollowInvocationsOptions,
): AsyncGenerator<Invocation, void, undefined> {
  const { timeout, signal, ...asked } = options;
  const limit = new Limit(timeout ?? Number.POSITIVE_INFINITY, signal);
  const query = { ...asked, follow: true };
  const given = new Map<string, string>();
  const open = (after: number | undefined) =>
    listen((each) => transport.open("listInvocations", { query }, after, each), limit);
  limit.start();
  try {
    yield* persist(open, { after: undefined, limit }, (data) => {
      const found: Invocation = JSON.parse(data);
      if (given.get(found.id) === data) return undefined;
      given.delete(found.id);
      given.set(found.id, data);
      const [oldest] = given.keys();
      if (given.size > GIVEN_MAX && oldest !== undefined) given.delete(oldest);
      return found;
    });
  } finally {
    limit.end();
  }
}

async function ended(transport: Transport, from: Invocation, limit: Limit): Promise<Invocation> {
  let invocation = from;
  while (!OVER.has(invocation.state)) {
    if (waitS(limit) === 0) await limit.sleep(backoffMs(0));
    invocation = await look(transport, invocation.id, limit);
  }
  return invocation;
}

function look(transport: Transport, invocationId: string, limit: Limit): Promise<Invocation> {
  const timeout = Math.min(limit.leftMs, (WAIT_S + 10) * 1000);
  const input = { path: { invocationId }, query: { wait: waitS(limit) } };
  const options = { timeout: Math.max(timeout, 1), signal: limit.signal };
  return transport.call("getInvocation", input, options);
}

/** Returns for how many seconds the server may wait in a call. */
function waitS(limit: Limit): number {
  return Math.max(0, Math.min(WAIT_S, (limit.leftMs - ANSWER_MS) / 1000));
}
