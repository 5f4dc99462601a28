import { ApiError, ConnectionError } from "./errors.js";
import { EventReader, type ServerEvent } from "./events.js";
import type { LogLine } from "./generated/shapes.js";
import { checkNames } from "./known.js";
import { Limit } from "./limit.js";
import { type FollowQuery, wire } from "./logs.js";
import { backoffMs } from "./retries.js";
import type { CallOptions, Transport } from "./transport.js";

/** Broken connections in a row, with nothing new between them, after which the server counts as gone. */
const FAILURES_MAX = 8;
/** The server says every 15 seconds that it is still there. */
const SILENCE_MS = 45_000;

/** Whose log is followed. */
export type LogSource = { vmId: string } | { buildId: string } | FunctionLogSource;

/** Whose log is followed, whose lines say of which invocation they are; a function's never ends. */
export type FunctionLogSource = { functionId: string } | { invocationId: string };

/** Which lines are followed, and for how long: without `timeout`, until the log's end. */
export interface FollowOptions extends FollowQuery, Pick<CallOptions, "signal" | "timeout"> {
  /** Begin behind the line with this id, such as the last that was seen. */
  after?: number | undefined;
}

/**
 * Yields the lines of a log as they come, until the log is whole. A connection that broke, or was silent
 * for too long, is made again behind the last line that was yielded, so that none is lost and none comes twice.
 */
export async function* followLogs(
  transport: Transport,
  source: LogSource,
  options: FollowOptions = {},
  silenceMs = SILENCE_MS,
): AsyncGenerator<LogLine, void, undefined> {
  checkNames("followLogs", options, ["query", "from", "to", "after", "timeout", "signal"]);
  const limit = new Limit(options.timeout ?? Number.POSITIVE_INFINITY, options.signal);
  limit.start();
  try {
    yield* persist(
      (after) => connect(transport, source, { ...options, after }, limit, silenceMs),
      { after: options.after, limit },
      (data): LogLine => JSON.parse(data),
    );
  } finally {
    limit.end();
  }
}

/** Yields what is read of events, over as many connections as it takes. */
export async function* persist<T>(
  open: (after: number | undefined) => AsyncIterable<ServerEvent>,
  { after, limit }: { after: number | undefined; limit: Limit },
  read: (data: string) => T | undefined,
): AsyncGenerator<T, void, undefined> {
  let begun = false;
  for (let failures = 0; ; failures++) {
    let comments = 0;
    try {
      for await (const event of open(after)) {
        begun = true;
        if (event.type === "end") return;
        // The first is the greeting of any connection, which says nothing of its health.
        if (event.type === "comment" && ++comments > 1) failures = 0;
        if (event.id) after = Number(event.id);
        if (event.type !== "message" || !event.data) continue;
        failures = 0;
        const found = read(event.data);
        if (found !== undefined) yield found;
      }
      if (failures >= FAILURES_MAX) throw new ConnectionError("The log ends before its end.");
    } catch (error) {
      if (!begun || !mayHeal(error) || failures >= FAILURES_MAX) throw error;
    }
    await limit.sleep(backoffMs(failures));
  }
}

/** Whether another connection may go on where this one broke. */
function mayHeal(error: unknown): boolean {
  if (error instanceof ApiError) return error.status >= 500 || error.status === 429;
  return error instanceof ConnectionError;
}

async function* connect(
  transport: Transport,
  source: LogSource,
  { query: text, from, to, after }: FollowOptions,
  whole: Limit,
  silenceMs: number,
): AsyncGenerator<ServerEvent, void, undefined> {
  const query = { ...wire({ query: text, from, to }), follow: true };
  const open = (limit: Limit) => {
    if ("vmId" in source) return transport.open("getVMLogs", { path: source, query }, after, limit);
    if ("buildId" in source)
      return transport.open("getBuildLogs", { path: source, query }, after, limit);
    if ("functionId" in source)
      return transport.open("getFunctionLogs", { path: source, query }, after, limit);
    return transport.open("getInvocationLogs", { path: source, query }, after, limit);
  };
  yield* listen(open, whole, silenceMs);
}

/** Yields the events of one connection; first one that says that there is one. */
export async function* listen(
  open: (limit: Limit) => Promise<ReadableStream<Uint8Array>>,
  whole: Limit,
  silenceMs = SILENCE_MS,
): AsyncGenerator<ServerEvent, void, undefined> {
  const limit = new Limit(silenceMs, whole.signal, wasSilent);
  limit.start();
  try {
    const stream = await open(limit);
    yield { type: "open" };
    yield* read(stream, limit);
  } finally {
    limit.end();
  }
}

/** The silence is the server's alone: while the caller looks at what came, none is counted. */
async function* read(
  stream: ReadableStream<Uint8Array>,
  limit: Limit,
): AsyncGenerator<ServerEvent, void, undefined> {
  const reader = stream.getReader();
  const events = new EventReader();
  for (;;) {
    limit.start();
    const { done, value } = await reader.read().catch((error) => {
      limit.signal.throwIfAborted();
      throw new ConnectionError("The log broke off.", error);
    });
    limit.pause();
    if (done) return;
    yield* events.read(value);
  }
}

function wasSilent(silenceMs: number): Error {
  return new ConnectionError(`Nothing came for ${silenceMs} ms.`);
}
