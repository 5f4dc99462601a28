import { type FollowOptions, followLogs, type LogSource } from "./follow.js";
import type * as api from "./generated/shapes.js";
import { checkNames } from "./known.js";
import { type AllLogsQuery, allLines, type LogQuery, wire } from "./logs.js";
import { eachOf } from "./pages.js";
import {
  type CallOptions,
  CHANGE_OPTIONS,
  type ChangeOptions,
  type ClientOptions,
  Transport,
} from "./transport.js";
import { type WaitOptions, waitForBuild } from "./waiting.js";

/** What of a list is wanted, on all its pages. */
type All<Query> = Omit<Query, "pagination">;
/** Items one after another, asked for as they are wanted. */
type Items<T> = AsyncGenerator<T, void, undefined>;

/**
 * Speaks with a Cakework server. A method for each call of its API, under the same name, and a few
 * that make several calls: those that end in -All…, followLogs, waitForBuild.
 *
 * Every method throws a CakeworkError: an ApiError when the server refuses, a ConnectionError when it is
 * not reached, a TimeoutError when it takes too long.
 */
export class CakeworkClient {
  readonly #transport: Transport;

  constructor(options: ClientOptions = {}) {
    this.#transport = new Transport(options);
  }

  /** Address of the server. */
  get url(): string {
    return this.#transport.url;
  }

  /** Imports an image from a registry. VMs can be started from it at once, and wait until it is there. */
  importImage(request: api.ImportImage, options?: ChangeOptions): Promise<api.ImportedImage> {
    return this.#transport.call("importImage", { body: request }, options);
  }

  /** Begins to build an image from a Dockerfile and files, such as those that readDirectory read. */
  buildImageFromFiles(
    request: api.BuildFromFiles & { skipped?: string[] | undefined },
    options?: ChangeOptions,
  ): Promise<api.Build> {
    const { skipped: _, ...body } = request;
    return this.#transport.call("buildImageFromFiles", { body }, options);
  }

  /** Begins to build an image from a branch on GitHub. */
  buildImageFromGithub(request: api.BuildFromGithub, options?: ChangeOptions): Promise<api.Build> {
    return this.#transport.call("buildImageFromGithub", { body: request }, options);
  }

  /** Returns a page of the images, newest first. */
  listImages(query: api.ListImagesQuery = {}, options?: CallOptions): Promise<api.ImagePage> {
    return this.#transport.call("listImages", { query }, options);
  }

  /** Yields the images, newest first. */
  listAllImages(query: All<api.ListImagesQuery> = {}, options?: CallOptions): Items<api.Image> {
    const read = (pagination?: string) => this.listImages({ ...query, pagination }, options);
    return eachOf(read, (page) => page.images);
  }

  /** Returns an image. */
  getImage(imageId: string, options?: CallOptions): Promise<api.Image> {
    return this.#transport.call("getImage", { path: { imageId } }, options);
  }

  /** Deletes an image that no VM needs any more. */
  deleteImage(imageId: string, options?: CallOptions): Promise<api.Image> {
    return this.#transport.call("deleteImage", { path: { imageId } }, options);
  }

  /** Returns a build. */
  getBuild(buildId: string, options?: CallOptions): Promise<api.Build> {
    return this.#transport.call("getBuild", { path: { buildId } }, options);
  }

  /** Returns a page of the builds, newest first. */
  listBuilds(query: api.ListBuildsQuery = {}, options?: CallOptions): Promise<api.BuildPage> {
    return this.#transport.call("listBuilds", { query }, options);
  }

  /** Yields the builds, newest first. */
  listAllBuilds(query: All<api.ListBuildsQuery> = {}, options?: CallOptions): Items<api.Build> {
    const read = (pagination?: string) => this.listBuilds({ ...query, pagination }, options);
    return eachOf(read, (page) => page.builds);
  }

  /** Ends a build that has not ended yet. */
  cancelBuild(buildId: string, options?: ChangeOptions): Promise<api.Build> {
    return this.#transport.call("cancelBuild", { path: { buildId } }, options);
  }

