/** What is sent and waited for where functions are concerned. */
import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import { test } from "node:test";
import {
  DeployFailedError,
  type Invocation,
  PreconditionFailedError,
  TimeoutError,
} from "@cakework/client";
import { type Asked, breakOff, json, refuse, stream, TestServer } from "./server.ts";

const ID = "fn_01M84JAQ6RGNRXKE5TFB8SJJJE";
const AT = "2026-03-03T20:22:39.096Z";

function invocation(state: Invocation["state"], number = 0, result?: unknown): object {
  const id = `inv_${String(number).padStart(26, "0")}`;
  const of = { functionId: ID, trigger: "api", kind: "queued", attempt: 1, attempts: [], depth: 0 };
  return { id, ...of, state, result, createdAt: AT, updatedAt: AT };
}

test("invoke goes on until the end, in calls for which the server waits", async () => {
  await using server = await TestServer.start(
    breakOff,
    json(invocation("running")),
    json(invocation("waiting")),
    json(invocation("succeeded", 0, { n: 1 })),
  );
  const done = await server.client().invoke(ID, { a: null }, { userId: "u" });
  assert.deepEqual(done.result, { n: 1 });
  const [first, again, ...looks] = server.asked;
  assert.equal(first?.headers["idempotency-key"], again?.headers["idempotency-key"]);
  const { wait, ...body } = JSON.parse(again?.body ?? "");
  assert.deepEqual(body, { userId: "u", data: { a: null } });
  const waits = looks.map(({ url }) => Number(/wait=([\d.]+)/.exec(url)?.[1]));
  assert.ok([wait, ...waits].every((each) => each > 40 && each <= 50));
  assert.equal(looks.length, 2);
});

test("invoke ends in time, and waiting for an invocation too", async () => {
  await using server = await TestServer.start(json(invocation("running")));
  const client = server.client();
  await assert.rejects(client.invoke(ID, undefined, { timeout: 1200 }), TimeoutError);
  assert.ok(JSON.parse(server.asked[0]?.body ?? "").wait < 1);
  await assert.rejects(client.waitForInvocation("inv", { timeout: 200 }), TimeoutError);
});

test("as many as may are under way, in their order", async () => {
  const answer = (response: ServerResponse, { body, url }: Asked) => {
    const number = body ? JSON.parse(body).data : Number(/(\d)(\?|$)/.exec(url)?.[1]);
    json(invocation(body ? "queued" : "succeeded", number))(response, {} as Asked);
  };
  await using server = await TestServer.start(answer);
  const client = server.client();
  const taken: number[] = [];
  function* items(): Generator<number> {
    for (let number = 0; number < 4; number++) {
      taken.push(number);
      yield number;
    }
  }
  const many = client.invokeMany(ID, items(), { atOnce: 2 });
  assert.ok((await many.next()).value?.id.endsWith("0"));
  assert.deepEqual(taken, [0, 1, 2]);
  const rest = await Array.fromAsync(many);
  assert.deepEqual(
    rest.map(({ id }) => id.at(-1)),
    ["1", "2", "3"],
  );
  const methods = server.asked.map(({ method }) => method).join(" ");
  assert.equal(methods, "POST POST GET POST GET POST GET GET");
  await assert.rejects(client.invokeMany(ID, [1], { atOnce: 0 }).next(), RangeError);
});

test("changes are followed over broken connections, none given out twice", async () => {
  const event = (id: number, data?: object) =>
    `id: ${id}\n${data ? `data: ${JSON.stringify(data)}` : ": following"}\n\n`;
  const [running, done] = [invocation("running"), invocation("succeeded")];
  await using server = await TestServer.start(
    stream(event(5), "break"),
    stream(event(5) + event(7, running), "end"),
    stream(event(7) + event(7, running) + event(9, done), "stay"),
  );
  const changes = server.client().followInvocations({ functionId: ID });
  const states = [(await changes.next()).value?.state, (await changes.next()).value?.state];
  assert.deepEqual(states, ["running", "succeeded"]);
  await changes.return();
  const behind = server.asked.map(({ headers }) => headers["last-event-id"]);
  assert.deepEqual(behind, [undefined, "5", "7"]);
});

test("a version is waited for, and says why it failed", async () => {
  const version = { functionId: ID, version: 3, buildId: "b", createdAt: AT, updatedAt: AT };
  await using server = await TestServer.start(
    json({ ...version, state: "building" }),
    json({ ...version, state: "ready" }),
    json({ ...version, state: "failed", error: "no module" }),
  );
  const client = server.client();
  assert.equal((await client.waitForVersion(ID, 3)).state, "ready");
  await assert.rejects(client.waitForVersion(ID, 3), (error: unknown) => {
    assert.ok(error instanceof DeployFailedError);
    assert.equal(error.message, "no module");
    return true;
  });
});

test("drafts go with what was looked at, archives as forms", async () => {
  await using server = await TestServer.start(
    refuse(412, "precondition_failed"),
    json({ state: "building" }),
  );
  const client = server.client();
  const saving = client.putDraft(ID, { files: [] }, { ifMatch: '"1"' });
  await assert.rejects(saving, PreconditionFailedError);
  await client.deployFunction(ID, {
    archive: Uint8Array.from([1, 2, 0xff]),
    entry: "a.py",
    promote: false,
  });
  const [draft, deploy] = server.asked;
  assert.deepEqual([draft?.method, draft?.headers["if-match"]], ["PUT", '"1"']);
  assert.match(deploy?.headers["content-type"] ?? "", /^multipart\/form-data; boundary=/);
  assert.match(deploy?.body ?? "", /name="entry"\r\n\r\na\.py\r\n/);
  assert.match(deploy?.body ?? "", /name="promote"\r\n\r\nfalse\r\n/);
  assert.match(deploy?.body ?? "", /name="archive"; filename="archive\.tar\.gz"/);
});
