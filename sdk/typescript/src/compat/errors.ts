import { ApiError, ConnectionError, TimeoutError } from "../errors.js";

/** A call failed. `message` is the server's own sentence, `body` its problem. */
export class CakeworkApiError extends Error {
  readonly statusCode?: number;
  readonly body?: unknown;

  constructor(failure: { message?: string; statusCode?: number; body?: unknown }) {
    super(failure.message);
    this.name = new.target.name;
    if (failure.statusCode !== undefined) this.statusCode = failure.statusCode;
    if (failure.body !== undefined) this.body = failure.body;
  }
}

/** A call took longer than 60 seconds. */
export class CakeworkApiTimeoutError extends Error {
  constructor() {
    super("Timeout");
    this.name = new.target.name;
  }
}

export class BadRequest extends CakeworkApiError {}
export class UnauthorizedError extends CakeworkApiError {}
export class DoesNotExistError extends CakeworkApiError {}
export class ConflictError extends CakeworkApiError {}
export class InternalServerError extends CakeworkApiError {}

const CLASSES: Record<number, typeof CakeworkApiError> = {
  400: BadRequest,
  401: UnauthorizedError,
  404: DoesNotExistError,
  409: ConflictError,
  500: InternalServerError,
};

/** Returns an error of this package as the error of then. */
export function errorOfThen(error: unknown): unknown {
  if (error instanceof TimeoutError) return new CakeworkApiTimeoutError();
  if (error instanceof ConnectionError) return new CakeworkApiError({ message: error.message });
  if (!(error instanceof ApiError)) return error;
  const { message, status, code, requestId, errors } = error;
  const body = { status, code, detail: message, requestId, errors };
  return new (CLASSES[status] ?? CakeworkApiError)({ message, statusCode: status, body });
}