  /**
   * Waits until a build has ended, and returns it with its imageId; as long as that takes, unless `timeout` says
   * otherwise. Throws a BuildFailedError if the build has failed.
   */
  waitForBuild(buildId: string, options: WaitOptions = {}): Promise<api.Build> {
    const place = {
      log: (signal: AbortSignal) => this.followLogs({ buildId }, { signal }),
      build: (signal: AbortSignal) => this.getBuild(buildId, { signal }),
    };
    return waitForBuild(place, options);
  }

  /** Returns a page of the log of a build. */
  getBuildLogs(buildId: string, query: LogQuery = {}, options?: CallOptions): Promise<api.LogPage> {
    return this.#transport.call("getBuildLogs", { path: { buildId }, query: wire(query) }, options);
  }

  /** Yields the lines of the log of a build, as many as there are now. */
  getAllBuildLogs(
    buildId: string,
    query: AllLogsQuery = {},
    options?: CallOptions,
  ): Items<api.LogLine> {
    return allLines(query, (asked) => this.getBuildLogs(buildId, asked, options));
  }

  /** Starts a VM: it is destroyed when it is stopped. */
  startVM(request: api.StartVm, options?: ChangeOptions): Promise<api.Vm> {
    return this.#transport.call("startVM", { body: request }, options);
  }

  /** Stops and destroys a VM of startVM. */
  stopVM(vmId: string, options?: ChangeOptions): Promise<api.Vm> {
    return this.#transport.call("stopVM", { path: { vmId } }, options);
  }

  /** Returns a VM of either kind. */
  getVm(vmId: string, options?: CallOptions): Promise<api.Vm> {
    return this.#transport.call("getVm", { path: { vmId } }, options);
  }

  /** Returns a page of the VMs, newest first. */
  listVMs(query: api.ListVMsQuery = {}, options?: CallOptions): Promise<api.VmPage> {
    return this.#transport.call("listVMs", { query }, options);
  }

  /** Yields the VMs, newest first. */
  listAllVMs(query: All<api.ListVMsQuery> = {}, options?: CallOptions): Items<api.Vm> {
    const read = (pagination?: string) => this.listVMs({ ...query, pagination }, options);
    return eachOf(read, (page) => page.vms);
  }

  /** Ends a VM of either kind for good. */
  destroyVM(vmId: string, options?: ChangeOptions): Promise<api.Vm> {
    return this.#transport.call("destroyVM", { path: { vmId } }, options);
  }

  /** Returns a page of what the program in a VM printed. */
  getVMLogs(vmId: string, query: LogQuery = {}, options?: CallOptions): Promise<api.LogPage> {
    return this.#transport.call("getVMLogs", { path: { vmId }, query: wire(query) }, options);
  }

  /** Yields the lines that the program in a VM printed, as many as there are now. */
  getAllVMLogs(vmId: string, query: AllLogsQuery = {}, options?: CallOptions): Items<api.LogLine> {
    return allLines(query, (asked) => this.getVMLogs(vmId, asked, options));
  }

  /** Makes a cached VM, stopped, to be started again and again. */
  cacheVM(request: api.CacheVm, options?: ChangeOptions): Promise<api.Vm> {
    return this.#transport.call("cacheVM", { body: request }, options);
  }

  /** Starts a cached VM. */
  startCachedVM(vmId: string, options?: ChangeOptions): Promise<api.Vm> {
    return this.#transport.call("startCachedVM", { path: { vmId } }, options);
  }

  /**
   * Stops a cached VM; it keeps its volume and can be started again. With `keep: "memory"` its next
   * start goes on where it was; if its memory cannot be kept, it is not stopped.
   */
  async stopCachedVM(
    vmId: string,
    options: ChangeOptions & api.StopCachedVMQuery = {},
  ): Promise<api.Vm> {
    checkNames("stopCachedVM", options, [...CHANGE_OPTIONS, "keep"]);
    const { keep, ...rest } = options;
    return await this.#transport.call("stopCachedVM", { path: { vmId }, query: { keep } }, rest);
  }

