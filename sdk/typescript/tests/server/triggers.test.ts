/** Triggers and events: every call about them. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, test } from "node:test";
import { NotFoundError } from "@cakework/client";
import { routes } from "../../dist/esm/generated/calls.js";
import { called, client } from "./platform.ts";

const CODE = 'def handler(event, context):\n    return event["data"]\n';
const files = [{ dir: ".", name: "main.py", content: CODE }];

after(() => {
  const here = Object.keys(routes).filter((name) =>
    /Trigger|Events$|^getEvent|Filter|Schedule/.test(name),
  );
  const missing = here.filter((name) => !called.has(name));
  assert.deepEqual(missing, [], "each call about triggers and events is called here, or elsewhere");
});

async function made(): Promise<string> {
  const name = `f-${randomUUID()}`;
  const { id } = await client.createFunction({ name, runtime: "python3.11", source: { files } });
  await client.waitForVersion(id, 1);
  return id;
}

test("a schedule is looked at, made, run, paused, changed and deleted", async () => {
  const functionId = await made();
  const config = { cron: "0 9 * * 1-5", timeZone: "Europe/Berlin" };
  const { times } = await client.previewSchedule({ ...config, count: 3 });
  assert.equal(times.length, 3);
  const schedule = await client.createTrigger({ functionId, type: "cron", config, name: "daily" });
  assert.deepEqual(schedule.next?.slice(0, 3), times);
  assert.ok("cron" in schedule.config && schedule.config.timeZone === "Europe/Berlin");
  const { id } = schedule;
  const ran = await client.runTrigger(id, { data: { n: 1 } });
  assert.deepEqual([ran.trigger, ran.triggerId], ["cron", id]);
  const done = await client.waitForInvocation(ran.id);
  assert.deepEqual([done.state, done.result], ["succeeded", { n: 1 }]);
  const of = await Array.fromAsync(client.listAllInvocations({ triggerId: id }));
  assert.deepEqual(
    of.map((each) => each.id),
    [ran.id],
  );
  assert.equal((await client.updateTrigger(id, { enabled: false })).state, "paused");
  const changed = await client.updateTrigger(id, { enabled: true, name: null });
  assert.deepEqual([changed.state, changed.name], ["active", undefined]);
  assert.equal((await client.getTrigger(id)).lastResult, "succeeded");
  const { triggers } = await client.listTriggers({ functionId });
  assert.deepEqual(
    triggers.map((each) => each.id),
    [id],
  );
  await client.deleteTrigger(id);
  await assert.rejects(client.getTrigger(id), NotFoundError);
  await client.deleteFunction(functionId);
});

test("an event makes an invocation where a trigger wants it", async () => {
  const functionId = await made();
  const type = `order.${randomUUID()}`;
  const filter = { data: { total: [{ numeric: [">", 100] }] } };
  const config = { types: [type] };
  const { id } = await client.createTrigger({ functionId, type: "event", config, filter });
  const one = await client.emit(type, { total: 120 }, { subject: "o-1", time: new Date() });
  assert.deepEqual([one.duplicate, one.invocations], [false, 1]);
  const { invocations = [] } = await client.getEvent(one.id);
  const [led = assert.fail()] = invocations;
  assert.equal(led.triggerId, id);
  const done = await client.waitForInvocation(led.id);
  assert.deepEqual([done.result, done.cause?.eventId], [{ total: 120 }, one.id]);
  const many = [
    { type, data: { total: 9 } },
    { type, data: { total: 900 }, extra: "mine" },
  ];
  const { events } = await client.emitEvents({ events: many });
  assert.deepEqual(
    events.map((each) => each.invocations),
    [0, 1],
  );
  assert.equal((await client.listEvents({ type, subject: "o-1" })).events[0]?.id, one.id);
  const all = await Array.fromAsync(client.listAllEvents({ type, from: new Date(0) }));
  assert.equal(all.length, 3);
  const match = await client.testFilter({ filter, event: { type, data: { total: 9 } } });
  assert.ok(!match.matches && match.because.length > 0);
  await client.deleteFunction(functionId);
});

test("a webhook's secret is shown once, and changed", async () => {
  const functionId = await made();
  const config = { verify: { scheme: "standard" as const } };
  const hook = await client.createTrigger({ functionId, type: "webhook", config });
  assert.ok(hook.secret && hook.url);
  const found = await Array.fromAsync(client.listAllTriggers({ functionId, type: "webhook" }));
  assert.ok(found.length === 1 && found[0] && !("secret" in found[0]));
  const rotated = await client.rotateTriggerSecret(hook.id, { url: true });
  assert.ok(rotated.secret !== hook.secret && rotated.url !== hook.url);
  await client.deleteFunction(functionId);
});

test("records go through a function, whatever their names", async () => {
  const code = "def transform(record):\n    return {**record, 'cents': record['total'] * 100}\n";
  const { id } = await client.createFunction({
    name: `cents-${randomUUID()}`,
    kind: "transform",
    runtime: "python",
    // Where VMs are emulated, the first record waits for its instance for longer than a second.
    settings: { timeoutMs: 30_000 },
    source: { files: [{ dir: ".", name: "main.py", content: code }] },
  });
  await client.waitForVersion(id, 1);
  assert.deepEqual(await client.applyTransform(id, { total: 5 }), { total: 5, cents: 500 });
  const all = await client.applyTransformToAll(id, [{ total: 1 }, { total: 2 }]);
  assert.deepEqual(
    all.map((each) => (each as { cents: number }).cents),
    [100, 200],
  );
  await client.deleteFunction(id);
});
