import { ApiError, ConnectionError, TimeoutError } from "../errors.js";

/** A call failed. `message` is the server's own sentence, `body` its problem. */
export class CakeworkApiError extends Error {
  override name = "CakeworkApiError";
  readonly statusCode?: number;
  readonly body?: unknown;

  constructor(failure: { message?: string; statusCode?: number; body?: unknown }) {
    super(failure.message);
    if (failure.statusCode !== undefined) this.statusCode = failure.statusCode;
    if (failure.body !== undefined) this.body = failure.body;
  }
}

/** A call took longer than 60 seconds. */
export class CakeworkApiTimeoutError extends Error {
  override name = "CakeworkApiTimeoutError";
  constructor() {
    super("Timeout");
  }
}

export class BadRequest extends CakeworkApiError {
  override name = "BadRequest";
}
export class UnauthorizedError extends CakeworkApiError {
  override name = "UnauthorizedError";
}
export class DoesNotExistError extends CakeworkApiError {
  override name = "DoesNotExistError";
}
export class ConflictError extends CakeworkApiError {
  override name = "ConflictError";
}
export class InternalServerError extends CakeworkApiError {
  override name = "InternalServerError";
}

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
