import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { inspect } from "node:util";
import {
  ApiError,
  CakeworkClient,
  ConflictError,
  ConnectionError,
  InternalError,
  NotFoundError,
  QuotaExceededError,
  TimeoutError,
  UnexpectedAnswerError,
  version,
} from "@cakework/client";
import { breakOff, json, lineEvent, refuse, sayNothing, stream, TestServer, VM } from "./server.ts";

// Node's fetch opens another one when a call begins before it has put the one before back.
test("calls share connections", async () => {
  await using server = await TestServer.start(json(VM));
  const client = server.client();
  for (let n = 0; n < 20; n++) await client.getVm(VM.id);
  await client.stopVM(VM.id);
  assert.equal(server.asked.length, 21);
  assert.ok(server.connections <= 5);
});

test("calls that are refused do too", async () => {
  await using server = await TestServer.start(refuse(404, "not_found"));
  const client = server.client();
  for (let n = 0; n < 20; n++) await assert.rejects(client.getVm(VM.id), NotFoundError);
  assert.ok(server.connections <= 5);
});

test("a request carries key, type, name of the client, and a key of its own", async () => {
  await using server = await TestServer.start(json(VM));
  await server.client().startVM({ imageId: VM.imageId, port: 80, cpu: undefined });
  const { method, url, headers, body } = server.asked[0] ?? assert.fail();
  assert.equal(`${method} ${url}`, "POST /v1/vm/start");
  assert.equal(headers["x-api-key"], "cw_test");
  assert.equal(headers["content-type"], "application/json");
  assert.equal(headers["user-agent"], `cakework-typescript/${version}`);
  assert.match(String(headers["idempotency-key"]), /^[0-9a-f]{32}$/);
  assert.deepEqual(JSON.parse(body), { imageId: VM.imageId, port: 80 });
});

test("queries and ids are encoded, and what is undefined is left out", async () => {
  await using server = await TestServer.start(json({ lines: [] }));
  const from = new Date("2026-01-02T03:04:05.678Z");
  await server.client().getVMLogs("a/../b?c", { query: "a&b=c d", from, to: undefined });
  assert.equal(
    server.asked[0]?.url,
    "/v1/vm/a%2F..%2Fb%3Fc/logs?query=a%26b%3Dc+d&from=2026-01-02T03%3A04%3A05.678Z",
  );
});

test("an id that would lead elsewhere does not", async () => {
  await using server = await TestServer.start(json(VM));
  await assert.rejects(server.client().getVm(".."), /vmId must be the id of something/);
  await assert.rejects(server.client().getVm(""), /vmId must be the id of something/);
  assert.equal(server.asked.length, 0);
});

test("what may be repeated is, with the same key, when the connection breaks", async () => {
  await using server = await TestServer.start(breakOff, breakOff, json(VM));
  assert.equal((await server.client().startVM({ imageId: VM.imageId })).id, VM.id);
  const keys = new Set(server.asked.map((asked) => asked.headers["idempotency-key"]));
  assert.deepEqual([server.asked.length, keys.size], [3, 1]);
});

test("what may not be repeated is not, when the connection breaks", async () => {
  await using server = await TestServer.start(breakOff);
  await assert.rejects(server.client().deleteWebhook("ep_1"), ConnectionError);
  await assert.rejects(server.client().updateWebhook("ep_1", {}), ConnectionError);
  assert.equal(server.asked.length, 2);
});

test("no more tries are made than retries allow", async () => {
  await using server = await TestServer.start(breakOff);
  await assert.rejects(server.client({ retries: 1 }).getVm(VM.id), ConnectionError);
  assert.equal(server.asked.length, 2);
  await assert.rejects(server.client().getVm(VM.id, { retries: 0 }), ConnectionError);
  assert.equal(server.asked.length, 3);
});

for (const [status, code] of [
  [429, "quota_exceeded"],
  [503, "no_room"],
] as const) {
  test(`a ${status} is asked again after its Retry-After`, async () => {
    const busy = refuse(status, code, { "Retry-After": "1" });
    await using server = await TestServer.start(busy, json(VM));
    const began = performance.now();
    await server.client().deleteWebhook("ep_1");
    assert.ok(performance.now() - began >= 990);
    assert.equal(server.asked.length, 2);
  });
}

test("a Retry-After that is a date is kept to", async () => {
  const date = new Date(Date.now() + 2000).toUTCString();
  await using server = await TestServer.start(
    refuse(503, "no_room", { "Retry-After": date }),
    json(VM),
  );
  await server.client().getVm(VM.id);
  assert.ok(Date.now() >= Date.parse(date));
});

