import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { CakeworkClient } from "@cakework/client";
import { buildSync } from "esbuild";
import { apiError } from "../../dist/esm/errors.js";
import { routes, version } from "../../dist/esm/generated/calls.js";
import { json, TestServer, VM } from "./server.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const BUNDLE_BYTES_MAX = 15 * 1024;

function repository(path: string): string {
  return readFileSync(join(ROOT, "../..", path), "utf8");
}

function bundled(entry: string): Uint8Array {
  const { outputFiles } = buildSync({
    entryPoints: [join(ROOT, "dist/esm", entry)],
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    platform: "browser",
  });
  return outputFiles[0]?.contents ?? assert.fail();
}

test("bundled, minified and compressed it is small, and needs nothing of Node", (context) => {
  for (const entry of ["index.js", "compat.js"]) {
    const bytes = gzipSync(bundled(entry), { level: 9 }).length;
    context.diagnostic(`${entry}: ${bytes} bytes`);
    assert.ok(bytes <= BUNDLE_BYTES_MAX, `${entry} has ${bytes} bytes`);
  }
});

test("errors have their names when minified too", async () => {
  for (const [entry, base] of [
    ["index.js", "CakeworkError"],
    ["compat.js", "CakeworkApiError"],
  ]) {
    const code = Buffer.from(bundled(entry ?? "")).toString("base64");
    const found = await import(`data:text/javascript;base64,${code}`);
    const classes = Object.entries({ ...found, ...found.CakeworkApi }).filter(
      ([, value]) => typeof value === "function" && value.prototype instanceof found[base ?? ""],
    );
    assert.ok(classes.length >= 5);
    for (const [name, Kind] of classes) {
      assert.equal(new (Kind as new (given: object) => Error)({ detail: "" }).name, name);
    }
  }
});

test("every call of the API has a method", () => {
  const client = new CakeworkClient({ apiKey: "cw_x" });
  const missing = Object.keys(routes).filter((name) => !(name in client));
  assert.deepEqual(missing, [], "add these to src/client.ts, and calls of them to tests/server");
});

test("every code of the API's errors has a class of its own", () => {
  const codes = [...repository("docs/errors.md").matchAll(/^\| `(\w+)` \| (\d+) \|/gm)];
  assert.ok(codes.length > 10);
  const classes = codes.map(([, code = "", status]) => {
    const given = { status: Number(status), code, detail: "", requestId: "", retryAfter: 0 };
    return apiError(given).constructor;
  });
  assert.equal(new Set(classes).size, codes.length, "src/errors.ts knows all of docs/errors.md");
});

test("the version is the server's", () => {
  const [, server] = /__version__ = "(.+)"/.exec(repository("src/cakework/__init__.py")) ?? [];
  const ours = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).version;
  assert.deepEqual([ours, version], [server, server]);
});

test("the lock names versions, and no host to get them from", () => {
  assert.doesNotMatch(readFileSync(join(ROOT, "package-lock.json"), "utf8"), /"resolved"/);
});

const RUN = `
const client = new CakeworkClient({ url: process.argv[2], apiKey: "cw_test" });
client.getVm("x")
  .then((vm) => readDirectory(".", { dockerfile: "package.json" }).then((read) => ({ vm, read })))
  .then(({ vm, read }) => new CakeworkApiClient({ environment: client.url, xApiKey: "k" }).getVm(vm.id)
    .then((old) => console.log(JSON.stringify([vm.id, old.volumeGb, read.files.length > 0]))));
`;
const NAMES = { "": "CakeworkClient", "/node": "readDirectory", "/compat": "CakeworkApiClient" };
const PROGRAMS = {
  "main.mjs": (name: string, path: string) => `import { ${name} } from "@cakework/client${path}";`,
  "main.cjs": (name: string, path: string) =>
    `const { ${name} } = require("@cakework/client${path}");`,
};

let folder = "";

/** The package as the README says how to install it, in an empty folder beside a checkout. */
before(() => {
  folder = mkdtempSync(join(tmpdir(), "cakework-package-"));
  writeFileSync(join(folder, "package.json"), "{}");
  symlinkSync(join(ROOT, "../.."), join(folder, "cakework"));
  const readme = readFileSync(join(ROOT, "README.md"), "utf8");
  const [install] = /^npm install .*$/m.exec(readme) ?? assert.fail();
  const env = { ...process.env, npm_config_offline: "true" };
  execFileSync("bash", ["-euc", install], { cwd: folder, env, stdio: "pipe" });
});

after(() => rmSync(folder, { recursive: true }));

test("what is packed is what is needed, and no more", () => {
  const installed = join(folder, "node_modules");
  const others = readdirSync(installed).filter((name) => !name.startsWith("."));
  assert.deepEqual(others, ["@cakework"]);
  const files = readdirSync(join(installed, "@cakework/client"));
  assert.deepEqual(files.sort(), ["LICENSE", "README.md", "dist", "package.json"]);
});

for (const [file, importing] of Object.entries(PROGRAMS)) {
  test(`installed in an empty folder it is used from ${file}`, async () => {
    await using server = await TestServer.start(json(VM));
    const imports = Object.entries(NAMES).map(([path, name]) => importing(name, path));
    writeFileSync(join(folder, file), [...imports, RUN].join("\n"));
    assert.deepEqual(JSON.parse(await run(file, server.url)), [VM.id, VM.volumeGB, true]);
  });
}

test("its types hold for who imports it, from ESM and from CommonJS, with the strictest settings", () => {
  const usage = readFileSync(join(ROOT, "tests/types/usage.ts"));
  for (const file of ["usage.mts", "usage.cts"]) writeFileSync(join(folder, file), usage);
  const settings = ["strict", "exactOptionalPropertyTypes", "noUncheckedIndexedAccess", "noEmit"];
  const words = [...settings.map((name) => `--${name}`), "--skipLibCheck", "false"];
  words.push("--module", "nodenext", "--target", "es2022", "--types", "");
  const tsc = join(ROOT, "node_modules/typescript/bin/tsc");
  execFileSync(process.execPath, [tsc, ...words, "usage.mts", "usage.cts"], {
    cwd: folder,
    stdio: "inherit",
  });
});

async function run(file: string, url: string): Promise<string> {
  const words = [file, url];
  const { stdout } = await promisify(execFile)(process.execPath, words, { cwd: folder });
  return stdout;
}
