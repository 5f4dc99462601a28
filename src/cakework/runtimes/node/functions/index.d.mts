/** A CloudEvent, as a plain object. It may have extensions beside these. */
export interface Event<Data = unknown> {
  id: string;
  type: string;
  source: string;
  specversion: string;
  time?: string;
  subject?: string;
  datacontenttype?: string;
  data?: Data;
  data_base64?: string;
  [extension: string]: unknown;
}

/** What `ctx.log` prints, each a line with its level in front. */
export interface Log {
  debug(...values: unknown[]): void;
  info(...values: unknown[]): void;
  warn(...values: unknown[]): void;
  error(...values: unknown[]): void;
}

/** Secrets that the function names, and the environment. */
export type Env = Readonly<Record<string, string | undefined>>;

/** One attempt at one invocation. */
export interface Context {
  readonly invocationId: string;
  readonly attempt: number;
  readonly maxAttempts: number;
  readonly deadline?: Date;
  readonly functionId?: string;
  readonly version?: number;
  readonly userId?: string;
  readonly traceparent?: string;
  /** Those that the function names. */
  readonly secrets: Readonly<Record<string, string>>;
  readonly log: Log;
  /** Aborted when the work is given up: canceled, or its caller has gone. */
  readonly signal: AbortSignal;
  /** Lets work go on after the answer, for 30 s at most; until it ends this VM stays. */
  waitUntil(work: Promise<unknown>): void;
}

/** What may become a result: JSON, bytes, or a response whose body it is. */
export type Result = unknown;

/** What a module may export as its default. */
export interface Handlers<Data = unknown, Record = unknown> {
  fetch?(request: Request, env: Env, ctx: Context): Response | Promise<Response>;
  event?(event: Event<Data>, ctx: Context): Result;
  scheduled?(event: Event<Data>, ctx: Context): Result;
  failed?(event: Event, ctx: Context): Result;
  /** Returns the record that comes out, several in an array, or nothing to drop it. */
  transform?(record: Record, ctx: Context): unknown;
  transformBatch?(records: Record[], ctx: Context): unknown;
  beforeSnapshot?(): unknown;
  afterResume?(): unknown;
}

/** The work fails for good. Any error whose `retriable` is false means the same. */
export declare class NonRetriable extends Error {
  readonly retriable: false;
}

/** The work is tried again, in so many seconds at the earliest. */
export declare class RetryAfter extends Error {
  readonly retryAfter: number;
  constructor(seconds: number, message?: string, options?: ErrorOptions);
}