test("a Retry-After beyond the timeout is not waited for", async () => {
  await using server = await TestServer.start(
    refuse(429, "quota_exceeded", { "Retry-After": "3600" }),
  );
  await assert.rejects(server.client().getVm(VM.id), (error: unknown) => {
    assert.ok(error instanceof QuotaExceededError);
    assert.equal(error.retryAfter, 3600);
    return true;
  });
  assert.equal(server.asked.length, 1);
});

test("other refusals are not asked again", async () => {
  await using server = await TestServer.start(
    refuse(500, "internal_error"),
    refuse(409, "conflict"),
  );
  await assert.rejects(server.client().getVm(VM.id), InternalError);
  await assert.rejects(server.client().startCachedVM(VM.id), ConflictError);
  assert.equal(server.asked.length, 2);
});

test("a code that is not known yet has the class of its status, one of no known status is an ApiError", async () => {
  await using server = await TestServer.start(refuse(409, "brand_new"), refuse(418, "teapot"));
  await assert.rejects(server.client().getVm(VM.id), ConflictError);
  await assert.rejects(server.client().getVm(VM.id), (error: unknown) => {
    assert.ok(error instanceof ApiError);
    const { name, code, status, requestId, message, errors } = error;
    assert.deepEqual(
      { name, code, status, requestId, message, errors },
      {
        name: "ApiError",
        code: "teapot",
        status: 418,
        requestId: "r1",
        message: "It is teapot.",
        errors: [],
      },
    );
    return true;
  });
});

test("what is not Cakework's answer says so", async () => {
  const page = (status: number) => (response: import("node:http").ServerResponse) =>
    void response.writeHead(status).end("<html>");
  await using server = await TestServer.start(page(200), page(403));
  await assert.rejects(server.client().getVm(VM.id), UnexpectedAnswerError);
  await assert.rejects(server.client().getVm(VM.id), {
    code: "unexpected_answer",
    message: "The server answered 403 Forbidden.",
  });
});

test("the timeout is one for all tries together", async () => {
  await using server = await TestServer.start(sayNothing);
  await assert.rejects(server.client({ timeout: 50 }).getVm(VM.id), TimeoutError);
  // On a busy machine that may be over before the request has come.
  assert.ok(server.asked.length <= 1);
  await assert.rejects(server.client().getVm(VM.id, { timeout: 50 }), { code: "timeout" });
});

test("the timeout counts the body too", async () => {
  const half = (response: import("node:http").ServerResponse) =>
    void response.writeHead(200).write('{"id":');
  await using server = await TestServer.start(half);
  await assert.rejects(server.client({ timeout: 50 }).getVm(VM.id), TimeoutError);
});

test("a timeout that is none is refused", () => {
  for (const timeout of [0, -1, Number.NaN]) {
    assert.throws(() => new CakeworkClient({ apiKey: "cw_x", timeout }), RangeError);
  }
});

test("a signal stops a call with its own reason, also between tries", async () => {
  await using server = await TestServer.start(
    sayNothing,
    refuse(503, "no_room", { "Retry-After": "30" }),
  );
  for (let n = 0; n < 2; n++) {
    const stop = new AbortController();
    const call = server.client().getVm(VM.id, { signal: stop.signal });
    while (server.asked.length <= n) await new Promise(setImmediate);
    const reason = new Error("enough");
    stop.abort(reason);
    await assert.rejects(call, reason);
  }
  const reason = new Error("before");
  await assert.rejects(server.client().getVm(VM.id, { signal: AbortSignal.abort(reason) }), reason);
  assert.equal(server.asked.length, 2);
});

test("a signal is held on to by no call that is over", async () => {
  const { signal } = new AbortController();
  await using server = await TestServer.start(
    json(VM),
    refuse(404, "not_found"),
    breakOff,
    json(VM),
    stream(`: following\n\n${lineEvent(1)}`, "break"),
    stream(lineEvent(2), "stay"),
  );
  const client = server.client();
  await client.getVm(VM.id, { signal });
  await assert.rejects(client.getVm(VM.id, { signal }), NotFoundError);
  await client.getVm(VM.id, { signal });
  for await (const line of client.followLogs({ vmId: VM.id }, { signal })) if (line.id === 2) break;
  assert.deepEqual(getEventListeners(signal, "abort"), []);
});

test("a redirect is not followed, since the key would go along", async () => {
  await using other = await TestServer.start(json(VM));
  await using server = await TestServer.start(
    (response) => void response.writeHead(307, { Location: `${other.url}/v1/vm/x` }).end(),
  );
  await assert.rejects(server.client({ retries: 0 }).getVm(VM.id), ConnectionError);
  assert.equal(other.asked.length, 0);
});

test("nobody there is a ConnectionError that names the address and the reason", async () => {
  const server = await TestServer.start(json(VM));
  const { url } = server;
  const client = server.client({ retries: 0 });
  await server[Symbol.asyncDispose]();
  await assert.rejects(client.getVm(VM.id), (error: unknown) => {
    assert.ok(error instanceof ConnectionError);
    assert.equal(error.code, "unreachable");
    assert.match(error.message, new RegExp(`^Cannot reach Cakework at ${url}: .*ECONNREFUSED`));
    return true;
  });
});

