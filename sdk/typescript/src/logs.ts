import type { GetVMLogsQuery, LogLine, LogPage } from "./generated/shapes.js";

/** Which lines are wanted: times are ISO 8601, or a Date. */
export interface LogQuery extends Omit<GetVMLogsQuery, "follow" | "from" | "to"> {
  /** Only lines of this time or later. */
  from?: string | Date | undefined;
  /** Only lines of this time or earlier. */
  to?: string | Date | undefined;
}

/** Which lines are wanted of a log that is read to its end. */
export type AllLogsQuery = Omit<LogQuery, "pagination">;

/** Which lines are wanted of a log that is followed. */
export type FollowQuery = Pick<LogQuery, "query" | "from" | "to">;

/** Returns a query as the API takes it. */
export function wire<Query extends Pick<LogQuery, "from" | "to">>({
  from,
  to,
  ...query
}: Query): Omit<Query, "from" | "to"> & Pick<GetVMLogsQuery, "from" | "to"> {
  return { ...query, from: time(from), to: time(to) };
}

/** Yields lines page after page, to the last that there is now. */
export async function* allLines<Line extends LogLine>(
  query: AllLogsQuery,
  read: (query: LogQuery) => Promise<Omit<LogPage, "lines"> & { lines: Line[] }>,
): AsyncGenerator<Line, void, undefined> {
  let asked: LogQuery = { batch: 1000, ...query };
  for (;;) {
    const page = await read(asked);
    yield* page.lines;
    if (!page.pagination) return;
    asked = { ...asked, pagination: page.pagination, from: page.from, to: page.to };
  }
}

function time(value: string | Date | undefined): string | undefined {
  return value instanceof Date ? value.toISOString() : value;
}
