import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { readDirectory, uploadDirectory } from "@cakework/client/node";
import { json, TestServer } from "./server.ts";

interface Table {
  files: string[];
  refused: string[];
  cases: { lines: string; ignored: string[] }[];
}

/** The Python client's tests have the same table. */
const TABLE: Table = JSON.parse(
  readFileSync(new URL("../../../dockerignore.json", import.meta.url), "utf8"),
);

/** A folder of its own for a test. */
class Folder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "cakework-client-"));

  constructor(files: Record<string, string | Uint8Array>) {
    for (const [name, content] of Object.entries(files)) this.write(name, content);
  }

  write(name: string, content: string | Uint8Array): void {
    mkdirSync(dirname(join(this.path, name)), { recursive: true });
    writeFileSync(join(this.path, name), content);
  }

  async sent(): Promise<string[]> {
    const { files } = await readDirectory(this.path);
    return files.map(({ dir, name }) => (dir === "." ? name : `${dir}/${name}`));
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true });
  }
}

test("a .dockerignore leaves out what Docker leaves out, in each case of the table", async () => {
  using folder = new Folder(Object.fromEntries(TABLE.files.map((name) => [name, ""])));
  assert.ok(TABLE.cases.length > 50);
  for (const { lines, ignored } of TABLE.cases) {
    folder.write(".dockerignore", lines);
    const sent = new Set(await folder.sent());
    const left = TABLE.files.filter((name) => !sent.has(name));
    assert.deepEqual(left.sort(), [...ignored].sort(), JSON.stringify(lines));
  }
});

test("a line that is no pattern is refused", async () => {
  using folder = new Folder({ Dockerfile: "" });
  for (const line of TABLE.refused) {
    folder.write(".dockerignore", `*.pyc\n${line}\n`);
    await assert.rejects(folder.sent(), /^TypeError: \.dockerignore: /);
  }
});

test("text travels as text, and what is none as base64", async () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, value) => value);
  using folder = new Folder({ Dockerfile: "FROM x", "a/ü.txt": "\uFEFFü\0", "logo.png": bytes });
  assert.deepEqual(await readDirectory(folder.path), {
    dockerfile: "FROM x",
    files: [
      { dir: ".", name: "Dockerfile", content: "FROM x" },
      { dir: "a", name: "ü.txt", content: "\uFEFFü\0" },
      {
        dir: ".",
        name: "logo.png",
        content: Buffer.from(bytes).toString("base64"),
        encoding: "base64",
      },
    ],
    skipped: [],
  });
});

test("nothing outside the folder is sent, and links inside are sent as what they lead to", async () => {
  using folder = new Folder({ Dockerfile: "", "a.py": "a" });
  symlinkSync("/etc/passwd", join(folder.path, "out"));
  symlinkSync("/etc", join(folder.path, "folder"));
  symlinkSync("nowhere", join(folder.path, "broken"));
  symlinkSync("loop", join(folder.path, "loop"));
  symlinkSync("a.py", join(folder.path, "in"));
  const { files, skipped } = await readDirectory(folder.path);
  assert.deepEqual(skipped, ["broken", "folder", "loop", "out"]);
  assert.deepEqual(files.at(-1), { dir: ".", name: "in", content: "a" });
});

test("another Dockerfile can be named, and none at all says which", async () => {
  using folder = new Folder({ "docker/web": "FROM web" });
  assert.equal(
    (await readDirectory(folder.path, { dockerfile: "docker/web" })).dockerfile,
    "FROM web",
  );
  await assert.rejects(readDirectory(folder.path), /ENOENT.*Dockerfile/);
});

test("uploadDirectory sends what readDirectory reads", async () => {
  using folder = new Folder({
    Dockerfile: "FROM x",
    "b.txt": "b",
    ".dockerignore": "Dockerfile\n.docker*",
  });
  await using server = await TestServer.start(json({ buildId: "b", status: "created" }));
  const build = await uploadDirectory(server.client(), folder.path, { idempotencyKey: "once" });
  assert.equal(build.buildId, "b");
  assert.deepEqual(JSON.parse(server.asked[0]?.body ?? ""), {
    dockerfile: "FROM x",
    files: [{ dir: ".", name: "b.txt", content: "b" }],
  });
  assert.equal(server.asked[0]?.headers["idempotency-key"], "once");
});
