import assert from "node:assert/strict";
import { test } from "node:test";
import {
  CakeworkApi,
  CakeworkApiClient,
  CakeworkApiEnvironment,
  CakeworkApiError,
  CakeworkApiTimeoutError,
} from "@cakework/client/compat";
import * as dist from "@cakework/client/dist";
import { breakOff, json, refuse, TestServer, VM } from "./server.ts";

function client(server: TestServer): CakeworkApiClient {
  return new CakeworkApiClient({ environment: server.url, xApiKey: "cw_test" });
}

test("the import path of then leads to the same", () => {
  assert.equal(dist.CakeworkApiClient, CakeworkApiClient);
});

test("a VM has the shape of then: volumeGb, and times as dates", async () => {
  await using server = await TestServer.start(json(VM));
  const request = { imageId: VM.imageId, port: 80, volumeGb: 2, envVars: { A: "1", B: undefined } };
  const vm = await client(server).startVm(request);
  assert.deepEqual(
    [vm.volumeGb, vm.createdAt, "volumeGB" in vm],
    [2, new Date(VM.createdAt), false],
  );
  assert.deepEqual(JSON.parse(server.asked[0]?.body ?? ""), {
    imageId: VM.imageId,
    port: 80,
    volumeGB: 2,
    envVars: { A: "1" },
  });
});

for (const [status, kind] of [
  [400, CakeworkApi.BadRequest],
  [401, CakeworkApi.UnauthorizedError],
  [404, CakeworkApi.DoesNotExistError],
  [409, CakeworkApi.ConflictError],
  [500, CakeworkApi.InternalServerError],
  [413, CakeworkApiError],
] as const) {
  test(`a ${status} is the error of then, with the server's message`, async () => {
    await using server = await TestServer.start(refuse(status, "some_code"));
    await assert.rejects(client(server).getVm(VM.id), (error: unknown) => {
      assert.ok(error instanceof kind && error instanceof CakeworkApiError);
      assert.equal(error.constructor, kind);
      assert.equal(error.message, "It is some_code.");
      assert.equal(error.statusCode, status);
      assert.deepEqual(error.body, {
        status,
        code: "some_code",
        detail: "It is some_code.",
        requestId: "r1",
        errors: [],
      });
      return true;
    });
  });
}

test("a server that is not reached, and one that takes too long", async (context) => {
  await using server = await TestServer.start(breakOff);
  await assert.rejects(client(server).getVm(VM.id), CakeworkApiError);
  context.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  await using silent = await TestServer.start(() => context.mock.timers.tick(60_000));
  await assert.rejects(client(silent).getVm(VM.id), CakeworkApiTimeoutError);
});

test("a key may come late", async () => {
  await using server = await TestServer.start(json(VM));
  for (const xApiKey of ["a", Promise.resolve("b"), () => "c", async () => "d"]) {
    await new CakeworkApiClient({ environment: server.url, xApiKey }).getVm(VM.id);
  }
  assert.deepEqual(
    server.asked.map((asked) => asked.headers["x-api-key"]),
    ["a", "b", "c", "d"],
  );
});

test("the hosted service of then is the server at CAKEWORK_URL, and never gets a key", async () => {
  const before = process.env["CAKEWORK_URL"];
  await using server = await TestServer.start(json(VM));
  try {
    for (const environment of [CakeworkApiEnvironment.Production, CakeworkApiEnvironment.Staging]) {
      delete process.env["CAKEWORK_URL"];
      assert.throws(() => new CakeworkApiClient({ environment, xApiKey: "k" }), /set CAKEWORK_URL/);
      process.env["CAKEWORK_URL"] = server.url;
      await new CakeworkApiClient({ environment, xApiKey: "k" }).getVm(VM.id);
    }
  } finally {
    if (before === undefined) delete process.env["CAKEWORK_URL"];
    else process.env["CAKEWORK_URL"] = before;
  }
  assert.equal(server.asked.length, 2);
});
