import { readAnswer, readError } from "./answers.js";
import { ConnectionError } from "./errors.js";
import { fields, type Operations, routes } from "./generated/calls.js";
import { checkNames } from "./known.js";
import { checkedTimeout, Limit } from "./limit.js";
import { retryAfterMs } from "./retries.js";
import { environment, userAgent } from "./runtime.js";

const URL_DEFAULT = "http://127.0.0.1:8081";
const TIMEOUT_MS_DEFAULT = 60_000;
const RETRIES_DEFAULT = 3;

/** How a client speaks with its server. */
export interface ClientOptions {
  /** Address of the server; `CAKEWORK_URL` if absent, and else this machine at port 8081. */
  url?: string | URL | undefined;
  /** The API key, or what gives one for each request; `CAKEWORK_API_KEY` if absent. */
  apiKey?: string | (() => string | Promise<string>) | undefined;
  /**
   * Milliseconds within which a call must be done, with all its tries and the pauses between them. 60,000 if
   * absent; followLogs and waitForBuild take as long as they take, unless they are given one.
   */
  timeout?: number | undefined;
  /** How often a call is tried again where that is safe; 3 if absent. */
  retries?: number | undefined;
  /** What makes requests; the runtime's own `fetch` if absent. */
  fetch?: typeof fetch | undefined;
}

/** What one call does in another way than its client. */
export interface CallOptions {
  /** As for the client, for this call. */
  timeout?: number | undefined;
  /** As for the client, for this call. */
  retries?: number | undefined;
  /** Stops the call: it throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

export const CALL_OPTIONS = [
  "timeout",
  "retries",
  "signal",
] as const satisfies (keyof CallOptions)[];

/** What a call that changes something does in another way than its client. */
export interface ChangeOptions extends CallOptions {
  /**
   * The same key with the same request does its work once and is answered alike for 24 hours. If absent,
   * each call has one of its own, by which it may be repeated.
   */
  idempotencyKey?: string | undefined;
}

export const CHANGE_OPTIONS = [
  ...CALL_OPTIONS,
  "idempotencyKey",
] as const satisfies (keyof ChangeOptions)[];
const CLIENT_OPTIONS = [
  "url",
  "apiKey",
  "timeout",
  "retries",
  "fetch",
] as const satisfies (keyof ClientOptions)[];

type Name = keyof Operations;
/** Calls whose body is the caller's own, of any names, and which must not be done twice. */
const RECORDS: ReadonlySet<Name> = new Set(["applyTransform"]);
/** What a call is given. */
type Input<N extends Name> = Omit<Operations[N], "answer"> & More;

interface More {
  /** Headers of this call's own. */
  headers?: Record<string, string>;
  /** What is sent as a form with the body's fields, in the place of JSON. */
  archive?: Uint8Array | undefined;
}

interface Given extends More {
  path?: Record<string, string>;
  query?: object;
  body?: unknown;
}

/** A request, ready to be sent as often as need be. */
interface Prepared {
  url: string;
  method: string;
  headers: Record<string, string>;
  body: string | FormData | null;
  /** Whether its work is done once, however often it is sent. */
  repeatable: boolean;
}

/** Sends requests to one server with one key. */
export class Transport {
  readonly url: string;
  readonly timeoutMs: number;
  readonly #retries: number;
  readonly #apiKey: () => string | Promise<string>;
  readonly #fetch: typeof fetch;

  constructor(options: ClientOptions) {
    checkNames("CakeworkClient", options, CLIENT_OPTIONS);
    this.url = checkedUrl(options.url ?? environment("CAKEWORK_URL") ?? URL_DEFAULT);
    this.#apiKey = keySource(options.apiKey ?? environment("CAKEWORK_API_KEY"));
    this.timeoutMs = checkedTimeout(options.timeout ?? TIMEOUT_MS_DEFAULT);
    this.#retries = options.retries ?? RETRIES_DEFAULT;
    // Called later, it would take the transport for its window.
    this.#fetch = options.fetch ?? ((...request) => globalThis.fetch(...request));
  }

  /** Makes a call and returns what it answers. */
  async call<N extends Name>(
    name: N,
    input: Input<N>,
    options: ChangeOptions = {},
  ): Promise<Operations[N]["answer"]> {
    return (await this.read(name, input, options, readAnswer)) as Operations[N]["answer"];
  }

  /** Makes a call and returns what is read of its answer. */
  async read<N extends Name, T>(
    name: N,
    input: Input<N>,
    options: ChangeOptions,
    answer: (response: Response) => Promise<T>,
  ): Promise<T> {
    checkNames(name, options, routes[name].startsWith("GET") ? CALL_OPTIONS : CHANGE_OPTIONS);
    const request = this.#prepare(name, input, options.idempotencyKey);
    const limit = new Limit(options.timeout ?? this.timeoutMs, options.signal);
    limit.start();
    try {
      return await this.#persist(request, limit, options.retries, async () =>
        answer(await this.#send(request, limit)),
      );
    } finally {
      limit.end();
    }
  }

