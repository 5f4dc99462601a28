import { ApiError, ConnectionError, TimeoutError } from "./errors.js";
import { EventReader, type ServerEvent } from "./events.js";
import type { LogLine } from "./generated/api.js";
import { Limit, sleep } from "./limit.js";
import { type FollowQuery, wire } from "./logs.js";
import { backoffMs } from "./retries.js";
import type { CallOptions, Transport } from "./transport.js";

/** Broken connections in a row, with nothing new between them, after which the server counts as gone. */
const FAILURES_MAX = 8;

/** Whose log is followed. */
export type LogSource = { vmId: string } | { buildId: string };

/** Which lines are followed, and how long silence may last. */
export interface FollowOptions extends FollowQuery, Pick<CallOptions, "signal" | "timeout"> {
  /** Begin behind the line with this id, such as the last that was seen. */
  after?: number | undefined;
}

/**
 * Yields the lines of a log as they come, until the log is whole. A broken connection is made again behind
 * the last line that was yielded, so that none is lost and none comes twice.
 */
export async function* followLogs(
  transport: Transport,
  source: LogSource,
  options: FollowOptions = {},
): AsyncGenerator<LogLine, void, undefined> {
  let after = options.after;
  let begun = false;
  for (let failures = 0; ; failures++) {
    let seen = 0;
    try {
      for await (const event of connect(transport, source, options, after)) {
        begun = true;
        if (event.type === "end") return;
        // The first is the greeting of any connection.
        if (++seen > 1) failures = 0;
        if (event.type !== "message" || !event.data) continue;
        const line: LogLine = JSON.parse(event.data);
        after = line.id;
        yield line;
      }
      if (failures >= FAILURES_MAX) throw new ConnectionError("The log ends before its end.");
    } catch (error) {
      if (!begun || !mayHeal(error) || failures >= FAILURES_MAX) throw error;
    }
    await sleep(backoffMs(failures), options.signal);
  }
}

/** Whether another connection may go on where this one broke. */
function mayHeal(error: unknown): boolean {
  if (error instanceof ApiError) return error.status >= 500 || error.status === 429;
  return error instanceof ConnectionError || error instanceof TimeoutError;
}

async function* connect(
  transport: Transport,
  source: LogSource,
  options: FollowOptions,
  after: number | undefined,
): AsyncGenerator<ServerEvent, void, undefined> {
  const { signal, timeout, query: text, from, to } = options;
  const query = { ...wire({ query: text, from, to }), follow: true };
  const limit = new Limit(timeout ?? transport.timeoutMs, signal);
  limit.start();
  try {
    const stream =
      "vmId" in source
        ? await transport.open("getVMLogs", { path: source, query }, after, limit)
        : await transport.open("getBuildLogs", { path: source, query }, after, limit);
    yield* read(stream, limit);
  } finally {
    limit.end();
  }
}

/** Time passes while the server is waited for, not while the caller looks at what came. */
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
