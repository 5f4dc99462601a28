/** Calls the handlers without a server. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { call, fetch, makeEvent } from "@cakework/functions/testing";
import main from "./main.ts";

test("an event is answered", async () => {
  assert.deepEqual(await call(main.event, makeEvent({ name: "Ada" })), { hello: "Ada" });
});

test("a request is answered", async () => {
  const response = await fetch(main, new Request("https://hello.example/?name=Ada"));
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), { hello: "Ada" });
});
