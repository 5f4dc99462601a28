/** The names of @cakework/client 0.0: for programs written for it, which need change nothing but the address. */
export * as CakeworkApi from "./compat/api.js";
export { CakeworkApiClient } from "./compat/client.js";
export { CakeworkApiEnvironment } from "./compat/environments.js";
export { CakeworkApiError, CakeworkApiTimeoutError } from "./compat/errors.js";
