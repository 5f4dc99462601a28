/** What the server refuses, and work that is done once. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import {
  BuildFailedError,
  CakeworkClient,
  ConflictError,
  InvalidRequestError,
  NotFoundError,
  TooLargeError,
  UnauthenticatedError,
} from "@cakework/client";
import { CakeworkApi, CakeworkApiClient, CakeworkApiError } from "@cakework/client/compat";
import { client, IMAGE, NOWHERE } from "./platform.ts";

test("a refusal has code, status, the request's id, and the fields at fault", async () => {
  await assert.rejects(client.startVM({ imageId: IMAGE, memory: 1 }), (error: unknown) => {
    assert.ok(error instanceof InvalidRequestError);
    assert.deepEqual([error.code, error.status], ["invalid_request", 400]);
    assert.deepEqual(
      error.errors.map((each) => each.field),
      ["memory"],
    );
    assert.match(error.message, /memory/);
    assert.ok(error.requestId);
    return true;
  });
});

test("what is not there is not found, by calls and by who follows", async () => {
  await assert.rejects(client.getVm(NOWHERE), NotFoundError);
  await assert.rejects(client.stopVM("no id at all/?"), NotFoundError);
  await assert.rejects(Array.fromAsync(client.followLogs({ vmId: NOWHERE })), NotFoundError);
  await assert.rejects(client.waitForBuild(randomUUID()), NotFoundError);
});

test("a key that is none is refused", async () => {
  const stranger = new CakeworkClient({ apiKey: `cw_${"x".repeat(43)}` });
  await assert.rejects(stranger.listVMs(), UnauthenticatedError);
  await assert.rejects(Array.fromAsync(stranger.listAllVMs()), UnauthenticatedError);
});

test("more than the server takes is too large", async () => {
  const files = [{ dir: ".", name: "large", content: "x".repeat(70_000_000) }];
  await assert.rejects(client.buildImageFromFiles({ dockerfile: "FROM x", files }), TooLargeError);
});

test("work with one key is done once", async () => {
  const request = { imageId: IMAGE, envVars: { SCRIPT: "exit 0" } };
  const once = { idempotencyKey: randomUUID() };
  const [one, other] = await Promise.all([
    client.startVM(request, once),
    client.startVM(request, once),
  ]);
  assert.equal(one.id, other.id);
  await assert.rejects(client.startVM({ ...request, cpu: 2 }, once), ConflictError);
  await client.stopVM(one.id);
});

test("the client of then starts, reads and stops, and has the errors of then", async () => {
  const { CAKEWORK_URL: environment, CAKEWORK_API_KEY: xApiKey } = process.env;
  const old = new CakeworkApiClient({ environment, xApiKey });
  const vm = await old.startVm({ imageId: IMAGE, envVars: { SCRIPT: "echo hi" }, volumeGb: 1 });
  assert.ok(vm.createdAt instanceof Date);
  assert.equal((await old.getVm(vm.id)).volumeGb, 1);
  for await (const _ of client.followLogs({ vmId: vm.id }));
  assert.equal(
    (await old.getVmLogs(vm.id, { query: "hi", order: "oldest_first" })).lines.length,
    1,
  );
  assert.ok((await old.listVMs({ imageId: IMAGE })).vms.some((each) => each.id === vm.id));
  await old.stopVm(vm.id);
  const cached = await old.cacheVm({ imageId: IMAGE, envVars: { SCRIPT: "sleep 1000" } });
  await old.startCachedVm(cached.id);
  await old.stopCachedVm(cached.id);
  assert.deepEqual((await old.getCachedVmLogs(cached.id)).lines, []);
  await old.destroyCachedVm(cached.id);
  await assert.rejects(old.startCachedVm(cached.id), CakeworkApi.ConflictError);
  await assert.rejects(old.startVm({ imageId: IMAGE, memory: 1 }), (error: unknown) => {
    assert.ok(error instanceof CakeworkApi.BadRequest && error instanceof CakeworkApiError);
    assert.match(error.message, /memory/);
    return true;
  });
  await assert.rejects(old.getVm(NOWHERE), CakeworkApi.DoesNotExistError);
  const github = {
    dockerfile: "FROM cakework/busybox",
    repository: "no/where",
    branch: "main",
    token: "t",
  };
  const { buildId } = await old.buildImageFromGithub(github);
  await assert.rejects(client.waitForBuild(buildId), BuildFailedError);
  const built = await old.buildImageFromFiles({ dockerfile: "FROM cakework/busybox", files: [] });
  await client.waitForBuild(built.buildId);
  assert.equal((await old.getBuild(built.buildId)).status, "succeeded");
  assert.ok((await old.getBuildLogs(built.buildId)).lines.length > 0);
  const nowhere = { imageUri: "127.0.0.1:1/a:b", password: "" };
  await assert.rejects(old.importImage(nowhere), CakeworkApi.BadRequest);
});
