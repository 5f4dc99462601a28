/** What must compile, and, below `@ts-expect-error`, what must not. Nothing here is run. */
import {
  ApiError,
  type Build,
  BuildFailedError,
  CakeworkClient,
  type File,
  type LogLine,
  type Vm,
  verifyWebhook,
} from "@cakework/client";
import { CakeworkApi, CakeworkApiClient, CakeworkApiEnvironment } from "@cakework/client/compat";
import { uploadDirectory } from "@cakework/client/node";

export async function right(client: CakeworkClient, maybe: number | undefined): Promise<void> {
  const vm: Vm = await client.startVM({
    imageId: "i",
    cpu: maybe,
    port: null,
    envVars: { A: "1" },
  });
  const state: "created" | "started" | "stopped" | "destroyed" = vm.state;
  const port: number | undefined = vm.port;
  const page = await client.listVMs({ status: state, pagination: undefined });
  const next: string | undefined = page.pagination;
  for await (const line of client.followLogs({ vmId: vm.id }, { from: new Date() })) {
    const { id, level }: { id: number; level: "info" | "error" } = line;
    void [id, level, port, next];
  }
  await client.getBuildLogs("b", { order: "newest_first", batch: 50, from: "2026-01-01" });
  await client.updateWebhook("w", { events: null, enabled: false });
  const build: Build = await uploadDirectory(client, ".", { signal: new AbortController().signal });
  await client.waitForBuild(build.buildId, { onLine: (line: LogLine) => line.message });
  const event = await verifyWebhook("", new Headers(), ["whsec_a", "whsec_b"]);
  if (event.type === "build.failed") void event.data.error;
  if (event.type === "vm.stopped") void event.data.exitCode;
  if (event.type === "function.failed") void [event.data.functionId, event.data.error];
  if (event.type === "invocation.failed") void event.data.attempts[0]?.outcome;
}

export async function functions(client: CakeworkClient, maybe: number | undefined): Promise<void> {
  const { id, settings } = await client.createFunction({
    name: "f",
    runtime: "node",
    settings: { memory: maybe, retry: { maxAttempts: 2, on: ["timeout"] } },
  });
  const most: number | undefined = settings.retry?.maxAttempts;
  for await (const done of client.invokeMany(id, [1, "a", null], { atOnce: maybe })) {
    const why: string | undefined = done.error?.message;
    void [why, most, done.attempts[0]?.durationMs];
  }
  for await (const line of client.followLogs({ functionId: id })) {
    const of: string | undefined = line.invocationId;
    void of;
  }
  const { content }: { content: Uint8Array } = await client.getInvocationResult("inv");
  await client.deployFunction(id, { archive: content });
  await client.listInvocations({ from: new Date(), state: "failed" });
  // @ts-expect-error: there is no such setting
  await client.updateFunction(id, { settings: { memry: 1 } });
  // @ts-expect-error: there is no such state
  await client.listInvocations({ state: "dead" });
  // @ts-expect-error: what was looked at is to be said
  await client.putDraft(id, { files: [] });
  // @ts-expect-error: a VM's lines are of no invocation
  for await (const line of client.followLogs({ vmId: "v" })) void line.invocationId;
}

export function wrong(client: CakeworkClient): void {
  // @ts-expect-error: an option that there is none of
  new CakeworkClient({ apikey: "k" });
  // @ts-expect-error: a number is no address
  new CakeworkClient({ url: 8081 });
  // @ts-expect-error: imageId is required
  void client.startVM({});
  // @ts-expect-error: diskSize is cacheVM's
  void client.startVM({ imageId: "i", diskSize: 1 });
  // @ts-expect-error: volumeGb is the compatible client's
  void client.cacheVM({ imageId: "i", volumeGb: 1 });
  // @ts-expect-error: variables are text
  void client.startVM({ imageId: "i", envVars: { A: 1 } });
  // @ts-expect-error: there is no such state
  void client.listVMs({ status: "running" });
  // @ts-expect-error: all pages have no token
  void client.listAllVMs({ pagination: "p" });
  // @ts-expect-error: a page is not followed
  void client.getVMLogs("v", { follow: true });
  // @ts-expect-error: what is followed comes oldest first
  void client.followLogs({ vmId: "v" }, { order: "newest_first" });
  // @ts-expect-error: the log of what
  void client.followLogs("v");
  // @ts-expect-error: a key makes only changes happen once
  void client.getVm("v", { idempotencyKey: "k" });
  // @ts-expect-error: there is no such encoding
  const file: File = { dir: ".", name: "a", content: "", encoding: "hex" };
  void client.buildImageFromFiles({ dockerfile: "", files: [file] });
  // @ts-expect-error: there is no such event
  void client.createWebhook({ url: "https://a", events: ["vm.paused"] });
  // @ts-expect-error: body and headers alone say nothing
  void verifyWebhook("", new Headers());
}

export async function wrongAnswers(client: CakeworkClient): Promise<void> {
  const build = await client.getBuild("b");
  // @ts-expect-error: there is no image until the build has succeeded
  const imageId: string = build.imageId;
  // @ts-expect-error: a time is text
  void build.createdAt.getTime();
  // @ts-expect-error: lines have numbers
  for await (const line of client.followLogs({ buildId: "b" })) void line.id.length;
  const event = await verifyWebhook("", {}, "s");
  // @ts-expect-error: not every event is of a build
  void event.data.buildId;
  void imageId;
}

export function errors(error: unknown): string | undefined {
  if (error instanceof BuildFailedError) return error.build.error;
  if (error instanceof ApiError) {
    const { status, code, requestId, errors }: ApiError = error;
    void [status, code, errors[0]?.field];
    // @ts-expect-error: what was answered does not change
    error.status = 200;
    return requestId;
  }
  return undefined;
}

export async function then(): Promise<CakeworkApi.Vm> {
  const options: CakeworkApiClient.Options = { environment: CakeworkApiEnvironment.Local };
  const client = new CakeworkApiClient({ ...options, xApiKey: async () => "k" });
  const vm = await client.startVm({ imageId: "i", volumeGb: 1, envVars: { A: undefined } });
  const made: Date = vm.createdAt;
  // @ts-expect-error: volumeGB is the client's of today
  void client.startVm({ imageId: "i", volumeGB: 1 });
  // @ts-expect-error: it gave nothing back
  const stopped: CakeworkApi.Vm = await client.stopVm(vm.id);
  void [made, stopped, CakeworkApi.BadRequest];
  return vm;
}
