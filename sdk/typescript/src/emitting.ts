/** Emits one event. */
import type { EmitEventsQuery, EmittedEvent } from "./generated/shapes.js";
import { checkNames } from "./known.js";
import { CHANGE_OPTIONS, type ChangeOptions, type Transport } from "./transport.js";

/** An event as CloudEvents 1.0 has it: what it lacks is filled in, and it may have attributes of your own. */
export interface CloudEvent {
  /** What happened, such as `order.paid`. */
  type: string;
  /** Your own id for it; with `source`, sent again within 24 hours it is done once. */
  id?: string | undefined;
  /** Where it comes from. */
  source?: string | undefined;
  /** What it happened to, such as `order-17`. */
  subject?: string | undefined;
  /** When it happened: ISO 8601; now if absent. */
  time?: string | undefined;
  /** What there is to know of it. */
  data?: unknown;
  [attribute: string]: unknown;
}

/** What is said of an event besides its type and data, and how it is sent. */
export interface EmitOptions
  extends Pick<CloudEvent, "id" | "source" | "subject">,
    EmitEventsQuery,
    ChangeOptions {
  /** When it happened: ISO 8601, or a Date; now if absent. */
  time?: string | Date | undefined;
}

/** Emits an event, and returns what became of it. */
export async function emit(
  transport: Transport,
  type: string,
  data: unknown,
  options: EmitOptions,
): Promise<EmittedEvent> {
  checkNames("emit", options, ["id", "source", "subject", "time", "userId", ...CHANGE_OPTIONS]);
  const { id, source, subject, time, userId, ...rest } = options;
  const at = time instanceof Date ? time.toISOString() : time;
  const events = [{ type, id, source, subject, time: at, data }];
  const answer = await transport.call("emitEvents", { query: { userId }, body: { events } }, rest);
  return answer.events[0] as EmittedEvent;
}
