/**
 * Tries the package in Deno, in Bun, and in the Node that is named: `npm run runtimes [-- /usr/bin/node]`.
 * Not one of the tests: each runtime has 100 MB. They are fetched into a folder of their own, which goes.
 */
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { copyFileSync, cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import {
  json,
  lineEvent,
  refuse,
  sayNothing,
  stream,
  TestServer,
  VM,
} from "../tests/local/server.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const RUNTIMES = ["deno@2.9.6", "bun@1.4.5"];
const EXPECTED = [VM.id, "not_found", "line 1", "line 2", "unreachable", "timeout", true];

const folder = mkdtempSync(join(tmpdir(), "cakework-runtimes-"));
try {
  writeFileSync(join(folder, "package.json"), "{}");
  writeFileSync(join(folder, "Dockerfile"), "FROM cakework/busybox\n");
  execFileSync("npm", ["install", "--silent", "--no-audit", ...RUNTIMES], { cwd: folder });
  execFileSync(process.execPath, ["install.js"], { cwd: join(folder, "node_modules/bun") });
  const installed = join(folder, "node_modules/@cakework/client");
  cpSync(join(ROOT, "dist"), join(installed, "dist"), { recursive: true });
  copyFileSync(join(ROOT, "package.json"), join(installed, "package.json"));
  copyFileSync(join(ROOT, "tests/runtimes/smoke.mjs"), join(folder, "smoke.mjs"));
  const programs = join(folder, "node_modules/.bin");
  await smoke([process.argv[2] ?? process.execPath]);
  await smoke([join(programs, "deno"), "run", "--allow-net", "--allow-read"]);
  await smoke([join(programs, "bun")]);
} finally {
  rmSync(folder, { recursive: true });
}

async function smoke([program = "", ...words]: string[]): Promise<void> {
  await using server = await TestServer.start(
    json(VM),
    refuse(404, "not_found"),
    stream(lineEvent(1), "break"),
    // Bun forgets what it had not given out when the connection breaks: then line 1 is asked for again.
    (response, asked) => {
      const first = asked.headers["last-event-id"] === "1" ? "" : lineEvent(1);
      stream(first + lineEvent(2), "stay")(response, asked);
    },
    sayNothing,
  );
  const command = [...words, "smoke.mjs", server.url, folder];
  const { stdout } = await promisify(execFile)(program, command, { cwd: folder });
  assert.deepEqual(JSON.parse(stdout), EXPECTED);
  process.stdout.write(`${program}: ${server.asked[0]?.headers["user-agent"]}\n`);
}
