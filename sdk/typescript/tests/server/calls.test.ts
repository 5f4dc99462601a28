/** Every call of the API, against a running server. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import {
  BuildFailedError,
  ConflictError,
  ImageNotInRegistryError,
  type LogLine,
  NotFoundError,
} from "@cakework/client";
import { uploadDirectory } from "@cakework/client/node";
import { routes } from "../../dist/esm/generated/calls.js";
import {
  ABOUT_FUNCTIONS,
  called,
  client,
  IMAGE,
  NOWHERE,
  PASSWORD,
  REFERENCE,
  until,
} from "./platform.ts";

after(() => {
  const here = Object.keys(routes).filter((name) => !ABOUT_FUNCTIONS.test(name));
  const missing = here.filter((name) => !called.has(name));
  assert.deepEqual(missing, [], "each call of the API is called here");
});

test("a folder is built, its log followed, its image found", async (context) => {
  const folder = mkdtempSync(join(tmpdir(), "cakework-upload-"));
  context.after(() => rmSync(folder, { recursive: true }));
  const write = (name: string, text: string) => writeFileSync(join(folder, name), text);
  write("Dockerfile", "FROM cakework/busybox\nCOPY . /here\nRUN ls -a /here\n");
  write(".dockerignore", "*.key\n");
  write("private.key", "secret");
  write("new", randomUUID());
  const { buildId, status } = await uploadDirectory(client, folder);
  assert.equal(status, "created");
  const lines: LogLine[] = [];
  const build = await client.waitForBuild(buildId, { onLine: (line) => lines.push(line) });
  const messages = lines.map((line) => line.message);
  assert.ok(messages.includes(".dockerignore") && !messages.includes("private.key"));
  assert.deepEqual(await client.getBuild(buildId), build);
  assert.deepEqual((await client.getBuildLogs(buildId, { batch: 1000 })).lines, lines);
  assert.deepEqual(await Array.fromAsync(client.getAllBuildLogs(buildId)), lines);
  const { builds } = await client.listBuilds({ status: "succeeded" });
  assert.ok(builds.some((each) => each.buildId === buildId));
  const { imageId = assert.fail() } = build;
  const image = await client.getImage(imageId);
  assert.deepEqual([image.source, image.state], ["files", "ready"]);
  assert.ok(
    (await Array.fromAsync(client.listAllImages())).some((each) => each.imageId === imageId),
  );
});

test("a build that fails, and one that is cancelled", async () => {
  const files = [{ dir: "a/b", name: "c.bin", content: "AAE=", encoding: "base64" as const }];
  const dockerfile = "FROM cakework/busybox\nCOPY . /\nRUN wc -c a/b/c.bin; exit 9\n";
  const failing = await client.buildImageFromFiles({ dockerfile, files });
  const lines: string[] = [];
  const onLine = (line: LogLine) => lines.push(line.message);
  await assert.rejects(client.waitForBuild(failing.buildId, { onLine }), (error: unknown) => {
    assert.ok(error instanceof BuildFailedError);
    assert.match(error.message, /9/);
    assert.equal(error.build.status, "failed");
    return true;
  });
  assert.ok(lines.includes("2 a/b/c.bin"));
  const dozing = { dockerfile: "FROM cakework/busybox\nRUN sleep 1000\n", files: [] };
  const { buildId } = await client.buildImageFromFiles(dozing);
  assert.equal((await client.cancelBuild(buildId)).status, "failed");
  const ended = await Array.fromAsync(client.listAllBuilds({ status: "failed" }));
  assert.ok(ended.some((build) => build.buildId === buildId));
});

test("a build from GitHub says what is not there", async () => {
  const dockerfile = "FROM cakework/busybox\n";
  const wanted = { dockerfile, token: "", repository: "no/where", branch: "main" };
  const { buildId } = await client.buildImageFromGithub(wanted);
  await assert.rejects(client.waitForBuild(buildId), BuildFailedError);
});

test("an image is imported, listed and deleted", async () => {
  const { imageId } = await client.importImage({ imageUri: REFERENCE, password: PASSWORD });
  const image = await until("the image is there", async () => {
    const found = await client.getImage(imageId);
    assert.notEqual(found.state, "failed");
    return found.state === "ready" ? found : undefined;
  });
  assert.equal(image.imageUri, REFERENCE);
  const { images } = await client.listImages();
  assert.ok(images.some((each) => each.imageId === imageId));
  assert.equal((await client.deleteImage(imageId)).state, "deleted");
  const missing = { imageUri: REFERENCE.replace(/:\d+$/, ":no-such-tag"), password: PASSWORD };
  await assert.rejects(client.importImage(missing), ImageNotInRegistryError);
});

test("a VM runs, is listed, its log read and followed", async () => {
  const SCRIPT = "i=0; while [ $i -lt $LAST ]; do i=$((i+1)); echo line $i; done; echo done >&2";
  const vm = await client.startVM({
    imageId: IMAGE,
    volumeGB: 1,
    envVars: { SCRIPT, LAST: "30" },
  });
  assert.deepEqual([vm.state, vm.memory, vm.volumeGB], ["started", 256, 1]);
  const lines = await Array.fromAsync(client.followLogs({ vmId: vm.id }));
  const numbered = Array.from({ length: 30 }, (_, index) => `line ${index + 1}`);
  const messages = (level: string) =>
    lines.filter((line) => line.level === level).map((line) => line.message);
  assert.deepEqual([messages("info"), messages("error")], [numbered, ["done"]]);
  const newest = await client.getVMLogs(vm.id, { order: "newest_first", from: new Date(0) });
  assert.deepEqual(newest.lines, lines.toReversed());
  const found = await Array.fromAsync(client.getAllVMLogs(vm.id, { query: "LINE 7" }));
  assert.deepEqual(
    found.map((line) => line.id),
    [7],
  );
  const rest = client.followLogs({ vmId: vm.id }, { after: 29 });
  assert.deepEqual(await Array.fromAsync(rest), lines.slice(29));
  const paged: LogLine[] = [];
  for await (const line of client.getAllVMLogs(vm.id, { batch: 50 })) paged.push(line);
  assert.deepEqual(paged, lines);
  assert.ok((await client.listVMs({ imageId: IMAGE })).vms.some((each) => each.id === vm.id));
  assert.equal((await client.stopVM(vm.id)).state, "destroyed");
  const ended = await client.getVm(vm.id);
  assert.deepEqual([ended.state, ended.exitCode], ["destroyed", 0]);
  assert.equal((await client.destroyVM(vm.id)).state, "destroyed");
  const destroyed = await Array.fromAsync(client.listAllVMs({ status: "destroyed" }));
  assert.ok(destroyed.some((each) => each.id === vm.id));
});

test("a consumer that leaves the loop leaves the VM running and the log readable", async () => {
  const envVars = { SCRIPT: "while :; do echo tick; sleep 0.1; done" };
  const vm = await client.startVM({ imageId: IMAGE, envVars });
  let last = 0;
  for await (const line of client.followLogs({ vmId: vm.id })) {
    last = line.id;
    if (last === 3) break;
  }
  for await (const line of client.followLogs({ vmId: vm.id }, { after: last })) {
    assert.equal(line.id, 4);
    break;
  }
  assert.equal((await client.getVm(vm.id)).state, "started");
  await client.stopVM(vm.id);
});

test("a cached VM is started and stopped again and again", async () => {
  const SCRIPT = "echo x >> /data/n; sync; echo run $(wc -l < /data/n); sleep 1000";
  const envVars = { SCRIPT };
  const vm = await client.cacheVM({ imageId: IMAGE, port: 8000, diskSize: 1, envVars });
  assert.deepEqual([vm.state, vm.volumeGB], ["stopped", 1]);
  for (const seen of ["run 1", "run 2"]) {
    const started = await client.startCachedVM(vm.id);
    assert.deepEqual([started.state, started.hostname], ["started", vm.hostname]);
    for await (const line of client.followLogs({ vmId: vm.id })) if (line.message === seen) break;
    assert.equal((await client.stopCachedVM(vm.id)).state, "stopped");
  }
  await assert.rejects(client.stopVM(vm.id), ConflictError);
  // It was cached without a snapshot to go on from.
  await assert.rejects(client.forkCachedVM(vm.id, { count: 2 }), ConflictError);
  const { lines } = await client.getCachedVMLogs(vm.id);
  assert.deepEqual(
    lines.map((line) => line.message),
    ["run 1", "run 2"],
  );
  assert.equal((await client.destroyCachedVM(vm.id)).state, "destroyed");
});

test("webhooks are made, changed, tried and removed", async () => {
  const request = { url: "https://hooks.example/", events: ["vm.started" as const] };
  const made = await client.createWebhook({ ...request, description: "ours" });
  assert.match(made.secret, /^whsec_/);
  assert.deepEqual((await client.getWebhook(made.id)).events, request.events);
  const changed = await client.updateWebhook(made.id, { events: null, description: "yours" });
  assert.deepEqual([changed.events, changed.description], [undefined, "yours"]);
  assert.ok((await client.listWebhooks()).webhooks.some((each) => each.id === made.id));
  assert.notEqual((await client.rotateWebhookSecret(made.id)).secret, made.secret);
  const sent = await client.testWebhook(made.id);
  await until("it was attempted", async () => {
    for await (const delivery of client.listAllWebhookDeliveries(made.id)) {
      if (delivery.id === sent.id && delivery.attempts > 0) return delivery;
    }
    return undefined;
  });
  await client.updateWebhook(made.id, { enabled: false });
  const { deliveries } = await client.listWebhookDeliveries(made.id, { status: "failed" });
  // Other tests' VMs tell this endpoint of themselves meanwhile.
  assert.ok(deliveries.some((each) => each.id === sent.id));
  await client.updateWebhook(made.id, { enabled: true });
  assert.equal((await client.redeliverWebhook(made.id, sent.id)).eventId, sent.eventId);
  assert.equal((await client.deleteWebhook(made.id)).id, made.id);
  await assert.rejects(client.getWebhook(made.id), NotFoundError);
  await assert.rejects(client.getVm(NOWHERE), NotFoundError);
});