  /** Opens a stream of server-sent events, after the event `lastId` if it is given. */
  async open<N extends Name>(
    name: N,
    input: Input<N>,
    lastId: number | undefined,
    limit: Limit,
  ): Promise<ReadableStream<Uint8Array>> {
    const request = this.#prepare(name, input);
    request.headers["Accept"] = "text/event-stream";
    if (lastId !== undefined) request.headers["Last-Event-ID"] = String(lastId);
    const response = await this.#persist(request, limit, undefined, async () => {
      const answer = await this.#send(request, limit);
      if (!answer.ok) throw await readError(answer);
      return answer;
    });
    return response.body ?? new ReadableStream({ start: (controller) => controller.close() });
  }

  #prepare(name: Name, given: Given, idempotencyKey?: string): Prepared {
    const [method = "", template = ""] = routes[name].split(" ");
    const known = fields[name].split(" ");
    const named = RECORDS.has(name) ? {} : (given.body as object | undefined);
    checkNames(name, { ...given.query, ...named }, known);
    const headers: Record<string, string> = {
      Accept: "application/json",
      ...userAgent(),
      ...given.headers,
    };
    const form = given.archive && formOf(given.archive, given.body as object);
    if (given.body !== undefined && !form) headers["Content-Type"] = "application/json";
    if (method === "POST") headers["Idempotency-Key"] = checkedOnce(idempotencyKey ?? randomKey());
    return {
      url: this.url + filled(template, given.path ?? {}) + asked(given.query ?? {}),
      method,
      headers,
      body: form ?? (given.body === undefined ? null : JSON.stringify(given.body)),
      repeatable: (method === "GET" || method === "POST") && !RECORDS.has(name),
    };
  }

  async #persist<T>(
    request: Prepared,
    limit: Limit,
    retries: number | undefined,
    attempt: () => Promise<T>,
  ): Promise<T> {
    for (let failures = 0; ; failures++) {
      try {
        return await attempt();
      } catch (error) {
        limit.signal.throwIfAborted();
        const waitMs = retryAfterMs(error, failures, request.repeatable);
        const more = failures < (retries ?? this.#retries);
        if (waitMs === undefined || !more || waitMs >= limit.leftMs) throw error;
        await limit.sleep(waitMs);
      }
    }
  }

  async #send(request: Prepared, limit: Limit): Promise<Response> {
    const headers = { ...request.headers, "X-Api-Key": checkedKey(await this.#apiKey()) };
    // A redirect could take the key to another host.
    const init = {
      method: request.method,
      headers,
      body: request.body,
      redirect: "error",
    } as const;
    try {
      return await this.#fetch(request.url, { ...init, signal: limit.signal });
    } catch (error) {
      throw new ConnectionError(`Cannot reach Cakework at ${this.url}: ${told(error)}`, error);
    }
  }
}

function checkedUrl(url: string | URL): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (!parsed || !/^https?:$/.test(parsed.protocol)) {
    throw new TypeError(`url must be an http or https address, not ${JSON.stringify(String(url))}`);
  }
  return (parsed.origin + parsed.pathname).replace(/\/+$/, "");
}

function keySource(key: ClientOptions["apiKey"]): () => string | Promise<string> {
  if (typeof key === "function") return key;
  const checked = checkedKey(key ?? "");
  return () => checked;
}

/** A key that is no header would be in the words of the error that says so. */
function checkedKey(key: string): string {
  const trimmed = key.trim();
  if (!trimmed) throw new TypeError("No API key: give apiKey, or set CAKEWORK_API_KEY.");
  if (!/^[\x21-\x7e]+$/.test(trimmed)) {
    throw new TypeError("The API key has characters that no key has.");
  }
  return trimmed;
}

function filled(template: string, path: Record<string, string>): string {
  return template.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = path[name];
    // Encoded or not, URLs take dots for folders.
    if (!value || value === "." || value === "..") {
      throw new TypeError(`${name} must be the id of something, not ${JSON.stringify(value)}`);
    }
    return encodeURIComponent(value);
  });
}

function formOf(archive: Uint8Array, fields: object): FormData {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined && value !== null) form.set(name, String(value));
  }
  const bytes = new Uint8Array(archive);
  form.set("archive", new Blob([bytes], { type: "application/gzip" }), "archive.tar.gz");
  return form;
}

function asked(query: object): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined || value === null) continue;
    parameters.set(name, String(value));
  }
  return parameters.size > 0 ? `?${parameters}` : "";
}

/** The reason is in the cause, and in the first of several where there were several addresses. */
function told(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const first = cause instanceof AggregateError ? cause.errors[0] : cause;
  return first instanceof Error ? first.message : String(first);
}

function checkedOnce(key: string): string {
  if (/^[\x20-\x7e]{1,255}$/.test(key)) return key;
  throw new TypeError("idempotencyKey must be 1 to 255 printable ASCII characters");
}

/** `crypto.randomUUID` is only there on pages from https. */
function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
