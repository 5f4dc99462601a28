/** Code, secrets and logs of functions: drafts, archives, what is tried without a version. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { PreconditionFailedError } from "@cakework/client";
import { client, until } from "./platform.ts";

const CODE = 'def handler(event, context):\n    print("at work")\n    return event["data"]\n';
const files = [{ dir: ".", name: "main.py", content: CODE }];

async function made(): Promise<string> {
  const name = `f-${randomUUID()}`;
  const { id } = await client.createFunction({ name, runtime: "python3.11", source: { files } });
  await client.waitForVersion(id, 1);
  return id;
}

/** A tar.gz with one file (POSIX.1-1988). */
function archiveOf(name: string, text: string): Uint8Array {
  const header = Buffer.alloc(512);
  header.write(name, 0);
  header.write("0000644\0", 100);
  header.write(text.length.toString(8).padStart(11, "0"), 124);
  header.write("0".repeat(11), 136);
  header.write("        0", 148);
  header.write("ustar\x0000", 257);
  const sum = header.reduce((all, byte) => all + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  const content = Buffer.alloc(Math.ceil(text.length / 512) * 512);
  content.write(text);
  return gzipSync(Buffer.concat([header, content, Buffer.alloc(1024)]));
}

test("a draft is saved over what was looked at, tried, and deployed", async () => {
  const id = await made();
  const { etag } = await client.putDraft(id, { files }, { ifMatch: '"0"' });
  await assert.rejects(client.putDraft(id, { files }, { ifMatch: '"0"' }), PreconditionFailedError);
  const draft = await client.getDraft(id);
  assert.deepEqual([draft.etag, draft.files.map((file) => file.name)], [etag, ["main.py"]]);
  assert.equal((await client.testFunction(id, { data: 1 })).result, 1);
  const changed = { files: [{ dir: ".", name: "main.py", content: `${CODE}# more\n` }] };
  assert.equal((await client.testFunction(id, { source: changed, data: 2 })).result, 2);
  await client.putDraft(id, changed, { ifMatch: etag });
  const { version } = await client.deployFunction(id, { source: { draft: true } });
  assert.equal((await client.waitForVersion(id, version)).version, 2);
  await client.deleteDraft(id, { ifMatch: "*" });
  await client.deleteFunction(id);
});

test("archives are deployed, as versions and as functions of their own", async () => {
  const id = await made();
  const archive = archiveOf("main.py", `${CODE}# packed\n`);
  const { version } = await client.deployFunction(id, { archive, promote: false });
  assert.equal((await client.waitForVersion(id, version)).state, "ready");
  assert.equal((await client.getFunction(id)).liveVersion, 1);
  const deployed = await client.deployFunctionFromArchive({
    archive,
    runtime: "python3.11",
    handlerFile: "main.py",
    handlerFunction: "handler",
  });
  await client.waitForVersion(deployed.id, 1);
  for (const each of [id, deployed.id]) await client.deleteFunction(each);
});

test("secrets are kept, listed without their values, and removed", async () => {
  const functionId = await made();
  const kept = await client.putSecret("KEY", { value: "of some length", functionId });
  assert.deepEqual((await client.listSecrets({ functionId })).secrets, [kept]);
  await client.deleteSecret("KEY", { functionId });
  assert.deepEqual(await Array.fromAsync(client.listAllSecrets({ functionId })), []);
  await client.deleteFunction(functionId);
});

test("what is printed is read by function and by invocation, and followed", async () => {
  const functionId = await made();
  const { id: invocationId } = await client.invoke(functionId, 1);
  const lines = await until("the line is there", async () => {
    const found = await Array.fromAsync(client.getAllInvocationLogs(invocationId));
    return found.length > 0 ? found : undefined;
  });
  assert.deepEqual(
    lines.map((line) => [line.message, line.invocationId, line.attempt]),
    [["at work", invocationId, 1]],
  );
  assert.deepEqual((await client.getInvocationLogs(invocationId)).lines, lines);
  assert.deepEqual((await client.getFunctionLogs(functionId)).lines, lines);
  assert.deepEqual(await Array.fromAsync(client.getAllFunctionLogs(functionId)), lines);
  assert.deepEqual(await Array.fromAsync(client.followLogs({ invocationId })), lines);
  for await (const line of client.followLogs({ functionId })) {
    assert.equal(line.invocationId, invocationId);
    break;
  }
  await client.deleteFunction(functionId);
});
