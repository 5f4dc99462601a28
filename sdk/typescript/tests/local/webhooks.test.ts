import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { test } from "node:test";
import { verifyWebhook, WebhookRejectedError } from "@cakework/client";
import { VM } from "./server.ts";

const SECRET = `whsec_${randomBytes(24).toString("base64")}`;
const EVENT = {
  type: "vm.started",
  timestamp: "2026-01-01T00:00:00.000Z",
  data: { ...VM, url: "ü" },
};
const BODY = JSON.stringify(EVENT);

/** Signs as Standard Webhooks 1.0 says, by other means than what is tested. */
function signed(body = BODY, secret = SECRET, at = Date.now() / 1000): Record<string, string> {
  const timestamp = String(Math.floor(at));
  const key = Buffer.from(secret.slice("whsec_".length), "base64");
  const signature = createHmac("sha256", key).update(`msg_1.${timestamp}.${body}`).digest("base64");
  return {
    "webhook-id": "msg_1",
    "webhook-timestamp": timestamp,
    "webhook-signature": `v1,${signature}`,
  };
}

test("a webhook that is signed is taken, in whatever form it comes", async () => {
  const headers = signed();
  const upper = Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name.toUpperCase(), value]),
  );
  for (const given of [headers, upper, new Headers(headers)]) {
    for (const body of [BODY, Buffer.from(BODY), new TextEncoder().encode(BODY)]) {
      assert.deepEqual(await verifyWebhook(body, given, SECRET), EVENT);
    }
  }
});

test("the standard's own example is taken", async () => {
  const headers = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
  };
  const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
  const options = { toleranceSeconds: Number.POSITIVE_INFINITY };
  const event = await verifyWebhook('{"test": 2432232314}', headers, secret, options);
  assert.deepEqual(event, { test: 2432232314 });
});

test("one of several signatures, or of several secrets, is enough", async () => {
  const other = `whsec_${randomBytes(24).toString("base64")}`;
  const headers = signed();
  const both = {
    ...headers,
    "webhook-signature": `v1a,x v1,AAAA v1,? ${headers["webhook-signature"]}`,
  };
  await verifyWebhook(BODY, both, SECRET);
  await verifyWebhook(BODY, headers, [other, SECRET]);
});

test("what is not signed by the secret is rejected", async () => {
  const rejected = async (headers: Record<string, string | string[] | undefined>, body = BODY) => {
    await assert.rejects(verifyWebhook(body, headers, SECRET), WebhookRejectedError);
  };
  const headers = signed();
  await rejected(signed(BODY, `whsec_${randomBytes(24).toString("base64")}`));
  await rejected(headers, BODY.replace("started", "stopped"));
  await rejected({ ...headers, "webhook-id": "msg_2" });
  await rejected({
    ...headers,
    "webhook-timestamp": String(Number(headers["webhook-timestamp"]) + 1),
  });
  await rejected({
    ...headers,
    "webhook-signature": String(headers["webhook-signature"]).replace("v1,", "v2,"),
  });
  await rejected({ ...headers, "webhook-signature": ["v1,a", "v1,b"] });
  for (const name of Object.keys(headers)) await rejected({ ...headers, [name]: undefined });
});

test("what was signed too long ago, or is from the future, is rejected", async () => {
  const now = Date.now() / 1000;
  for (const at of [now - 310, now + 310, Number.NaN]) {
    await assert.rejects(
      verifyWebhook(BODY, signed(BODY, SECRET, at), SECRET),
      WebhookRejectedError,
    );
  }
  await verifyWebhook(BODY, signed(BODY, SECRET, now - 290), SECRET);
  await verifyWebhook(BODY, signed(BODY, SECRET, now - 310), SECRET, { toleranceSeconds: 400 });
});

test("a secret that is none is the caller's fault", async () => {
  await assert.rejects(verifyWebhook(BODY, signed(), "whsec_"), TypeError);
  await assert.rejects(verifyWebhook(BODY, signed(), "!"), TypeError);
});
