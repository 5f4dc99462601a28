import { BuildFailedError } from "./errors.js";
import type { Build, LogLine } from "./generated/api.js";
import { sleep } from "./limit.js";
import { backoffMs } from "./retries.js";

/** What happens while a build is waited for. */
export interface WaitOptions {
  /** Called with each line of the build's log as it comes; awaited. */
  onLine?: ((line: LogLine) => unknown) | undefined;
  /** Stops waiting, not the build: waitForBuild throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** As for the client; of the log, the longest silence. */
  timeout?: number | undefined;
}

/** Reads the log to its end, then the build; throws a BuildFailedError if it has failed. */
export async function waitForBuild(
  log: AsyncIterable<LogLine>,
  read: () => Promise<Build>,
  { onLine, signal }: WaitOptions,
): Promise<Build> {
  for await (const line of log) await onLine?.(line);
  for (let looks = 0; ; looks++) {
    const build = await read();
    if (build.status === "failed") throw new BuildFailedError(build);
    if (build.status === "succeeded") return build;
    await sleep(backoffMs(looks), signal);
  }
}
