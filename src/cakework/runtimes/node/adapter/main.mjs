/** The adapter of functions in Node: `node main.mjs --entry main.ts`. Loads the function, then serves its two ports. */
import { once } from "node:events";
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
    concurrency: { type: "string", default: "1" },
    signature: { type: "string", default: "" },
  },
});

install();
bringOwnPackage();
const loading = Promise.withResolvers();
const imported = Promise.withResolvers();
let uncaught = (error) => imported.reject(error);
process.on("uncaughtException", (error) => uncaught(error));
const control = controlServer(loading.promise);
control.listen(Number(options["control-port"]), "127.0.0.1", BACKLOG);
await once(control, "listening");

let handlers = new Handlers();
let failed;
load(options.folder, options.entry, options.signature === "rest").then(
  imported.resolve,
  imported.reject,
);
try {
  handlers = await imported.promise;
} catch (error) {
  // What is thrown may be nothing.
  failed = error ?? new Error(`thrown: ${error}`);
  show(failed);
}
const invocations = new Invocations(handlers, Number(options.concurrency));
uncaught = async (error) => {
  uncaught = () => {};
  show(error);
  setTimeout(() => process.exit(EXIT_UNCAUGHT), LAST_WORDS_MS);
  await invocations.fail(error);
  process.exit(EXIT_UNCAUGHT);
};
const visitors = visitorsServer(handlers, failed, invocations);
// Last: that somebody listens on it says that the function is ready.
visitors.listen(Number(options.port), options.host, BACKLOG);
await once(visitors, "listening");
loading.resolve({ handlers, failed, invocations, visitors });
