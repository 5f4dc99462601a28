/** How a handler says what is to become of the work that it could not do. */

/** The work fails for good. Any error whose `retriable` is false means the same. */
export class NonRetriable extends Error {
  name = "NonRetriable";
  retriable = false;
}

/** The work is tried again, in so many seconds at the earliest. Any error with `retryAfter` means the same. */
export class RetryAfter extends Error {
  name = "RetryAfter";

  constructor(seconds, message = `to be tried again in ${seconds} s`, options = undefined) {
    super(message, options);
    this.retryAfter = seconds;
  }
}