test("the key is shown by nothing", async () => {
  const key = "cw_secret";
  await using server = await TestServer.start(refuse(401, "unauthenticated"));
  const client = server.client({ apiKey: key });
  const error = await client.getVm(VM.id).catch((refused: unknown) => refused);
  for (const shown of [client, error]) {
    const words = inspect(shown, { depth: 20, showHidden: true, showProxy: true });
    assert.ok(!`${words}${shown}${JSON.stringify(shown)}`.includes(key));
  }
});

test("a key that is no header is refused without being shown, and one with white space around is not", async () => {
  for (const apiKey of ["cw_sec\nret", "cw_secrét"]) {
    assert.throws(
      () => new CakeworkClient({ apiKey }),
      (error: unknown) => error instanceof TypeError && !error.message.includes("cw_sec"),
    );
    const late = new CakeworkClient({ apiKey: () => apiKey });
    await assert.rejects(late.getVm(VM.id), {
      message: "The API key has characters that no key has.",
    });
  }
  await using server = await TestServer.start(json(VM));
  await server.client({ apiKey: "cw_secret\n" }).getVm(VM.id);
  assert.equal(server.asked[0]?.headers["x-api-key"], "cw_secret");
});

test("address and key come from the environment when they are not given", async () => {
  await using server = await TestServer.start(json(VM));
  const { CAKEWORK_URL, CAKEWORK_API_KEY } = process.env;
  try {
    delete process.env["CAKEWORK_API_KEY"];
    assert.throws(() => new CakeworkClient(), /CAKEWORK_API_KEY/);
    Object.assign(process.env, { CAKEWORK_URL: `${server.url}/`, CAKEWORK_API_KEY: "cw_env" });
    const client = new CakeworkClient();
    assert.equal(client.url, server.url);
    await client.getVm(VM.id);
    assert.equal(server.asked[0]?.headers["x-api-key"], "cw_env");
    assert.equal(server.asked[0]?.url, `/v1/vm/${VM.id}`);
  } finally {
    const before = { CAKEWORK_URL, CAKEWORK_API_KEY };
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
});

test("an address may have a path, and must be one", async () => {
  await using server = await TestServer.start(json(VM));
  await server.client({ url: new URL(`${server.url}/cake/`) }).getVm(VM.id);
  assert.equal(server.asked[0]?.url, `/cake/v1/vm/${VM.id}`);
  for (const url of ["localhost:8081", "ftp://a", ""]) {
    assert.throws(() => new CakeworkClient({ url, apiKey: "cw_x" }), /url must be an http/);
  }
});

test("an idempotency key that is none is refused before anything is sent", async () => {
  await using server = await TestServer.start(json(VM));
  await assert.rejects(
    server.client().stopVM(VM.id, { idempotencyKey: "a\nb" }),
    /idempotencyKey must be/,
  );
  await server.client().stopVM(VM.id, { idempotencyKey: "order 7" });
  assert.equal(server.asked[0]?.headers["idempotency-key"], "order 7");
});

test("lists go on page after page, and no page is asked for that is not wanted", async () => {
  const page = (id: string, pagination?: string) => json({ vms: [{ ...VM, id }, VM], pagination });
  await using server = await TestServer.start(page("a", "2"), page("b", "3"), page("c"));
  const ids: string[] = [];
  for await (const vm of server.client().listAllVMs({ status: "started" })) ids.push(vm.id);
  assert.deepEqual(ids, ["a", VM.id, "b", VM.id, "c", VM.id]);
  assert.deepEqual(
    server.asked.map((asked) => asked.url),
    ["", "&pagination=2", "&pagination=3"].map((more) => `/v1/vms?status=started${more}`),
  );
  await using short = await TestServer.start(page("a", "2"));
  for await (const _ of short.client().listAllVMs()) break;
  assert.equal(short.asked.length, 1);
});

test("a log's pages send back all three that a page gave", async () => {
  const lines = [{ id: 1, timestamp: 1, level: "info", message: "a" }];
  const more = {
    pagination: "p",
    from: "2026-01-01T00:00:00.000Z",
    to: "2026-01-02T00:00:00.000Z",
  };
  await using server = await TestServer.start(json({ lines, ...more }), json({ lines }));
  const read = await Array.fromAsync(server.client().getAllVMLogs(VM.id, { query: "a" }));
  assert.equal(read.length, 2);
  const last = new URL(server.asked[1]?.url ?? "", server.url).searchParams;
  assert.deepEqual(Object.fromEntries(last), { batch: "1000", query: "a", ...more });
});