  /** Starts VMs from a cached VM's snapshot, all of them or none; `stopVM` ends each. */
  forkCachedVM(vmId: string, request: api.ForkVm, options?: ChangeOptions): Promise<api.ForkedVms> {
    return this.#transport.call("forkCachedVM", { path: { vmId }, body: request }, options);
  }

  /** Ends a cached VM and its volume for good. */
  destroyCachedVM(vmId: string, options?: ChangeOptions): Promise<api.Vm> {
    return this.#transport.call("destroyCachedVM", { path: { vmId } }, options);
  }

  /** Returns a page of what the program in a cached VM printed, in all its runs. */
  getCachedVMLogs(vmId: string, query: LogQuery = {}, options?: CallOptions): Promise<api.LogPage> {
    return this.#transport.call("getCachedVMLogs", { path: { vmId }, query: wire(query) }, options);
  }

  /**
   * Yields the lines of the log of a VM or a build as they come, until the VM or the build ends or `timeout` is over.
   * Goes on through broken connections without losing or repeating a line; leaving the loop ends the connection.
   */
  followLogs(source: LogSource, options: FollowOptions = {}): Items<api.LogLine> {
    return followLogs(this.#transport, source, options);
  }

  /** Makes a webhook. Its secret, for verifyWebhook, is shown only now. */
  createWebhook(
    request: api.CreateWebhook,
    options?: ChangeOptions,
  ): Promise<api.WebhookWithSecret> {
    return this.#transport.call("createWebhook", { body: request }, options);
  }

  /** Returns the webhooks, oldest first. */
  listWebhooks(options?: CallOptions): Promise<api.WebhookList> {
    return this.#transport.call("listWebhooks", {}, options);
  }

  /** Returns a webhook. */
  getWebhook(webhookId: string, options?: CallOptions): Promise<api.Webhook> {
    return this.#transport.call("getWebhook", { path: { webhookId } }, options);
  }

  /** Changes a webhook: what is absent stays. */
  updateWebhook(
    webhookId: string,
    request: api.UpdateWebhook,
    options?: CallOptions,
  ): Promise<api.Webhook> {
    return this.#transport.call("updateWebhook", { path: { webhookId }, body: request }, options);
  }

  /** Removes a webhook. */
  deleteWebhook(webhookId: string, options?: CallOptions): Promise<api.Webhook> {
    return this.#transport.call("deleteWebhook", { path: { webhookId } }, options);
  }

  /** Gives a webhook a new secret; the one before signs beside it for 24 hours. */
  rotateWebhookSecret(webhookId: string, options?: ChangeOptions): Promise<api.WebhookWithSecret> {
    return this.#transport.call("rotateWebhookSecret", { path: { webhookId } }, options);
  }

  /** Sends a webhook an event of type webhook.test. */
  testWebhook(webhookId: string, options?: ChangeOptions): Promise<api.WebhookDelivery> {
    return this.#transport.call("testWebhook", { path: { webhookId } }, options);
  }

  /** Returns a page of what was sent to a webhook, newest first. */
  listWebhookDeliveries(
    webhookId: string,
    query: api.ListWebhookDeliveriesQuery = {},
    options?: CallOptions,
  ): Promise<api.WebhookDeliveryPage> {
    return this.#transport.call("listWebhookDeliveries", { path: { webhookId }, query }, options);
  }

  /** Yields what was sent to a webhook, newest first. */
  listAllWebhookDeliveries(
    webhookId: string,
    query: All<api.ListWebhookDeliveriesQuery> = {},
    options?: CallOptions,
  ): Items<api.WebhookDelivery> {
    const read = (pagination?: string) =>
      this.listWebhookDeliveries(webhookId, { ...query, pagination }, options);
    return eachOf(read, (page) => page.deliveries);
  }

  /** Sends the event of a delivery once more. */
  redeliverWebhook(
    webhookId: string,
    deliveryId: string,
    options?: ChangeOptions,
  ): Promise<api.WebhookDelivery> {
    return this.#transport.call("redeliverWebhook", { path: { webhookId, deliveryId } }, options);
  }
}
