/** Errors of a function's code, as the server gets to know them. */
import { fileURLToPath } from "node:url";
import { BadAnswer, ResultTooLarge } from "../functions/results.mjs";

const MESSAGE_MAX = 4096;
const STACK_MAX = 16_384;
const CAUSES_MAX = 5;
/** Frames of files in here are the adapter's, not the function's. */
const OURS = fileURLToPath(new URL("..", import.meta.url));

/** What the adapter itself finds wrong, without frames. */
export class Failure extends Error {
  constructor(type, message, retriable = false, retryAfter = undefined) {
    super(message);
    this.name = type;
    this.retriable = retriable;
    if (retryAfter !== undefined) this.retryAfter = retryAfter;
  }
}

/** Returns `{type, message, stack?, retriable, retryAfter?}`, each bounded. */
export function describe(error) {
  const told = {
    type: typeOf(error),
    message: bounded(messageOf(error), MESSAGE_MAX),
    retriable: attribute(error, "retriable") !== false,
  };
  const stack = isOwn(error) ? "" : stackOf(error);
  if (stack) told.stack = bounded(stack, STACK_MAX);
  const after = attribute(error, "retryAfter");
  if (typeof after === "number" && after >= 0) told.retryAfter = Math.min(after, 1e9);
  return told;
}

/** Tells whether an error is what the adapter finds wrong: it has no frames of the function's. */
export function isOwn(error) {
  return error instanceof Failure || error instanceof BadAnswer || error instanceof ResultTooLarge;
}

/** Prints an error among the function's own lines. */
export function show(error) {
  const told = describe(error);
  try {
    process.stderr.write(`${told.stack ?? `${told.type}: ${told.message}`}\n`);
  } catch {
    // The function has closed or replaced it.
  }
}

/** Returns `text` with something left out of its middle, and without what is no UTF-8. */
export function bounded(text, most) {
  const cut =
    text.length > most ? `${text.slice(0, most / 4)}\n…\n${text.slice(-most * 0.75)}` : text;
  return cut.toWellFormed();
}

function typeOf(error) {
  const name = attribute(error, "name");
  return typeof name === "string" && name && isObject(error) ? bounded(name, 200) : "Thrown";
}

function messageOf(error) {
  try {
    const message = isObject(error) ? error.message : error;
    return typeof message === "string" ? message : String(message ?? error);
  } catch {
    return "(its message cannot be made)";
  }
}

function attribute(error, name) {
  try {
    return isObject(error) ? error[name] : undefined;
  } catch {
    return undefined;
  }
}

function isObject(value) {
  return (typeof value === "object" && value !== null) || typeof value === "function";
}

function stackOf(error, depth = 0) {
  const stack = attribute(error, "stack");
  if (typeof stack !== "string") return "";
  const lines = stack.split("\n").filter((line) => !isOurs(line));
  const cause = depth < CAUSES_MAX ? attribute(error, "cause") : undefined;
  if (cause !== undefined && cause !== null) {
    const told = stackOf(cause, depth + 1) || `${typeOf(cause)}: ${messageOf(cause)}`;
    lines.push(`Caused by: ${told}`);
  }
  return lines.join("\n");
}

function isOurs(line) {
  return /^\s+at /.test(line) && (line.includes(OURS) || line.includes("node:internal/"));
}
