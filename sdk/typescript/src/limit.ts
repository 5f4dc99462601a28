import { TimeoutError } from "./errors.js";

/** Timers take no more milliseconds than this. */
const LONGEST_MS = 2 ** 31 - 1;

/**
 * How long something may take, and the caller's wish to stop it. Whatever it bounds goes by `signal`;
 * `end` must be called when that is over, and stops it if it is not.
 */
export class Limit {
  readonly #controller = new AbortController();
  readonly #timeoutMs: number;
  readonly #outer: AbortSignal | undefined;
  readonly #expired: (timeoutMs: number) => Error;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #until = Number.POSITIVE_INFINITY;

  constructor(timeoutMs: number, outer: AbortSignal | undefined, expired = timedOut) {
    this.#timeoutMs = checkedTimeout(timeoutMs);
    this.#outer = outer;
    this.#expired = expired;
    if (outer?.aborted) this.#stop();
    outer?.addEventListener("abort", this.#stop);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Milliseconds that are left. */
  get leftMs(): number {
    return this.#until - Date.now();
  }

  /** Has the time begin, anew if it had. */
  start(): void {
    this.pause();
    this.#until = Date.now() + this.#timeoutMs;
    if (this.#timeoutMs <= LONGEST_MS) this.#timer = setTimeout(this.#expire, this.#timeoutMs);
  }

  /** Has the time stand still. */
  pause(): void {
    clearTimeout(this.#timer);
    this.#until = Number.POSITIVE_INFINITY;
  }

  /** Lets go of everything. */
  end(): void {
    this.pause();
    this.#outer?.removeEventListener("abort", this.#stop);
    this.#controller.abort();
  }

  /** Waits; throws the signal's reason when stopped before. */
  async sleep(milliseconds: number): Promise<void> {
    await sleep(milliseconds, this.signal);
  }

  #stop = (): void => this.#controller.abort(this.#outer?.reason);
  #expire = (): void => this.#controller.abort(this.#expired(this.#timeoutMs));
}

function timedOut(timeoutMs: number): Error {
  return new TimeoutError(`It took longer than ${timeoutMs} ms.`);
}

/** Returns a timeout if it is one. */
export function checkedTimeout(milliseconds: number): number {
  if (milliseconds > 0) return milliseconds;
  throw new RangeError(`timeout must be more than 0 milliseconds, not ${milliseconds}`);
}

/** Waits; throws the signal's reason when it is aborted before. */
async function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}
