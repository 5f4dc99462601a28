/** What the surroundings give: a process's environment, where there is a process. */
import { version } from "./generated/calls.js";

interface Process {
  env?: Record<string, string | undefined>;
}

/** Returns a variable of the process's environment; undefined where there is none. */
export function environment(name: string): string | undefined {
  try {
    return host()?.env?.[name] || undefined;
  } catch {
    // Deno asks for a permission, and it was not given.
    return undefined;
  }
}

/** Returns the headers by which this client names itself. Browsers name themselves. */
export function userAgent(): Record<string, string> {
  return host() ? { "User-Agent": `cakework-typescript/${version}` } : {};
}

function host(): Process | undefined {
  return (globalThis as { process?: Process }).process;
}
