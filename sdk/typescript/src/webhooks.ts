/** Webhooks after Standard Webhooks 1.0: who receives one can tell that Cakework sent it. */
import { WebhookRejectedError } from "./errors.js";
import type { Build, EventType, Invocation, Trigger, Version, Vm } from "./generated/shapes.js";
import { checkNames } from "./known.js";

const SECRET_PREFIX = "whsec_";
const TOLERANCE_S_DEFAULT = 300;
/** Of the standard: how a signature by a shared secret begins. */
const VERSION = "v1";

/** What a webhook tells. `data` is as the call that gets such a thing showed it when it happened. */
export type WebhookEvent =
  | BuildEvent
  | VmEvent
  | FunctionEvent
  | InvocationEvent
  | TriggerEvent
  | { type: "webhook.test"; timestamp: string; data: Record<string, unknown> };

/** A build has ended. */
export interface BuildEvent {
  type: Extract<EventType, `build.${string}`>;
  timestamp: string;
  data: Build;
}

/** A VM has come into another state. */
export interface VmEvent {
  type: Extract<EventType, `vm.${string}`>;
  timestamp: string;
  data: Vm;
}

/** A version of a function is ready, or has failed. */
export interface FunctionEvent {
  type: Extract<EventType, `function.${string}`>;
  timestamp: string;
  data: Version;
}

/** An invocation has succeeded, or failed for good. `data` has neither its event nor its result. */
export interface InvocationEvent {
  type: Extract<EventType, `invocation.${string}`>;
  timestamp: string;
  data: Invocation;
}

/** A trigger has paused by itself. */
export interface TriggerEvent {
  type: Extract<EventType, `trigger.${string}`>;
  timestamp: string;
  data: Trigger;
}

/** Headers, as a server has them. */
export type WebhookHeaders = Headers | Record<string, string | string[] | undefined>;

/** How a webhook is verified. */
export interface VerifyOptions {
  /** How many seconds the clocks may differ, the way included; 300 if absent. */
  toleranceSeconds?: number | undefined;
}

/**
 * Verifies a webhook and returns its event.
 *
 * `body` must be the bytes as they came, not JSON that was read and written again. `secret` is the one that
 * createWebhook showed, or several while one takes the place of another. Throws a WebhookRejectedError.
 * The same event may come twice: go by the header `webhook-id`.
 */
export async function verifyWebhook(
  body: string | Uint8Array,
  headers: WebhookHeaders,
  secret: string | readonly string[],
  options: VerifyOptions = {},
): Promise<WebhookEvent> {
  checkNames("verifyWebhook", options, ["toleranceSeconds"]);
  const id = header(headers, "webhook-id");
  const timestamp = header(headers, "webhook-timestamp");
  checkTime(timestamp, options.toleranceSeconds ?? TOLERANCE_S_DEFAULT);
  const content = signedContent(id, timestamp, body);
  const signatures = readSignatures(header(headers, "webhook-signature"));
  for (const each of typeof secret === "string" ? [secret] : secret) {
    const key = await importSecret(each);
    for (const signature of signatures) {
      // Compares in constant time.
      if (await crypto.subtle.verify("HMAC", key, signature, content)) return readEvent(body);
    }
  }
  throw new WebhookRejectedError("The webhook is not signed by this secret.");
}

function header(headers: WebhookHeaders, name: string): string {
  const value =
    headers instanceof Headers
      ? headers.get(name)
      : Object.entries(headers).find(([key]) => key.toLowerCase() === name)?.[1];
  if (typeof value === "string" && value) return value;
  throw new WebhookRejectedError(`The webhook has no header ${name}, or several.`);
}

function checkTime(timestamp: string, toleranceSeconds: number): void {
  const differs = Math.abs(Date.now() / 1000 - Number(timestamp));
  if (!/^\d+$/.test(timestamp) || !(differs <= toleranceSeconds)) {
    throw new WebhookRejectedError("The webhook was not signed just now; is the clock right?");
  }
}

function signedContent(
  id: string,
  timestamp: string,
  body: string | Uint8Array,
): Uint8Array<ArrayBuffer> {
  const encoder = new TextEncoder();
  const head = encoder.encode(`${id}.${timestamp}.`);
  const bytes = typeof body === "string" ? encoder.encode(body) : body;
  const content = new Uint8Array(head.length + bytes.length);
  content.set(head);
  content.set(bytes, head.length);
  return content;
}

function readSignatures(value: string): Uint8Array<ArrayBuffer>[] {
  return value
    .split(" ")
    .map((each) => each.split(","))
    .filter(([version]) => version === VERSION)
    .flatMap(([, signature = ""]) => fromBase64(signature) ?? []);
}

async function importSecret(secret: string): Promise<CryptoKey> {
  const bytes = fromBase64(secret.replace(SECRET_PREFIX, ""));
  if (!bytes?.length) throw new TypeError("secret must be whsec_ and base64");
  const hmac = { name: "HMAC", hash: "SHA-256" };
  return await crypto.subtle.importKey("raw", bytes, hmac, false, ["verify"]);
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return undefined;
  }
}

function readEvent(body: string | Uint8Array): WebhookEvent {
  return JSON.parse(typeof body === "string" ? body : new TextDecoder().decode(body));
}
