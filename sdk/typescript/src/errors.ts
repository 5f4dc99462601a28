/**
 * What goes wrong, as errors.
 *
 *     CakeworkError             everything this package throws by itself; `code` never changes
 *     ├─ ApiError               the server refused; a class for each code of its problems
 *     ├─ ConnectionError        the server was not reached, or went away in the middle
 *     ├─ TimeoutError           `timeout` is over
 *     ├─ BuildFailedError       what waitForBuild waited for has failed
 *     ├─ DeployFailedError      what waitForVersion waited for has failed
 *     └─ WebhookRejectedError   a webhook is not from who it should be from
 *
 * An AbortSignal's own reason is thrown as it is, as `fetch` does.
 */
import type { Build, Problem, ProblemField, Version } from "./generated/shapes.js";

/** Anything that this package throws by itself. Programs go by `code`. */
export class CakeworkError extends Error {
  override name = "CakeworkError";
  /** Kind of the error, for programs. */
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** The server refused a request. `message` is its own sentence. */
export class ApiError extends CakeworkError {
  override name = "ApiError";
  /** The HTTP status. */
  readonly status: number;
  /** Id of the request, to be named when asking about it. */
  readonly requestId: string | undefined;
  /** The fields at fault, where fields are. */
  readonly errors: readonly ProblemField[];
  /** Seconds after which the server wants to be asked again. */
  readonly retryAfter: number | undefined;

  constructor(problem: ReadProblem) {
    super(problem.code, problem.detail);
    this.status = problem.status;
    this.requestId = problem.requestId;
    this.errors = problem.errors ?? [];
    this.retryAfter = problem.retryAfter;
  }
}

/** A problem as read from an answer, whoever wrote that. */
export type ReadProblem = Pick<Problem, "status" | "code" | "detail" | "errors"> & {
  requestId: string | undefined;
  retryAfter: number | undefined;
};

/** The request is malformed or out of range: see `errors`. */
export class InvalidRequestError extends ApiError {
  override name = "InvalidRequestError";
}
/** No API key, or not a valid one. */
export class UnauthenticatedError extends ApiError {
  override name = "UnauthenticatedError";
}
/** Not there, or not yours. */
export class NotFoundError extends ApiError {
  override name = "NotFoundError";
}
/** The state does not allow it. */
export class ConflictError extends ApiError {
  override name = "ConflictError";
}
/** Nothing of the function is live yet. */
export class NoLiveVersionError extends ConflictError {
  override name = "NoLiveVersionError";
}
/** An event comes of work that comes of an event, and so on, too deep. */
export class LoopDetectedError extends ConflictError {
  override name = "LoopDetectedError";
}
/** What is live of the function has no handler for this. */
export class NoHandlerError extends ConflictError {
  override name = "NoHandlerError";
}
/** It was changed since you looked at it: look again, and send your change with its `etag`. */
export class PreconditionFailedError extends ApiError {
  override name = "PreconditionFailedError";
}
/** What came in at a webhook is not signed as it should be. */
export class SignatureInvalidError extends UnauthenticatedError {
  override name = "SignatureInvalidError";
}
/** The registry does not give the image to this user name and password. */
export class RegistryDeniedError extends InvalidRequestError {
  override name = "RegistryDeniedError";
}
/** The registry does not answer, or is where none may be reached. */
export class RegistryUnreachableError extends InvalidRequestError {
  override name = "RegistryUnreachableError";
}
/** The image is not for linux/amd64, or is no image. */
export class WrongPlatformError extends InvalidRequestError {
  override name = "WrongPlatformError";
}
/** The registry has no such image. */
export class ImageNotInRegistryError extends NotFoundError {
  override name = "ImageNotInRegistryError";
}
/** More bytes than the server takes. */
export class TooLargeError extends ApiError {
  override name = "TooLargeError";
}
/** The request did not reach the server in time. */
export class TooSlowError extends ApiError {
  override name = "TooSlowError";
}
/** More than the account may have. */
export class QuotaExceededError extends ApiError {
  override name = "QuotaExceededError";
}
/** As many invocations wait as may. */
export class QueueFullError extends QuotaExceededError {
  override name = "QueueFullError";
}
/** All instances of the function that may be are busy, and none came free in time. */
export class ConcurrencyExceededError extends QuotaExceededError {
  override name = "ConcurrencyExceededError";
}
/** Your function failed while the call waited for it. */
export class HandlerFailedError extends ApiError {
  override name = "HandlerFailedError";
}
/** Your function answered more than may be. */
export class ResultTooLargeError extends HandlerFailedError {
  override name = "ResultTooLargeError";
}
/** Your function took longer than it may while the call waited for it. */
export class HandlerTimeoutError extends ApiError {
  override name = "HandlerTimeoutError";
}
/** A part of the platform does not answer now. */
export class UnavailableError extends ApiError {
  override name = "UnavailableError";
}
/** The host has no room now. */
export class NoRoomError extends UnavailableError {
  override name = "NoRoomError";
}
/** A fault of the platform's. */
export class InternalError extends ApiError {
  override name = "InternalError";
}
/** What answered is not Cakework, or something between it and us. */
export class UnexpectedAnswerError extends ApiError {
  override name = "UnexpectedAnswerError";
}

/** The server was not reached, or went away in the middle of an answer. */
export class ConnectionError extends CakeworkError {
  override name = "ConnectionError";
  constructor(message: string, cause?: unknown) {
    super("unreachable", message, { cause });
  }
}

/** The `timeout` of a call is over. */
export class TimeoutError extends CakeworkError {
  override name = "TimeoutError";
  constructor(message: string) {
    super("timeout", message);
  }
}

/** A build that was waited for has failed: `message` says why, its log says more. */
export class BuildFailedError extends CakeworkError {
  override name = "BuildFailedError";
  readonly build: Build;

