import { ApiError, ConnectionError } from "./errors.js";

const FIRST_MS = 250;
const LAST_MS = 8000;

/** Statuses by which a server says that nothing was done, and that it may be asked again. */
const REFUSED = new Set([429, 503]);
/** Statuses by which something between says that it does not know what was done. */
const UNKNOWN = new Set([502, 504]);

/**
 * Returns after how many milliseconds to try again; undefined when there is nothing to gain.
 *
 * `repeatable` says that the work is done once however often it is asked for.
 */
export function retryAfterMs(
  error: unknown,
  failures: number,
  repeatable: boolean,
): number | undefined {
  if (error instanceof ConnectionError) return repeatable ? backoffMs(failures) : undefined;
  if (!(error instanceof ApiError)) return undefined;
  if (REFUSED.has(error.status)) return refusedMs(error, failures);
  return repeatable && UNKNOWN.has(error.status) ? backoffMs(failures) : undefined;
}

/** Returns the wait after so many failures in a row: twice the last one, by chance half of it. */
export function backoffMs(failures: number): number {
  return Math.min(FIRST_MS * 2 ** failures, LAST_MS) * (0.5 + Math.random() / 2);
}

function refusedMs(error: ApiError, failures: number): number {
  if (error.retryAfter === undefined) return backoffMs(failures);
  return error.retryAfter * 1000 + Math.random() * FIRST_MS;
}
