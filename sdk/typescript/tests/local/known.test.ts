/** Names that nobody knows, for every method, computed from what the client has. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CakeworkClient, verifyWebhook } from "@cakework/client";
import { CakeworkApiClient } from "@cakework/client/compat";
import { deployFolder, readDirectory, uploadDirectory } from "@cakework/client/node";
import { fields, routes } from "../../dist/esm/generated/calls.js";
import { json, TestServer, VM } from "./server.ts";

type Name = keyof typeof routes;
type Method = (...given: unknown[]) => unknown;

const surplus = { surplusName: 1 };

/** What no type allows. */
const wrong = (names: object): never => names as never;

/** Calls a method, and goes as far as its first item; returns what its TypeError says. */
async function refusal(call: () => unknown): Promise<string> {
  try {
    const made = call();
    await (isItems(made) ? made.next() : made);
  } catch (error) {
    assert.ok(error instanceof TypeError, String(error));
    return error.message;
  }
  return assert.fail("it is taken");
}

function isItems(made: unknown): made is AsyncGenerator {
  return typeof made === "object" && made !== null && Symbol.asyncIterator in made;
}

/** What a call takes: the ids of its path, then its query or body if it has one, then its options. */
function given(name: Name): { ids: string[]; query: boolean } {
  const ids = [...routes[name].matchAll(/\{/g)].map(() => "x");
  return { ids, query: fields[name] !== "" && name !== "stopCachedVM" };
}

function method(client: CakeworkClient, name: string): Method {
  return (client as unknown as Record<string, Method>)[name]?.bind(client) ?? assert.fail(name);
}

test("no call takes a name that it does not have, and none is sent", async () => {
  await using server = await TestServer.start(json(VM));
  const client = server.client();
  for (const name of Object.keys(routes) as Name[]) {
    const { ids, query } = given(name);
    const call = method(client, name);
    const last = query ? [{}] : [];
    const told = [await refusal(() => call(...ids, ...last, surplus))];
    if (query) told.push(await refusal(() => call(...ids, surplus)));
    for (const said of told) assert.match(said, new RegExp(`^${name}: "surplusName" is unknown`));
    for (const field of fields[name].split(" ").filter(Boolean)) {
      const near = await refusal(() => call(...ids, { [`${field}x`]: 1 }));
      assert.ok(near.endsWith(`did you mean ${field}?`), near);
    }
    const late = await refusal(() => call(...ids, ...last, { timeoutMs: 1 }));
    assert.ok(late.endsWith("did you mean timeout?"), late);
  }
  assert.deepEqual(server.asked, []);
});

test("neither does any other method", async () => {
  await using server = await TestServer.start(json(VM));
  const client = server.client();
  const routed = new Set(Object.keys(routes));
  const others = Object.getOwnPropertyNames(CakeworkClient.prototype).filter(
    (name) => !routed.has(name) && name !== "constructor" && name !== "url",
  );
  assert.ok(others.length >= 8);
  for (const name of others) {
    // Those that list what something has are given its id first.
    const firsts: Record<string, unknown[]> = {
      followLogs: [{ vmId: "x" }],
      waitForVersion: ["x", 1],
      invoke: ["x", {}],
      invokeMany: ["x", []],
      emit: ["x", {}],
    };
    const ids = firsts[name] ?? (/Logs|Deliveries|Versions|waitFor/.test(name) ? ["x"] : []);
    assert.match(await refusal(() => method(client, name)(...ids, surplus)), /"surplusName"/, name);
  }
  const folder = import.meta.dirname;
  for (const call of [
    () => new CakeworkClient(wrong({ url: "http://127.0.0.1:9", apikey: "k" })),
    () => uploadDirectory(client, folder, wrong(surplus)),
    () => readDirectory(folder, wrong(surplus)),
    () => deployFolder(client, "x", folder, wrong(surplus)),
    () => verifyWebhook("", new Headers(), "whsec_a", wrong(surplus)),
  ]) {
    assert.match(await refusal(call), /is unknown/);
  }
  assert.deepEqual(server.asked, []);
});

test("what the first users wrote is refused, with what they meant", async () => {
  await using server = await TestServer.start(json(VM));
  const client = server.client();
  const image = { imageId: VM.imageId };
  for (const [call, meant] of [
    [() => client.startVM({ ...image, ...{ env: {} } }), "envVars"],
    [() => client.startVM({ ...image, ...{ memry: 1024 } }), "memory"],
    [() => client.startVM({ ...image, ...{ volumeGb: 1 } }), "volumeGB"],
    [() => client.listAllVMs(wrong({ state: "started" })), "status"],
    [() => client.listVMs(wrong({ imageID: "i" })), "imageId"],
    [() => client.stopCachedVM("v", wrong({ kep: "memory" })), "keep"],
  ] as const) {
    assert.ok((await refusal(call)).endsWith(`did you mean ${meant}?`));
  }
  assert.match(
    await refusal(() => client.startVM({ ...image, ...{ zzz: 1 } })),
    /"zzz" is unknown; there are imageId, cpu/,
  );
  assert.deepEqual(server.asked, []);
});

test("what is undefined is not there, and what was read of a folder is taken whole", async () => {
  await using server = await TestServer.start(json(VM));
  const client = server.client();
  await client.startVM({ imageId: VM.imageId, ...{ env: undefined } });
  await client.buildImageFromFiles({ dockerfile: "FROM x", files: [], skipped: ["link"] });
  assert.deepEqual(JSON.parse(server.asked[1]?.body ?? ""), { dockerfile: "FROM x", files: [] });
});

test("the client of then takes no other names either", async () => {
  await using server = await TestServer.start(json(VM));
  const client = new CakeworkApiClient({ environment: server.url, xApiKey: "cw_test" });
  const image = { imageId: VM.imageId, ...{ memry: 1 } };
  assert.ok((await refusal(() => client.startVm(image))).endsWith("did you mean memory?"));
  assert.deepEqual(server.asked, []);
});
