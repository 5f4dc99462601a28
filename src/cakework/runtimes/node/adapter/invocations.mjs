/** Attempts: each is run once, however often it is asked for, and answered always alike. */
import { AsyncLocalStorage } from "node:async_hooks";
import { log } from "../functions/log.mjs";
import { BadAnswer, encoded, encodedResponse, ResultTooLarge } from "../functions/results.mjs";
import { describe, Failure, show } from "./failure.mjs";
import { eventRequest, RESPONSE_NEEDED } from "./web.mjs";

/** Of answers that have been given; the oldest go, and only their ids are kept. */
const KEPT_MAX_BYTES = 16 * 1024 * 1024;
/** Of what came of records, after which no other is begun: with one more of 1 MiB it is a line. */
const PART_BYTES = 512 * 1024;
const RESULT = `{"result":`.length;
const ORDER = {
  event: ["event"],
  scheduled: ["scheduled", "event"],
  failure: ["failed", "event"],
  transform: ["transform", "transformBatch"],
};
const RETRIED = [408, 429];

/** The attempt or the direct request that what runs belongs to. */
export const current = new AsyncLocalStorage();

/** One attempt, or one direct request: what runs for it, and what came of it. */
class Attempt {
  constructor(told, secrets) {
    this.key = `${told.invocationId}.${told.attempt ?? 1}`;
    this.answer = Promise.withResolvers();
    this.idle = Promise.withResolvers();
    this.later = [];
    this.failedLater = [];
    this.answered = undefined;
    this.ended = false;
    this.aborting = new AbortController();
    this.ctx = contextOf(told, secrets, this);
  }

  abort() {
    this.aborting.abort(new Failure("Canceled", "it was given up", true));
  }
}

/** What runs in this process, and what has been answered. */
export class Invocations {
  #handlers;
  #free;
  #waiting = [];
  #attempts = new Map();
  #forgotten = new Set();
  #keptBytes = 0;
  #running = new Set();
  #idle = [];
  #secrets;
  env = Object.freeze({ ...process.env });

  constructor(handlers, concurrency, secrets = Object.freeze({})) {
    this.#handlers = handlers;
    this.#secrets = secrets;
    this.#free = concurrency;
  }

  /** Returns the attempt that `order` means, begun by it or before; undefined: long over. Throws if it is no order. */
  begin(order) {
    const { kind, context } = order;
    if (typeof context?.invocationId !== "string" || !Number.isInteger(context.attempt)) {
      throw new TypeError("an order names an invocationId and an attempt");
    }
    if (!Object.hasOwn(ORDER, kind)) throw new TypeError(`${kind} is no kind of work`);
    if (kind === "transform" && !Array.isArray(order.event?.records))
      throw new TypeError("records are a list");
    const attempt = new Attempt(context, this.#secrets);
    if (this.#forgotten.has(attempt.key)) return undefined;
    const known = this.#attempts.get(attempt.key);
    if (known) return known;
    this.#attempts.set(attempt.key, attempt);
    this.#run(attempt, order);
    return attempt;
  }

  /** Gives up an attempt; tells whether it was under way. */
  abort(invocationId, number) {
    const attempt = this.#attempts.get(`${invocationId}.${number}`);
    if (!attempt || attempt.answered !== undefined) return false;
    attempt.abort();
    return true;
  }

  /** Those that were given last. */
  get secrets() {
    return this.#secrets;
  }

  /** Gives secrets to all that begins from now on, and to the environment. */
  giveSecrets(secrets) {
    for (const name of Object.keys(this.#secrets)) delete process.env[name];
    Object.assign(process.env, secrets);
    this.#secrets = Object.freeze({ ...secrets });
    this.env = Object.freeze({ ...process.env });
  }

  /** Returns when nothing runs, neither for queued nor for direct work. */
  async untilIdle() {
    if (this.#running.size > 0) await new Promise((done) => this.#idle.push(done));
  }

  /** Holds a turn for a direct request, which `work` is given the context of. */
  async direct(told, gone, work) {
    const attempt = new Attempt(told, this.#secrets);
    gone(() => attempt.abort());
    await this.#turn(attempt, async () => {
      try {
        await work(attempt.ctx, attempt);
      } finally {
        await settle(attempt);
      }
    });
  }

  /**
   * Answers with an error that nobody caught: the attempt that it came of, or if that cannot be told all.
   * Returns when those who wait for them have been told.
   */
  async fail(error) {
    const owner = current.getStore();
    const theirs = owner && !owner.ended ? [owner] : [...this.#running];
    for (const attempt of theirs) {
      attempt.broken?.(error);
      if (attempt.answered === undefined) this.#keep(attempt, failed(error, attempt, 0));
      attempt.idle.resolve();
    }
    await Promise.all(theirs.map((attempt) => attempt.told));
  }

  async #run(attempt, order) {
    // First who asked is told that it was heard.
    await null;
    await this.#turn(attempt, async () => {
      const began = performance.now();
      let answer;
      try {
        const result = await this.#result(attempt, order);
        const took = (performance.now() - began).toFixed(3);
        answer = `{"outcome":"ok",${result.slice(1, -1)},"durationMs":${took}}`;
      } catch (error) {
        if (!(error instanceof Failure)) show(error);
        answer = failed(error, attempt, performance.now() - began);
      }
      if (attempt.answered === undefined) this.#keep(attempt, answer);
      await settle(attempt);
    });
    attempt.idle.resolve();
  }

  async #result(attempt, { kind, event, unit }) {
    if (attempt.ctx.signal.aborted) throw attempt.ctx.signal.reason;
    if (kind === "transform") return this.#transform(attempt.ctx, event.records, unit);
    const handler = this.#first(ORDER[kind]);
    if (handler) return encoded(await handler(event, attempt.ctx));
    if (this.#handlers.http && !this.#handlers.rest) return this.#byHttp(attempt.ctx, event);
    throw new Failure("NoHandler", `this version has no handler for ${kind}`);
  }

  #first(names) {
    const name = names.find((each) => each in this.#handlers.functions);
    return name && this.#handlers.functions[name];
  }

  async #byHttp(ctx, event) {
    const response = await this.#handlers.http(eventRequest(event, ctx.signal), this.env, ctx);
    if (!(response instanceof Response)) throw new BadAnswer(RESPONSE_NEEDED);
    if (response.ok) return encodedResponse(response);
    const { status } = response;
    const after = response.headers.get("retry-after") ?? "";
    const retriable = RETRIED.includes(status) || status >= 500;
    const text = (await response.text()).slice(0, 1000);
    throw new Failure(
      `Http${status}`,
      text,
      retriable,
      /^\d+$/.test(after) ? Number(after) : undefined,
    );
  }

  async #transform(ctx, records, unit = "record") {
    const { transform: one, transformBatch: many } = this.#handlers.functions;
    if (!one && !many) throw new Failure("NoHandler", "this version has no handler for transform");
    if (unit === "batch" && many) return encoded({ out: outputs(await many(records, ctx)) });
    const each = one ?? ((record) => many([record], ctx));
    if (unit === "batch") {
      const out = [];
      for (const record of records) out.push(...outputs(await each(record, ctx)));
      return encoded({ out });
    }
    const told = [];
    let size = 0;
    for (const record of records) {
      told.push(await toldOf(each, record, ctx));
      size += Buffer.byteLength(told.at(-1));
      if (size >= PART_BYTES) break;
    }
    return `{"result":{"records":[${told.join(",")}]}}`;
  }

