/** What handlers answer and how they fail: the same names as in cases.py. */
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { NonRetriable, RetryAfter } from "@cakework/functions";

const AT_IMPORT = process.env.KEY ?? null;
const RUNS = {};
let met = 0;

const exists = async (file) => {
  while (!fs.existsSync(file)) await sleep(5);
};

const cases = {
  nothing: () => undefined,
  nested: () => ({ text: "ü😀\u2028", list: [1, 2.5, true, null, {}] }),
  raw: () => new Uint8Array([0, 255]),
  response: () => new Response("<p>", { headers: { "content-type": "text/html" } }),
  asynchronous: async () => {
    await null;
    return "later";
  },
  told: (_, ctx) => ({
    invocationId: ctx.invocationId,
    attempt: ctx.attempt,
    maxAttempts: ctx.maxAttempts,
    deadline: ctx.deadline.toISOString().replace("Z", "+00:00"),
    functionId: ctx.functionId,
    version: ctx.version,
    userId: ctx.userId,
    traceparent: ctx.traceparent,
  }),
  large: () => "x".repeat(1024 * 1024 - 2),
  too_large: () => "x".repeat(1024 * 1024 - 1),
  too_large_bytes: () => new Uint8Array(1024 * 1024 + 1),
  not_a_number: () => ({ a: [NaN] }),
  cyclic: () => {
    const value = [];
    value.push(value);
    return value;
  },
  deep: () => {
    let value = [];
    for (let n = 0; n < 100_000; n++) value = [value];
    return value;
  },
  no_json: () => ({ f: () => 1 }),
  half_character: () => "\ud800",
  raises: () => {
    throw new TypeError("it is wrong");
  },
  raises_deeper: () => {
    try {
      cases.raises();
    } catch (cause) {
      throw new RangeError("outer", { cause });
    }
  },
  non_retriable: () => {
    throw new NonRetriable("never");
  },
  refused: () => {
    throw Object.assign(new Error("never"), { retriable: false });
  },
  retry_after: () => {
    throw new RetryAfter(7.5);
  },
  odd: () => {
    throw new Proxy(new Error("x"), {
      get() {
        throw new Error("no");
      },
    });
  },
  throws_null: () => {
    throw null;
  },
  throws_text: () => {
    throw "text";
  },
  long_message: () => {
    throw new Error("x".repeat(1_000_000));
  },
  recursion: () => cases.recursion(),
  exits_hard: () => process.exit(3),
  late: () => {
    setTimeout(() => {
      throw new Error("late");
    });
    return new Promise(() => {});
  },
  rejected: () => {
    Promise.reject(new Error("nobody looks"));
    return new Promise(() => {});
  },
  prints: async () => {
    for (;;) {
      console.log("x".repeat(1000));
      await sleep(0);
    }
  },
  never: () => new Promise(() => {}),
  given_up: async (_, ctx) => {
    await new Promise((done) => ctx.signal.addEventListener("abort", done));
    throw new Error("given up");
  },
  runs: ({ id }) => RUNS[id] ?? 0,
  waits_for_file: async ({ file }) => {
    await exists(file);
    return "seen";
  },
  meets: async ({ count }) => {
    met++;
    while (met < count) await sleep(1);
    return "met";
  },
  leaves_work: ({ gate, done }, ctx) => {
    ctx.waitUntil(exists(gate).then(() => fs.writeFileSync(done, "done")));
    return "answered";
  },
  leaves_what_fails: (_, ctx) => {
    ctx.waitUntil(Promise.reject(new TypeError("too late")));
  },
  secrets: (_, ctx) => [AT_IMPORT, process.env.KEY ?? null, ctx.secrets],
  prints_a_line: () => console.log("a plain line"),
  logs: (_, ctx) => ctx.log.info("a line of %s", "log"),
};

export default {
  event(event, ctx) {
    RUNS[ctx.invocationId] = (RUNS[ctx.invocationId] ?? 0) + 1;
    return cases[event.case](event, ctx);
  },
  fetch: (_request, env) => new Response(env.KEY ?? "none"),
};
