/** The adapter of functions in Node: `node main.mjs --entry main.ts`. Loads the function, then serves its two ports. */
import { once } from "node:events";
import fs from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { controlServer } from "./control.mjs";
import { show } from "./failure.mjs";
import { bringOwnPackage, Handlers, load } from "./handlers.mjs";
import { Invocations } from "./invocations.mjs";
import { install } from "./random.mjs";
import { visitorsServer } from "./visitors.mjs";

const BACKLOG = 512;
const EXIT_UNCAUGHT = 1;
/** For telling who waits of an error that ends the process. */
const LAST_WORDS_MS = 2000;
const { values: options } = parseArgs({
  options: {
    entry: { type: "string" },
    folder: { type: "string", default: "." },
    port: { type: "string", default: "8080" },
    host: { type: "string", default: "0.0.0.0" },
    "control-port": { type: "string", default: "8079" },
    "control-host": { type: "string", default: "127.0.0.1" },
    concurrency: { type: "string", default: "1" },
    signature: { type: "string", default: "" },
  },
});

install();
bringOwnPackage();
let uncaught = () => {};
process.on("uncaughtException", (error) => uncaught(error));

/** What is served: nothing at first, then the function; `state` is empty, ready or failed. */
const program = {
  state: "empty",
  handlers: new Handlers(),
  failed: undefined,
  invocations: new Invocations(new Handlers(), 1),
  visitors: undefined,
  /** Imports `entry` of `folder`, and serves it from then on. */
  async load({ folder, entry, signature, concurrency }) {
    const imported = Promise.withResolvers();
    uncaught = (error) => imported.reject(error);
    load(folder, entry, signature === "rest").then(imported.resolve, imported.reject);
    try {
      program.handlers = await imported.promise;
    } catch (error) {
      // What is thrown may be nothing.
      program.failed = error ?? new Error(`thrown: ${error}`);
      show(program.failed);
    }
    const { secrets } = program.invocations;
    program.invocations = new Invocations(program.handlers, concurrency, secrets);
    uncaught = endWith(program.invocations);
    program.state = program.failed ? "failed" : "ready";
  },
  /** Writes the files of an order into the function's folder, and loads it. */
  async take({ files, entry, signature, concurrency, env }) {
    const folder = path.resolve(options.folder);
    for (const file of files) {
      const whole = path.resolve(folder, file.path);
      if (!whole.startsWith(folder + path.sep))
        throw new RangeError(`${file.path} leads out of the function's folder`);
      fs.mkdirSync(path.dirname(whole), { recursive: true });
      fs.writeFileSync(whole, Buffer.from(file.content, "base64"));
    }
    Object.assign(process.env, env);
    process.chdir(folder);
    await program.load({ folder, entry, signature, concurrency });
  },
};

function endWith(invocations) {
  return async (error) => {
    uncaught = () => {};
    show(error);
    setTimeout(() => process.exit(EXIT_UNCAUGHT), LAST_WORDS_MS);
    await invocations.fail(error);
    process.exit(EXIT_UNCAUGHT);
  };
}

const loading = Promise.withResolvers();
const control = controlServer(loading.promise);
control.listen(Number(options["control-port"]), options["control-host"], BACKLOG);
await once(control, "listening");
if (options.entry !== undefined) {
  const { folder, entry, signature } = options;
  await program.load({ folder, entry, signature, concurrency: Number(options.concurrency) });
}
program.visitors = visitorsServer(program);
// Last: that somebody listens on it says that the function is ready.
program.visitors.listen(Number(options.port), options.host, BACKLOG);
await once(program.visitors, "listening");
loading.resolve(program);