  async #turn(attempt, work) {
    this.#running.add(attempt);
    if (this.#free > 0) this.#free--;
    else await new Promise((begin) => this.#waiting.push(begin));
    try {
      await current.run(attempt, work);
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
      attempt.ended = true;
      this.#running.delete(attempt);
      if (this.#running.size === 0) for (const done of this.#idle.splice(0)) done();
    }
  }

  #keep(attempt, answer) {
    attempt.answered = answer;
    attempt.answer.resolve(answer);
    this.#keptBytes += answer.length;
    for (const [key, each] of this.#attempts) {
      if (this.#keptBytes <= KEPT_MAX_BYTES) break;
      if (!each.ended) continue;
      this.#keptBytes -= each.answered.length;
      this.#forgotten.add(key);
      this.#attempts.delete(key);
    }
  }
}

function contextOf(told, secrets, attempt) {
  return Object.freeze({
    invocationId: told.invocationId,
    attempt: told.attempt ?? 1,
    maxAttempts: told.maxAttempts ?? 1,
    deadline: told.deadline === undefined ? undefined : new Date(told.deadline),
    functionId: told.functionId,
    version: told.version,
    userId: told.userId,
    traceparent: told.traceparent,
    secrets,
    log,
    signal: attempt.aborting.signal,
    waitUntil: (work) => {
      const promise = Promise.resolve(work);
      // It is looked at when the answer has been given; until then its failing is no uncaught error.
      promise.catch(() => {});
      attempt.later.push(promise);
    },
  });
}

async function settle(attempt) {
  while (attempt.later.length > 0) {
    try {
      await attempt.later.shift();
    } catch (error) {
      show(error);
      attempt.failedLater.push(describe(error));
    }
  }
}

/** Returns as JSON what came of a record. */
async function toldOf(transform, record, ctx) {
  if (ctx.signal.aborted) throw ctx.signal.reason;
  try {
    const told = await encoded(outputs(await transform(record, ctx)));
    return `{"out":${told.slice(RESULT, -1)}}`;
  } catch (error) {
    show(error);
    return JSON.stringify({ error: describe(error) });
  }
}

function outputs(answer) {
  if (answer === undefined || answer === null) return [];
  return Array.isArray(answer) ? answer : [answer];
}

function failed(error, attempt, tookMs) {
  const told = describe(error);
  let reason = told.retriable ? "handler_error" : "non_retriable";
  if (attempt.ctx.signal.aborted) reason = "canceled";
  else if (error instanceof BadAnswer) reason = "bad_answer";
  else if (error instanceof ResultTooLarge) reason = "result_too_large";
  else if (error instanceof Failure && error.name === "NoHandler") reason = "no_handler";
  return JSON.stringify({
    outcome: "error",
    reason,
    error: told,
    durationMs: Number(tookMs.toFixed(3)),
  });
}
