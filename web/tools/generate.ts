/** Writes the pages that are made from the project's own files, so that they cannot disagree with them. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { fromDocument } from "./documents.ts";
import { restReference } from "./reference.ts";
import { typescriptReference } from "./typescript.ts";

const web = join(dirname(fileURLToPath(import.meta.url)), "..");
const project = join(web, "..");
const pages = join(web, "src/content/docs/docs");

/** Documents of the project that are pages as they stand: file, page, title, description. */
const DOCUMENTS = [
  ["docs/base-images.md", "reference/base-images", "Base images", "Images to build on."],
  ["docs/functions.md", "functions/index", "Functions", "Code in, answers out: from nothing to the first answer."],
  ["docs/handlers.md", "functions/handlers", "Handlers", "What the code of a function looks like."],
  ["docs/invocations.md", "functions/invocations", "Invocations and retries", "What becomes of work."],
  ["docs/function-urls.md", "functions/urls", "URLs of functions", "Requests to a function's own URL."],
  ["docs/secrets.md", "functions/secrets", "Secrets", "What functions are given and nobody else sees."],
  ["docs/triggers.md", "automations/index", "Triggers", "What makes invocations of a function."],
  ["docs/schedules.md", "automations/schedules", "Schedules", "Every morning, every minute, once."],
  ["docs/events.md", "automations/events", "Events", "Emit an event, and what wants it runs."],
  ["docs/webhooks-in.md", "automations/webhooks-in", "Webhooks in", "What providers send, checked and done once."],
  ["docs/flow-control.md", "automations/flow-control", "Flow control", "How much at once, how often, and together."],
  ["docs/transforms.md", "automations/transforms", "Transforms", "Data through a function while it passes."],
  ["docs/cli.md", "reference/cli", "CLI", "The command line: commands, options, exit codes."],
  ["docs/errors.md", "reference/errors", "Errors", "Every error code of the API and what to do."],
  ["docs/settings.md", "reference/settings", "Settings", "Every setting, with its default."],
  ["SECURITY.md", "reference/security", "Security", "What is guarded from whom, and what is not."],
  ["sdk/python/README.md", "reference/python", "Python", "The Python client."],
] as const;

const examples = ["rest", "functions", "automations"].map((each) => read(`web/examples/${each}.md`)).join("\n");
// What is in folders is made here, all of it; a page that is no more goes.
for (const entry of readdirSync(pages, { withFileTypes: true })) {
  if (entry.isDirectory()) rmSync(join(pages, entry.name), { recursive: true });
}
write("reference/rest", restReference(JSON.parse(read("docs/openapi.json")), examples));
for (const [file, page, title, description] of DOCUMENTS) {
  write(page, fromDocument(read(file), title, description));
}
const typescript = typescriptReference(
  read("sdk/typescript/src/client.ts"),
  read("sdk/typescript/src/errors.ts"),
);
const readme = `${read("sdk/typescript/README.md")}\n${typescript}`;
write("reference/typescript", fromDocument(readme, "Typescript", "The TypeScript client."));

function read(file: string): string {
  return readFileSync(join(project, file), "utf8");
}

function write(page: string, content: string): void {
  const path = join(pages, `${page}.md`);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}
