/** The client of Cakework. */
export { CakeworkClient } from "./client.js";
export type { CloudEvent, EmitOptions } from "./emitting.js";
export {
  ApiError,
  BuildFailedError,
  CakeworkError,
  ConcurrencyExceededError,
  ConflictError,
  ConnectionError,
  DeployFailedError,
  HandlerFailedError,
  HandlerTimeoutError,
  ImageNotInRegistryError,
  InternalError,
  InvalidRequestError,
  LoopDetectedError,
  NoHandlerError,
  NoLiveVersionError,
  NoRoomError,
  NotFoundError,
  PreconditionFailedError,
  QueueFullError,
  QuotaExceededError,
  RegistryDeniedError,
  RegistryUnreachableError,
  ResultTooLargeError,
  SignatureInvalidError,
  TimeoutError,
  TooLargeError,
  TooSlowError,
  UnauthenticatedError,
  UnavailableError,
  UnexpectedAnswerError,
  WebhookRejectedError,
  WrongPlatformError,
} from "./errors.js";
export type { FollowOptions, LogSource } from "./follow.js";
export { version } from "./generated/calls.js";
export type * from "./generated/shapes.js";
export type {
  FollowInvocationsOptions,
  InvocationResult,
  InvokeManyOptions,
  InvokeOptions,
  WaitForOptions,
} from "./invoking.js";
export type { AllLogsQuery, LogQuery } from "./logs.js";
export type { CallOptions, ChangeOptions, ClientOptions } from "./transport.js";
export type { WaitOptions } from "./waiting.js";
export {
  type BuildEvent,
  type FunctionEvent,
  type InvocationEvent,
  type TriggerEvent,
  type VerifyOptions,
  type VmEvent,
  verifyWebhook,
  type WebhookEvent,
  type WebhookHeaders,
} from "./webhooks.js";
