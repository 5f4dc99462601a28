/** The running Cakework that these tests are given, and what waits for it. */
import assert from "node:assert/strict";
import { CakeworkClient } from "@cakework/client";

const DEADLINE_MS = 120_000;

/** An image that runs the shell script in `envVars.SCRIPT`. */
export const IMAGE = given("CAKEWORK_TEST_IMAGE");
/** An image like it in a registry, and the password there. */
export const REFERENCE = given("CAKEWORK_TEST_REFERENCE");
export const PASSWORD = given("CAKEWORK_TEST_PASSWORD");
/** An address of this host where webhooks may go. */
export const HOOKS = given("CAKEWORK_TEST_HOOKS");

export const NOWHERE = "0".repeat(14);

/** Calls about functions and what triggers them, which have tests of their own. */
export const ABOUT_FUNCTIONS =
  /Function|Version|Invocation|DeadLetter|Draft|Secret|Trigger|Event|Filter|Schedule|Transform/;

/** A client that remembers which of its methods were called. */
export const called = new Set<string>();
export const client = new Proxy(new CakeworkClient(), {
  get(target, name) {
    called.add(String(name));
    const found: unknown = Reflect.get(target, name, target);
    return typeof found === "function" ? found.bind(target) : found;
  },
});

/** Looks again and again until there is something. */
export async function until<T>(what: string, look: () => Promise<T | undefined>): Promise<T> {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    assert.ok(Date.now() < deadline, `never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function given(name: string): string {
  return process.env[name] ?? assert.fail(`${name} is not set; tests/acceptance sets it`);
}
