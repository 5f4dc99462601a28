import type { Context, Env, Event, Handlers } from "./index.mjs";

/** Returns an event with `data`. */
export declare function makeEvent<Data = null>(
  data?: Data,
  attributes?: Partial<Event>,
): Event<Data>;

/**
 * Returns what `handler` answers to `event`, once what it left to `waitUntil` is done.
 *
 * Rejects with what the handler throws, and with an error when the answer can be no result.
 */
export declare function call<Given, Answer>(
  handler: (event: Given, ctx: Context) => Answer,
  event?: Given,
  context?: Partial<Context>,
): Promise<Awaited<Answer>>;

/** Returns what `fetch`, of an object or by itself, answers to `request`. */
export declare function fetch(
  handler:
    | Pick<Handlers, "fetch">
    | ((request: Request, env: Env, ctx: Context) => Response | Promise<Response>),
  request: Request | string,
  env?: Env,
  context?: Partial<Context>,
): Promise<Response>;
