/** What is sent where triggers and events are concerned. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { LoopDetectedError } from "@cakework/client";
import { json, refuse, TestServer } from "./server.ts";

const EMITTED = { id: "evt_01M84JAQ6RGNRXKE5TFB8SJJJE", duplicate: false, invocations: 2 };
const FUNCTION = "fn_01M84JAQ6RGNRXKE5TFB8SJJJE";

test("an event is emitted once, with what is given of it", async () => {
  const busy = refuse(503, "unavailable", { "Retry-After": "0" });
  await using server = await TestServer.start(busy, json({ events: [EMITTED] }, 202));
  const time = new Date("2026-03-03T20:22:39.096Z");
  const told = { subject: "o-1", time, userId: "u" };
  assert.deepEqual(await server.client().emit("order.paid", { n: 1 }, told), EMITTED);
  const [first, again = assert.fail()] = server.asked;
  assert.equal(first?.headers["idempotency-key"], again.headers["idempotency-key"]);
  assert.equal(`${again.method} ${again.url}`, "POST /v1/events?userId=u");
  const event = { type: "order.paid", subject: "o-1", time: time.toISOString(), data: { n: 1 } };
  assert.deepEqual(JSON.parse(again.body), { events: [event] });
});

test("events have attributes of one's own, and whose they are is said beside them", async () => {
  await using server = await TestServer.start(json({ events: [EMITTED] }, 202));
  const events = [{ type: "order.paid", cakeworkcause: "inv_x" }];
  await server.client().emitEvents({ events, userId: "u" });
  assert.equal(server.asked[0]?.url, "/v1/events?userId=u");
  assert.deepEqual(JSON.parse(server.asked[0]?.body ?? ""), { events });
});

test("a loop of events is a conflict of its own kind", async () => {
  await using server = await TestServer.start(refuse(409, "loop_detected"));
  await assert.rejects(server.client().emit("a"), LoopDetectedError);
});

test("triggers are told, changed, run and rotated at their addresses", async () => {
  await using server = await TestServer.start(json({}));
  const client = server.client();
  const config = { cron: "0 9 * * *", timeZone: "Europe/Berlin" };
  await client.createTrigger({ functionId: FUNCTION, type: "cron", config });
  await client.updateTrigger("t", { filter: null, config: { startAt: null } });
  await client.runTrigger("t", { data: null });
  await client.rotateTriggerSecret("t");
  await client.deleteTrigger("t");
  await client.previewSchedule({ cron: "0 9 * * *", count: 1 });
  assert.deepEqual(
    server.asked.map(({ method, url, body }) => [method, url, body && JSON.parse(body)]),
    [
      ["POST", "/v1/triggers", { functionId: FUNCTION, type: "cron", config }],
      ["PATCH", "/v1/triggers/t", { filter: null, config: { startAt: null } }],
      ["POST", "/v1/triggers/t/run", { data: null }],
      ["POST", "/v1/triggers/t/rotate", {}],
      ["DELETE", "/v1/triggers/t", ""],
      ["POST", "/v1/schedules/preview", { cron: "0 9 * * *", count: 1 }],
    ],
  );
});
