import assert from "node:assert/strict";
import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { test } from "node:test";
import {
  BuildFailedError,
  ConnectionError,
  type LogLine,
  NotFoundError,
  TimeoutError,
} from "@cakework/client";
// Not a part of the package's face: how long silence may last.
import { followLogs } from "../../dist/esm/follow.js";
import { Transport } from "../../dist/esm/transport.js";
import { END, json, lineEvent, refuse, stream, TestServer, VM } from "./server.ts";

const SOURCE = { vmId: VM.id };

async function messages(lines: AsyncIterable<LogLine>): Promise<string[]> {
  const found: string[] = [];
  for await (const line of lines) found.push(line.message);
  return found;
}

test("a log is followed to its end", async () => {
  const words = `: following\n\n${lineEvent(1)}: still here\n\n${lineEvent(2)}${END}`;
  await using server = await TestServer.start(stream(words, "end"));
  const lines = server.client().followLogs(SOURCE, { query: "line", from: new Date(0) });
  assert.deepEqual(await messages(lines), ["line 1", "line 2"]);
  assert.equal(
    server.asked[0]?.url,
    `/v1/vm/${VM.id}/logs?query=line&from=1970-01-01T00%3A00%3A00.000Z&follow=true`,
  );
  assert.equal(server.asked[0]?.headers.accept, "text/event-stream");
  assert.equal(server.asked[0]?.headers["last-event-id"], undefined);
});

test("events are read however their bytes come", async () => {
  const words = `: following\r\n\r\n${lineEvent(1, "é → 🎂").replaceAll("\n", "\r\n")}${lineEvent(2).replaceAll("\n", "\r")}${END}`;
  const byteByByte = async (response: ServerResponse) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    for (const byte of Buffer.from(words)) {
      response.write(Buffer.of(byte));
      await new Promise(setImmediate);
    }
    response.end();
  };
  await using server = await TestServer.start(byteByByte);
  assert.deepEqual(await messages(server.client().followLogs(SOURCE)), ["é → 🎂", "line 2"]);
});

for (const how of ["break", "end"] as const) {
  test(`a stream that comes to a sudden ${how} goes on behind its last line`, async () => {
    const half = lineEvent(3).slice(0, 20);
    await using server = await TestServer.start(
      stream(`: following\n\n${lineEvent(1)}${lineEvent(2)}${half}`, how),
      stream(`: following\n\n${lineEvent(3)}`, how),
      refuse(503, "unavailable", { "Retry-After": "0" }),
      stream(`: following\n\n${lineEvent(4)}${END}`, "end"),
    );
    assert.deepEqual(
      await messages(server.client().followLogs(SOURCE)),
      [1, 2, 3, 4].map((id) => `line ${id}`),
    );
    assert.deepEqual(
      server.asked.map((asked) => asked.headers["last-event-id"]),
      [undefined, "2", "3", "3"],
    );
  });
}

test("a stream that breaks before its first line goes on too, and is given up at last", async (context) => {
  await using server = await TestServer.start(stream("", "break"), stream(END, "end"));
  assert.deepEqual(await messages(server.client().followLogs(SOURCE)), []);
  context.mock.method(Math, "random", () => -0.99);
  await using broken = await TestServer.start(stream(": following\n\n", "end"));
  await assert.rejects(messages(broken.client().followLogs(SOURCE)), ConnectionError);
  assert.equal(broken.asked.length, 9);
});

test("a stream that says nothing any more is made again", async (context) => {
  await using server = await TestServer.start(
    stream(`: following\n\n${lineEvent(1)}`, "stay"),
    stream(lineEvent(2) + END, "end"),
  );
  const transport = new Transport({ url: server.url, apiKey: "cw_test" });
  const later = setTimeout;
  context.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const found: string[] = [];
  // Time goes by once the first line has come, and leaves every next try more for the second.
  const tick = (wait: number) => {
    if (found.length === 1) context.mock.timers.tick(1000);
    if (found.length < 2) later(tick, wait, 2 * wait);
  };
  later(tick, 20, 40);
  for await (const line of followLogs(transport, SOURCE, {}, 200)) found.push(line.message);
  assert.deepEqual(found, ["line 1", "line 2"]);
});

