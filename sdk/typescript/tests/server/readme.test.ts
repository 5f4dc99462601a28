/** The blocks of the README, each run as it stands. */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { client, HOOKS, IMAGE, until } from "./platform.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const BLOCK = /^```(ts|js)\n(.*?)^```$/gms;

/** What each block prints. */
const PRINTS = [
  /^build: STEP 1\/3.*\ninfo Hello, you\n$/s,
  /^([0-9a-f]{14} \S+\n)*$/,
  /^image [0-9A-Z]{26}\n$/,
  /^2 .*\btwo\n/s,
  /^succeeded { hello: 'you' }\n(succeeded { hello: '[abc]' }\n){3}$/,
  /^\[\n.*\nhttp\S+\/in\/\S+ whsec_\S+\n$/s,
  /^not_found 404 There is no VM .*\nmemory should be .*\n$/,
  "webhooks",
  /^\d+ images\n$/,
  /^404 There is no VM .*\n$/,
];

const blocks = [...readFileSync(join(ROOT, "README.md"), "utf8").matchAll(BLOCK)].map(
  ([, language, text = ""], index) => ({
    name: `${index}.${language === "ts" ? "mts" : "cjs"}`,
    text,
  }),
);
let folder = "";

before(() => {
  folder = mkdtempSync(join(tmpdir(), "cakework-readme-"));
  mkdirSync(join(folder, "node_modules/@cakework"), { recursive: true });
  symlinkSync(ROOT, join(folder, "node_modules/@cakework/client"));
  symlinkSync(join(ROOT, "node_modules/@types"), join(folder, "node_modules/@types"));
  for (const { name, text } of blocks) writeFileSync(join(folder, name), text);
});

after(() => rmSync(folder, { recursive: true }));

test("every block is here", () => assert.equal(blocks.length, PRINTS.length));

test("every block has its types right", () => {
  const words =
    "--strict --noEmit --exactOptionalPropertyTypes --noPropertyAccessFromIndexSignature";
  const modern = "--module nodenext --target es2023 --types node";
  const files = blocks.map(({ name }) => name).filter((name) => name.endsWith(".mts"));
  const tsc = join(ROOT, "node_modules/typescript/bin/tsc");
  execFileSync(process.execPath, [tsc, ...`${words} ${modern}`.split(" "), ...files], {
    cwd: folder,
    stdio: "inherit",
  });
});

for (const [index, { name, text }] of blocks.entries()) {
  const prints = PRINTS[index];
  if (!(prints instanceof RegExp)) continue;
  test(`it does what it says: ${text.split("\n").at(-3)}`, async () => {
    const program = start(name);
    const [code] = await once(program.process, "close");
    assert.equal(code, 0);
    assert.match(program.printed(), prints);
  });
}

test("the receiver of webhooks takes Cakework's, and no others", async (context) => {
  const port = await freePort();
  const url = `http://${HOOKS}:${port}/`;
  const { id, secret } = await client.createWebhook({
    url,
    events: ["vm.stopped", "webhook.test"],
  });
  context.after(() => client.deleteWebhook(id));
  const receiver = start(blocks[PRINTS.indexOf("webhooks")]?.name ?? "", {
    PORT: String(port),
    CAKEWORK_WEBHOOK_SECRET: secret,
  });
  context.after(() => receiver.process.kill());
  const forged = await until("it listens", async () =>
    fetch(url, { method: "POST", body: "{}" }).catch(() => undefined),
  );
  assert.equal(forged.status, 401);
  await client.testWebhook(id);
  const vm = await client.startVM({ imageId: IMAGE, envVars: { SCRIPT: "exit 7" } });
  await until("both came", async () => {
    const printed = receiver.printed();
    const both = printed.includes(`${vm.id} 7\n`) && /^webhook\.test 20/m.test(printed);
    return both || undefined;
  });
  await until("its answer is in the log", async () => {
    const { deliveries } = await client.listWebhookDeliveries(id, { status: "succeeded" });
    const found = deliveries.find((delivery) => delivery.eventType === "webhook.test");
    return found?.responseStatus === 204 || undefined;
  });
  await client.stopVM(vm.id);
});

function start(name: string, env = {}): { process: ChildProcess; printed: () => string } {
  let printed = "";
  const child = spawn(process.execPath, [join(folder, name)], {
    cwd: join(ROOT, "../.."),
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  child.stdout.setEncoding("utf8").on("data", (piece: string) => {
    printed += piece;
  });
  return { process: child, printed: () => printed };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, HOOKS);
  await once(server, "listening");
  const address = server.address();
  server.close();
  return address && typeof address === "object" ? address.port : assert.fail();
}