  constructor(build: Build) {
    super("build_failed", build.error ?? "The build failed.");
    this.build = build;
  }
}

/** A version that was waited for has failed: `message` says why. */
export class DeployFailedError extends CakeworkError {
  override name = "DeployFailedError";
  readonly version: Version;

  constructor(version: Version) {
    super("deploy_failed", version.error ?? "The version failed.");
    this.version = version;
  }
}

/** A webhook is not signed by the secret, or was signed too long ago. */
export class WebhookRejectedError extends CakeworkError {
  override name = "WebhookRejectedError";
  constructor(message: string) {
    super("webhook_rejected", message);
  }
}

const BY_CODE: Record<string, typeof ApiError> = {
  invalid_request: InvalidRequestError,
  registry_denied: RegistryDeniedError,
  registry_unreachable: RegistryUnreachableError,
  wrong_platform: WrongPlatformError,
  unauthenticated: UnauthenticatedError,
  not_found: NotFoundError,
  image_not_in_registry: ImageNotInRegistryError,
  conflict: ConflictError,
  no_live_version: NoLiveVersionError,
  loop_detected: LoopDetectedError,
  no_handler: NoHandlerError,
  signature_invalid: SignatureInvalidError,
  concurrency_exceeded: ConcurrencyExceededError,
  handler_failed: HandlerFailedError,
  result_too_large: ResultTooLargeError,
  timeout: HandlerTimeoutError,
  precondition_failed: PreconditionFailedError,
  too_large: TooLargeError,
  request_timeout: TooSlowError,
  quota_exceeded: QuotaExceededError,
  queue_full: QueueFullError,
  unavailable: UnavailableError,
  no_room: NoRoomError,
  internal_error: InternalError,
  unexpected_answer: UnexpectedAnswerError,
};

/** For codes that are newer than this package. */
const BY_STATUS: Record<number, typeof ApiError> = {
  400: InvalidRequestError,
  401: UnauthenticatedError,
  404: NotFoundError,
  408: TooSlowError,
  409: ConflictError,
  412: PreconditionFailedError,
  413: TooLargeError,
  429: QuotaExceededError,
  502: HandlerFailedError,
  503: UnavailableError,
  504: HandlerTimeoutError,
};

/** Returns the error that a problem is, of the class for its code. */
export function apiError(problem: ReadProblem): ApiError {
  return new (BY_CODE[problem.code] ?? BY_STATUS[problem.status] ?? ApiError)(problem);
}
