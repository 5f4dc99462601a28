import { BuildFailedError } from "./errors.js";
import type { Build, LogLine } from "./generated/shapes.js";
import { checkNames } from "./known.js";
import { Limit } from "./limit.js";
import { backoffMs } from "./retries.js";

/** What happens while a build is waited for, and for how long: without `timeout`, until its end. */
export interface WaitOptions {
  /** Called with each line of the build's log as it comes; awaited. */
  onLine?: ((line: LogLine) => unknown) | undefined;
  /** Milliseconds to wait at most. */
  timeout?: number | undefined;
  /** Stops waiting, not the build: waitForBuild throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Where a build that is waited for is looked at. */
interface Place {
  log(signal: AbortSignal): AsyncIterable<LogLine>;
  build(signal: AbortSignal): Promise<Build>;
}

/** Reads the log to its end, then the build; throws a BuildFailedError if it has failed. */
export async function waitForBuild(place: Place, options: WaitOptions): Promise<Build> {
  checkNames("waitForBuild", options, ["onLine", "timeout", "signal"]);
  const limit = new Limit(options.timeout ?? Number.POSITIVE_INFINITY, options.signal);
  limit.start();
  try {
    for await (const line of place.log(limit.signal)) await options.onLine?.(line);
    return await ended(place, limit);
  } finally {
    limit.end();
  }
}

/** A log that has ended is the log of a build that ends now, if it has not yet. */
async function ended(place: Place, limit: Limit): Promise<Build> {
  for (let looks = 0; ; looks++) {
    const build = await place.build(limit.signal);
    if (build.status === "failed") throw new BuildFailedError(build);
    if (build.status === "succeeded") return build;
    await limit.sleep(backoffMs(looks));
  }
}
