/** Functions, from code to answers: every call about them and their invocations. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import {
  DeployFailedError,
  type Invocation,
  NoLiveVersionError,
  NotFoundError,
  TimeoutError,
} from "@cakework/client";
import { deployFolder } from "@cakework/client/node";
import { routes } from "../../dist/esm/generated/calls.js";
import { called, client, until } from "./platform.ts";

const CODE = `
import time
def handler(event, context):
    data = event.get("data")
    if data == "raise":
        raise ValueError("no")
    if data == "slow":
        time.sleep(600)
    if data == "bytes":
        return b"\\x00\\xff"
    return {"data": data}
`;
/** Those have tests in sources.test.ts. */
const ELSEWHERE = /Draft|Secret|testFunction|Archive|getFunctionLogs|getInvocationLogs/;
const name = `f-${randomUUID()}`;
const retry = { maxAttempts: 1 };

after(() => {
  const here = Object.keys(routes).filter(
    (each) => /Function|Version|Invocation|DeadLetter/.test(each) && !ELSEWHERE.test(each),
  );
  const missing = here.filter((each) => !called.has(each));
  assert.deepEqual(missing, [], "each call about functions is called here");
});

test("a folder becomes a function, whose work is asked for, followed and done again", async (context) => {
  const folder = mkdtempSync(join(tmpdir(), "cakework-code-"));
  context.after(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, "main.py"), CODE);
  writeFileSync(join(folder, ".dockerignore"), "*.key\n");
  writeFileSync(join(folder, "private.key"), "secret");
  mkdirSync(join(folder, "node_modules"));
  writeFileSync(join(folder, "node_modules/a.js"), "");

  const made = await client.createFunction({
    name,
    runtime: "python3.11",
    settings: { retry, labels: { a: "b" } },
  });
  const { id } = made;
  assert.deepEqual([made.state, made.settings.retry?.maxAttempts], ["empty", 1]);
  await assert.rejects(client.invoke(id), NoLiveVersionError);
  const { version } = await deployFolder(client, id, folder, { message: "first" });
  const ready = await client.waitForVersion(id, version, { timeout: 280_000 });
  assert.deepEqual([ready.state, ready.message], ["ready", "first"]);
  const { files } = await client.getVersionSource(id, version);
  assert.deepEqual(files.map((file) => file.name).sort(), [".dockerignore", "main.py"]);

  const done = await client.invoke(id, { n: 1 });
  assert.deepEqual(
    [done.state, done.result, done.attempts.length],
    ["succeeded", { data: { n: 1 } }, 1],
  );
  assert.deepEqual(await client.getInvocation(done.id, { wait: 1 }), done);
  assert.deepEqual((await client.getInvocationEvent(done.id))["data"], { n: 1 });
  const raw = await client.invoke(id, "bytes");
  const { content, contentType } = await client.getInvocationResult(raw.id);
  assert.deepEqual([[...content], contentType], [[0, 255], "application/octet-stream"]);

  const following = client.followInvocations({ functionId: id, timeout: 280_000 });
  const first = following.next();
  const results: unknown[] = [];
  for await (const each of client.invokeMany(id, [1, 2, 3, 4, 5], { atOnce: 2 })) {
    results.push((each.result as { data: number }).data);
  }
  assert.deepEqual(results, [1, 2, 3, 4, 5]);
  const seen = new Map<string, Invocation["state"]>();
  for (let next = await first; !next.done; next = await following.next()) {
    seen.set(next.value.id, next.value.state);
    if ([...seen.values()].filter((state) => state === "succeeded").length >= 2) break;
  }
  await following.return();

  const later = await client.invokeFunction(id, { mode: "async", delay: 600 });
  assert.equal((await client.cancelInvocation(later.id)).state, "canceled");
  const failed = await client.invoke(id, "raise");
  assert.deepEqual(
    [failed.state, failed.reason, failed.error?.type],
    ["failed", "handler_error", "ValueError"],
  );
  const dead = await Array.fromAsync(
    client.listAllDeadLetters({ functionId: id, from: new Date(0) }),
  );
  assert.deepEqual(
    dead.map((each) => each.id),
    [failed.id],
  );
  const again = await client.replayInvocation(failed.id, { event: { data: "better" } });
  assert.equal(again.replayOf, failed.id);
  assert.equal((await client.waitForInvocation(again.id)).state, "succeeded");
  assert.deepEqual((await client.listDeadLetters({ functionId: id })).invocations, []);
  for (const _ of [1, 2]) await client.invoke(id, "raise");
  const filter = { functionId: id, reason: "handler_error" } as const;
  assert.deepEqual(await client.replayDeadLetters({ filter, perSecond: 0.001 }), { matched: 2 });
  await until("the first was replayed, and failed again", async () => {
    const found = await Array.fromAsync(client.listAllDeadLetters({ functionId: id }));
    return found.some((each) => each.replayOf) || undefined;
  });
  assert.equal((await client.discardDeadLetters({ filter: { functionId: id } })).matched, 2);

  await assert.rejects(client.invoke(id, "slow", { timeout: 2000 }), TimeoutError);
  const [slow = assert.fail()] = (await client.listInvocations({ functionId: id })).invocations;
  await client.cancelInvocation(slow.id);
  assert.equal((await client.waitForInvocation(slow.id)).state, "canceled");
  const all = await Array.fromAsync(client.listAllInvocations({ functionId: id }));
  assert.ok(all.length > 10);

  const settings = (await client.updateFunction(id, { settings: { timeout: 7 } })).settings;
  assert.deepEqual([settings.timeout, settings.labels], [7, { a: "b" }]);
  const source = { files: [{ dir: ".", name: "main.py", content: "import nothing_there\n" }] };
  const broken = await client.deployFunction(id, { source });
  await assert.rejects(client.waitForVersion(id, broken.version), (error: unknown) => {
    assert.ok(error instanceof DeployFailedError);
    assert.match(error.message, /nothing_there/);
    return true;
  });
  assert.equal((await client.getVersion(id, broken.version)).state, "failed");
  const versions = await Array.fromAsync(client.listAllVersions(id));
  assert.deepEqual(
    versions.map((each) => each.version),
    [2, 1],
  );
  assert.equal((await client.listVersions(id)).versions.length, 2);
  assert.equal((await client.promoteVersion(id, { version })).liveVersion, version);
  assert.equal((await client.getFunction(id)).liveVersion, version);
  assert.equal((await client.listFunctions({ name })).functions.length, 1);
  assert.ok((await Array.fromAsync(client.listAllFunctions())).some((each) => each.id === id));
  await client.deleteFunction(id);
  await assert.rejects(client.getFunction(id), NotFoundError);
});
