/** Importing a function's module, and finding what it handles. */
import fs from "node:fs";
import { registerHooks } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Failure } from "./failure.mjs";

const NAMES = {
  event: ["event", "handler"],
  scheduled: ["scheduled"],
  failed: ["failed"],
  transform: ["transform"],
  transformBatch: ["transformBatch"],
  beforeSnapshot: ["beforeSnapshot"],
  afterResume: ["afterResume"],
};
export const HOOKS = ["beforeSnapshot", "afterResume"];
export const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const OWN = "@cakework/functions";
const OWN_FILES = {
  [OWN]: "../functions/index.mjs",
  [`${OWN}/testing`]: "../functions/testing.mjs",
};

/**
 * What a module handles: `functions` by kind; `http` of `(request, env, ctx)`, or of the old form with `rest`.
 */
export class Handlers {
  functions = {};
  http = undefined;
  rest = false;

  /** What can be triggered. */
  get names() {
    const found = Object.keys(this.functions).filter((name) => !HOOKS.includes(name));
    return this.http ? ["http", ...found] : found;
  }

  /** The hooks around the snapshot that there are. */
  get hooks() {
    return HOOKS.filter((name) => name in this.functions);
  }
}

/** Has `@cakework/functions` found where the function does not bring it itself. */
export function bringOwnPackage() {
  registerHooks({
    resolve(specifier, context, next) {
      if (!(specifier in OWN_FILES)) return next(specifier, context);
      try {
        return next(specifier, context);
      } catch {
        return { url: new URL(OWN_FILES[specifier], import.meta.url).href, shortCircuit: true };
      }
    },
  });
}

/** Imports `entry` (`main.ts`, `src/main.mjs`, `main.js:name`) of `folder`; rejects with what it throws. */
export async function load(folder, entry, rest) {
  const [file, name = ""] = entry.split(":");
  const whole = path.resolve(folder, file);
  if (!fs.statSync(whole, { throwIfNoEntry: false })?.isFile()) {
    throw new Failure("NoEntry", `there is no file ${file}`);
  }
  const module = await import(pathToFileURL(whole).href);
  const chosen = name ? (module[name] ?? unwrapped(module.default)?.[name]) : undefined;
  if (name && !chosen) throw new Failure("NoHandler", `${file} has no ${name}`);
  const handlers = found(module, chosen, rest);
  if (handlers.names.length === 0) {
    throw new Failure(
      "NoHandler",
      `${file} handles nothing: it has no default, handler, event or other`,
    );
  }
  return handlers;
}

/** What TypeScript and others make of `export default` in CommonJS lies one deeper. */
function unwrapped(value) {
  return value?.__esModule && value.default ? value.default : value;
}

function found(module, chosen, rest) {
  const handlers = new Handlers();
  const main = typeof chosen === "object" ? chosen : unwrapped(module.default);
  for (const [kind, names] of Object.entries(NAMES)) {
    for (const name of names) {
      handlers.functions[kind] ??= method(main, name) ?? method(module, name);
    }
    if (!handlers.functions[kind]) delete handlers.functions[kind];
  }
  if (rest) {
    handlers.http = callable(chosen) ?? handlers.functions.event ?? callable(main);
    handlers.rest = true;
    delete handlers.functions.event;
  } else {
    if (callable(chosen)) handlers.functions.event = chosen;
    handlers.http = method(main, "fetch") ?? callable(main) ?? byMethod(module, main);
  }
  return handlers;
}

function method(target, name) {
  const value = target === null || typeof target !== "object" ? undefined : target[name];
  return callable(value) && ((...given) => value.apply(target, given));
}

function callable(value) {
  return typeof value === "function" ? value : undefined;
}

function byMethod(module, main) {
  const known = METHODS.filter((name) => method(module, name) ?? method(main, name));
  if (known.length === 0) return undefined;
  return (request, env, ctx) => {
    const name = request.method === "HEAD" && !known.includes("HEAD") ? "GET" : request.method;
    if (!known.includes(name))
      return new Response(null, { status: 405, headers: { allow: known.join(", ") } });
    return (method(module, name) ?? method(main, name))(request, env, ctx);
  };
}