test("while the consumer takes its time, no silence is counted", async (context) => {
  await using server = await TestServer.start(stream(lineEvent(1) + lineEvent(2) + END, "end"));
  const transport = new Transport({ url: server.url, apiKey: "cw_test" });
  context.mock.timers.enable({ apis: ["setTimeout", "Date"] });
  const lines = followLogs(transport, SOURCE, {}, 200);
  for await (const _ of lines) context.mock.timers.tick(1000);
  assert.equal(server.asked.length, 1);
});

test("following begins behind the line that is named", async () => {
  await using server = await TestServer.start(stream(END, "end"));
  assert.deepEqual(await messages(server.client().followLogs(SOURCE, { after: 7 })), []);
  assert.equal(server.asked[0]?.headers["last-event-id"], "7");
});

test("what is refused at first is refused, and not tried for long", async () => {
  await using server = await TestServer.start(refuse(404, "not_found"));
  await assert.rejects(messages(server.client().followLogs(SOURCE)), NotFoundError);
  assert.equal(server.asked.length, 1);
});

test("a consumer that leaves the loop ends the connection", async () => {
  let closed: Promise<unknown> = Promise.resolve();
  await using server = await TestServer.start((response) => {
    closed = once(response, "close");
    stream(`: following\n\n${lineEvent(1)}${lineEvent(2)}`, "stay")(
      response,
      server.asked[0] ?? never(),
    );
  });
  for await (const line of server.client().followLogs(SOURCE)) {
    assert.equal(line.id, 1);
    break;
  }
  await closed;
  assert.equal(server.asked.length, 1);
});

test("a signal ends the following and the connection, with its reason", async () => {
  const stop = new AbortController();
  let closed: Promise<unknown> = Promise.resolve();
  await using server = await TestServer.start((response) => {
    closed = once(response, "close");
    stream(lineEvent(1), "stay")(response, server.asked[0] ?? never());
  });
  const reason = new Error("enough");
  const following = async () => {
    for await (const _ of server.client().followLogs(SOURCE, { signal: stop.signal })) {
      setTimeout(() => stop.abort(reason), 20);
    }
  };
  await assert.rejects(following(), reason);
  await closed;
});

test("a timeout ends the following", async () => {
  await using server = await TestServer.start(stream(lineEvent(1), "stay"));
  await assert.rejects(
    messages(server.client().followLogs(SOURCE, { timeout: 100 })),
    TimeoutError,
  );
});

const BUILD = { buildId: "b", status: "created", createdAt: "", updatedAt: "" };

test("waitForBuild gives each line and returns the build when it has succeeded", async () => {
  await using server = await TestServer.start(
    stream(lineEvent(1) + lineEvent(2) + END, "end"),
    json(BUILD),
    json({ ...BUILD, status: "succeeded", imageId: VM.imageId }),
  );
  const lines: string[] = [];
  const onLine = (line: LogLine) => lines.push(line.message);
  const build = await server.client().waitForBuild("b", { onLine });
  assert.equal(build.imageId, VM.imageId);
  assert.deepEqual(lines, ["line 1", "line 2"]);
});

test("waitForBuild throws the build that has failed", async () => {
  const failed = { ...BUILD, status: "failed", error: "RUN exited with 7" };
  await using server = await TestServer.start(stream(END, "end"), json(failed));
  await assert.rejects(server.client().waitForBuild("b"), (error: unknown) => {
    assert.ok(error instanceof BuildFailedError);
    assert.deepEqual(
      [error.message, error.code, error.build],
      [failed.error, "build_failed", failed],
    );
    return true;
  });
});

test("waitForBuild keeps to its timeout, and an onLine that throws ends it", async () => {
  await using server = await TestServer.start(stream(lineEvent(1), "stay"));
  await assert.rejects(server.client().waitForBuild("b", { timeout: 100 }), TimeoutError);
  const mine = new Error("mine");
  const onLine = () => {
    throw mine;
  };
  await assert.rejects(server.client().waitForBuild("b", { onLine }), mine);
});

function never(): never {
  throw new Error("nothing was asked");
}
