import { readBytes } from "./answers.js";
import { type CloudEvent, type EmitOptions, emit } from "./emitting.js";
import {
  type FollowOptions,
  type FunctionLogSource,
  followLogs,
  type LogSource,
} from "./follow.js";
import type * as api from "./generated/shapes.js";
import {
  type FollowInvocationsOptions,
  followInvocations,
  type InvocationResult,
  type InvokeManyOptions,
  type InvokeOptions,
  invoke,
  invokeMany,
  type WaitForOptions,
  waitForInvocation,
  waitForVersion,
} from "./invoking.js";
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
/** A request that may have its code as a tar.gz, which goes as a form. */
type WithArchive<Request> = Request & { archive?: Uint8Array | undefined };
/** What was looked at when something is changed: the `etag` of then; `"0"`, with its quotes, for nothing; `*` for any. */
interface IfMatch {
  ifMatch: string;
}
/** Which invocations, from when to when: times are ISO 8601, or a Date. */
type Between<Query> = Omit<Query, "from" | "to" | "follow"> & Pick<LogQuery, "from" | "to">;
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

  /** Returns a page of what a function printed, in all its instances. */
  getFunctionLogs(
    functionId: string,
    query: LogQuery = {},
    options?: CallOptions,
  ): Promise<api.FunctionLogPage> {
    const input = { path: { functionId }, query: wire(query) };
    return this.#transport.call("getFunctionLogs", input, options);
  }

  /** Yields the lines of the log of a function, as many as there are now. */
  getAllFunctionLogs(
    functionId: string,
    query: AllLogsQuery = {},
    options?: CallOptions,
  ): Items<api.FunctionLogLine> {
    return allLines(query, (asked) => this.getFunctionLogs(functionId, asked, options));
  }

  /** Returns a page of what was printed while an invocation ran, attempt by attempt. */
  getInvocationLogs(
    invocationId: string,
    query: LogQuery = {},
    options?: CallOptions,
  ): Promise<api.InvocationLogPage> {
    const input = { path: { invocationId }, query: wire(query) };
    return this.#transport.call("getInvocationLogs", input, options);
  }

  /** Yields the lines of an invocation, as many as there are now. */
  getAllInvocationLogs(
    invocationId: string,
    query: AllLogsQuery = {},
    options?: CallOptions,
  ): Items<api.FunctionLogLine> {
    return allLines(query, (asked) => this.getInvocationLogs(invocationId, asked, options));
  }

  /** Yields the lines of a function, which never ends, or of an invocation, as they come. */
  followLogs(source: FunctionLogSource, options?: FollowOptions): Items<api.FunctionLogLine>;
  /**
   * Yields the lines of the log of a VM or a build as they come, until the VM or the build ends or `timeout` is over.
   * Goes on through broken connections without losing or repeating a line; leaving the loop ends the connection.
   */
  followLogs(source: LogSource, options?: FollowOptions): Items<api.LogLine>;
  followLogs(source: LogSource, options: FollowOptions = {}): Items<api.LogLine> {
    return followLogs(this.#transport, source, options);
  }

  /** Makes a function; with a source, deploys it as version 1. */
  createFunction(request: api.CreateFunction, options?: ChangeOptions): Promise<api.Function> {
    return this.#transport.call("createFunction", { body: request }, options);
  }

  /** Returns a page of the functions, newest first. */
  listFunctions(
    query: api.ListFunctionsQuery = {},
    options?: CallOptions,
  ): Promise<api.FunctionPage> {
    return this.#transport.call("listFunctions", { query }, options);
  }

  /** Yields the functions, newest first. */
  listAllFunctions(
    query: All<api.ListFunctionsQuery> = {},
    options?: CallOptions,
  ): Items<api.Function> {
    const read = (pagination?: string) => this.listFunctions({ ...query, pagination }, options);
    return eachOf(read, (page) => page.functions);
  }

  /** Returns a function. */
  getFunction(functionId: string, options?: CallOptions): Promise<api.Function> {
    return this.#transport.call("getFunction", { path: { functionId } }, options);
  }

  /** Changes those settings of a function that are given; the next attempt sees them. */
  updateFunction(
    functionId: string,
    request: api.UpdateFunction,
    options?: CallOptions,
  ): Promise<api.Function> {
    return this.#transport.call("updateFunction", { path: { functionId }, body: request }, options);
  }

  /** Deletes a function with its versions; what waits for it is canceled. */
  deleteFunction(functionId: string, options?: CallOptions): Promise<api.Deleted> {
    return this.#transport.call("deleteFunction", { path: { functionId } }, options);
  }

  /** Sends code, as a source or as a tar.gz; returns its version at once, which waitForVersion waits for. */
  deployFunction(
    functionId: string,
    request: WithArchive<api.Deploy>,
    options?: ChangeOptions,
  ): Promise<api.Version> {
    const { archive, ...body } = request;
    return this.#transport.call("deployFunction", { path: { functionId }, body, archive }, options);
  }

  /** Waits until a version is ready, and returns it. Throws a DeployFailedError if it has failed. */
  waitForVersion(
    functionId: string,
    version: number,
    options: WaitForOptions = {},
  ): Promise<api.Version> {
    return waitForVersion((call) => this.getVersion(functionId, version, call), options);
  }

  /** Returns a page of the versions of a function, newest first. */
  listVersions(
    functionId: string,
    query: api.ListVersionsQuery = {},
    options?: CallOptions,
  ): Promise<api.VersionPage> {
    return this.#transport.call("listVersions", { path: { functionId }, query }, options);
  }

  /** Yields the versions of a function, newest first. */
  listAllVersions(
    functionId: string,
    query: All<api.ListVersionsQuery> = {},
    options?: CallOptions,
  ): Items<api.Version> {
    const read = (pagination?: string) =>
      this.listVersions(functionId, { ...query, pagination }, options);
    return eachOf(read, (page) => page.versions);
  }

  /** Returns a version. */
  getVersion(functionId: string, version: number, options?: CallOptions): Promise<api.Version> {
    const path = { functionId, version: String(version) };
    return this.#transport.call("getVersion", { path }, options);
  }

  /** Returns the code of a version, as it was sent. */
  getVersionSource(
    functionId: string,
    version: number,
    options?: CallOptions,
  ): Promise<api.SourceFiles> {
    const path = { functionId, version: String(version) };
    return this.#transport.call("getVersionSource", { path }, options);
  }

  /** Makes a version live, a newer or an older one. */
  promoteVersion(
    functionId: string,
    request: api.Promote,
    options?: ChangeOptions,
  ): Promise<api.Function> {
    return this.#transport.call("promoteVersion", { path: { functionId }, body: request }, options);
  }

  /** Returns what an editor saved of a function. */
  getDraft(functionId: string, options?: CallOptions): Promise<api.DraftAnswer> {
    return this.#transport.call("getDraft", { path: { functionId } }, options);
  }

  /** Saves the draft of a function; throws a PreconditionFailedError if it was changed since. */
  async putDraft(
    functionId: string,
    request: api.SaveDraft,
    options: CallOptions & IfMatch,
  ): Promise<api.SavedDraft> {
    const { ifMatch, ...rest } = { ...options };
    const input = { path: { functionId }, body: request, headers: matching(ifMatch) };
    return await this.#transport.call("putDraft", input, rest);
  }

  /** Removes the draft of a function; throws a PreconditionFailedError if it was changed since. */
  async deleteDraft(functionId: string, options: CallOptions & IfMatch): Promise<api.Deleted> {
    const { ifMatch, ...rest } = { ...options };
    const input = { path: { functionId }, headers: matching(ifMatch) };
    return await this.#transport.call("deleteDraft", input, rest);
  }

  /** Runs the draft of a function, or other code, once; no version is made. */
  testFunction(
    functionId: string,
    request: api.TryCode = {},
    options?: ChangeOptions,
  ): Promise<api.Invocation> {
    return this.#transport.call("testFunction", { path: { functionId }, body: request }, options);
  }

  /** Deploys a tar.gz as a function of its own, as Cakework did in 2023. */
  deployFunctionFromArchive(
    request: WithArchive<api.DeployArchive>,
    options?: ChangeOptions,
  ): Promise<api.DeployedArchive> {
    const { archive, ...body } = request;
    return this.#transport.call("deployFunctionFromArchive", { body, archive }, options);
  }

  /** Invokes a function; see `invoke` for its end, however long that takes. */
  invokeFunction(
    functionId: string,
    request: api.InvokeFunction = {},
    options?: ChangeOptions,
  ): Promise<api.Invocation> {
    return this.#transport.call("invokeFunction", { path: { functionId }, body: request }, options);
  }

  /**
   * Invokes a function with data, and returns what became of it when it has ended; throws a TimeoutError if that is
   * not within `timeout`, and it goes on. A handler that failed throws nothing here: look at `state` and `error`.
   */
  invoke(functionId: string, data?: unknown, options: InvokeOptions = {}): Promise<api.Invocation> {
    return invoke(this.#transport, functionId, data, options, this.#transport.timeoutMs);
  }

  /**
   * Invokes a function with each of many data, and yields what became of each, in their order. Each is on record before
   * it runs, and tried again as the function's settings say; those that were asked for go on when you leave the loop.
   */
  invokeMany(
    functionId: string,
    items: Iterable<unknown> | AsyncIterable<unknown>,
    options: InvokeManyOptions = {},
  ): Items<api.Invocation> {
    return invokeMany(this.#transport, functionId, items, options);
  }

  /** Waits until an invocation has ended, well or not; as long as that takes, unless `timeout` says otherwise. */
  waitForInvocation(invocationId: string, options: WaitForOptions = {}): Promise<api.Invocation> {
    return waitForInvocation(this.#transport, invocationId, options);
  }

  /** Returns a page of the invocations, newest first. */
  listInvocations(
    query: Between<api.ListInvocationsQuery> = {},
    options?: CallOptions,
  ): Promise<api.InvocationPage> {
    return this.#transport.call("listInvocations", { query: wire(query) }, options);
  }

  /** Yields the invocations, newest first. */
  listAllInvocations(
    query: All<Between<api.ListInvocationsQuery>> = {},
    options?: CallOptions,
  ): Items<api.Invocation> {
    const read = (pagination?: string) => this.listInvocations({ ...query, pagination }, options);
    return eachOf(read, (page) => page.invocations);
  }

  /**
   * Yields invocations each time they change, from now on, until `timeout` is over. Goes on through broken
   * connections; leaving the loop ends the connection.
   */
  followInvocations(options: FollowInvocationsOptions = {}): Items<api.Invocation> {
    return followInvocations(this.#transport, options);
  }

  /** Returns an invocation; with `wait`, up to 50 seconds, when it has ended or that is over. */
  getInvocation(
    invocationId: string,
    query: api.GetInvocationQuery = {},
    options?: CallOptions,
  ): Promise<api.Invocation> {
    return this.#transport.call("getInvocation", { path: { invocationId }, query }, options);
  }

  /** Returns the event of an invocation, however large. */
  getInvocationEvent(
    invocationId: string,
    options?: CallOptions,
  ): Promise<Record<string, unknown>> {
    return this.#transport.call("getInvocationEvent", { path: { invocationId } }, options);
  }

  /** Returns what a handler answered, as it is. */
  getInvocationResult(invocationId: string, options: CallOptions = {}): Promise<InvocationResult> {
    const input = { path: { invocationId } };
    return this.#transport.read("getInvocationResult", input, options, readBytes);
  }

  /** Gives an invocation up; one that has ended stays as it is. */
  cancelInvocation(invocationId: string, options?: ChangeOptions): Promise<api.Invocation> {
    return this.#transport.call("cancelInvocation", { path: { invocationId } }, options);
  }

  /** Does an invocation that has ended again, as a new one. */
  replayInvocation(
    invocationId: string,
    request: api.ReplayInvocation = {},
    options?: ChangeOptions,
  ): Promise<api.Invocation> {
    const input = { path: { invocationId }, body: request };
    return this.#transport.call("replayInvocation", input, options);
  }

  /** Returns a page of what failed for good and was neither replayed nor discarded, newest first. */
  listDeadLetters(
    query: Between<api.ListDeadLettersQuery> = {},
    options?: CallOptions,
  ): Promise<api.InvocationPage> {
    return this.#transport.call("listDeadLetters", { query: wire(query) }, options);
  }

  /** Yields the dead letters, newest first. */
  listAllDeadLetters(
    query: All<Between<api.ListDeadLettersQuery>> = {},
    options?: CallOptions,
  ): Items<api.Invocation> {
    const read = (pagination?: string) => this.listDeadLetters({ ...query, pagination }, options);
    return eachOf(read, (page) => page.invocations);
  }

  /** Has dead letters done again on what is live, the oldest first; returns at once how many they are. */
  replayDeadLetters(request: api.ReplayDeadLetters, options?: ChangeOptions): Promise<api.Matched> {
    return this.#transport.call("replayDeadLetters", { body: request }, options);
  }

  /** Takes dead letters off their list. */
  discardDeadLetters(
    request: api.DiscardDeadLetters,
    options?: ChangeOptions,
  ): Promise<api.Matched> {
    return this.#transport.call("discardDeadLetters", { body: request }, options);
  }

  /** Has something make invocations of a function. A webhook's secret that was made here is shown only now. */
  createTrigger(
    request: api.CreateTrigger,
    options?: ChangeOptions,
  ): Promise<api.TriggerWithSecret> {
    return this.#transport.call("createTrigger", { body: request }, options);
  }

  /** Returns a page of the triggers, newest first. */
  listTriggers(query: api.ListTriggersQuery = {}, options?: CallOptions): Promise<api.TriggerPage> {
    return this.#transport.call("listTriggers", { query }, options);
  }

  /** Yields the triggers, newest first. */
  listAllTriggers(
    query: All<api.ListTriggersQuery> = {},
    options?: CallOptions,
  ): Items<api.Trigger> {
    const read = (pagination?: string) => this.listTriggers({ ...query, pagination }, options);
    return eachOf(read, (page) => page.triggers);
  }

  /** Returns a trigger: what it waits for, and what it made last. */
  getTrigger(triggerId: string, options?: CallOptions): Promise<api.Trigger> {
    return this.#transport.call("getTrigger", { path: { triggerId } }, options);
  }

  /** Changes a trigger: what is absent stays, null takes away. `enabled: false` pauses it, true has it go on from now. */
  updateTrigger(
    triggerId: string,
    request: api.UpdateTrigger,
    options?: CallOptions,
  ): Promise<api.Trigger> {
    return this.#transport.call("updateTrigger", { path: { triggerId }, body: request }, options);
  }

  /** Deletes a trigger. What it made goes on. */
  deleteTrigger(triggerId: string, options?: CallOptions): Promise<api.TriggerDeleted> {
    return this.#transport.call("deleteTrigger", { path: { triggerId } }, options);
  }

  /** Has a trigger make an invocation now, paused or not; its event says `test`. */
  runTrigger(
    triggerId: string,
    request: api.RunTrigger = {},
    options?: ChangeOptions,
  ): Promise<api.Invocation> {
    return this.#transport.call("runTrigger", { path: { triggerId }, body: request }, options);
  }

  /** Gives a webhook another secret, shown only now if it is made here; or another URL. The secret before is taken for 24 hours. */
  rotateTriggerSecret(
    triggerId: string,
    request: api.RotateTrigger = {},
    options?: ChangeOptions,
  ): Promise<api.TriggerWithSecret> {
    const input = { path: { triggerId }, body: request };
    return this.#transport.call("rotateTriggerSecret", input, options);
  }

  /** Returns when a schedule would come round, and what changes of the clock do to it. Makes nothing. */
  previewSchedule(
    request: api.PreviewSchedule,
    options?: ChangeOptions,
  ): Promise<api.SchedulePreview> {
    return this.#transport.call("previewSchedule", { body: request }, options);
  }

  /** Emits an event: each trigger that wants it makes an invocation. */
  emit(type: string, data?: unknown, options: EmitOptions = {}): Promise<api.EmittedEvent> {
    return emit(this.#transport, type, data, options);
  }

  /** Emits events, up to 1,000: all of them are taken, or none. */
  emitEvents(
    request: { events: CloudEvent[] } & api.EmitEventsQuery,
    options?: ChangeOptions,
  ): Promise<api.EmittedEvents> {
    const { userId, ...body } = request;
    return this.#transport.call("emitEvents", { query: { userId }, body }, options);
  }

  /** Returns a page of the events, newest first. */
  listEvents(
    query: Between<api.ListEventsQuery> = {},
    options?: CallOptions,
  ): Promise<api.EventPage> {
    return this.#transport.call("listEvents", { query: wire(query) }, options);
  }

  /** Yields the events, newest first. */
  listAllEvents(
    query: All<Between<api.ListEventsQuery>> = {},
    options?: CallOptions,
  ): Items<api.Event> {
    const read = (pagination?: string) => this.listEvents({ ...query, pagination }, options);
    return eachOf(read, (page) => page.events);
  }

  /** Returns an event, with the first hundred invocations that it made. */
  getEvent(eventId: string, options?: CallOptions): Promise<api.Event> {
    return this.#transport.call("getEvent", { path: { eventId } }, options);
  }

  /**
   * Returns what a function makes of a record: a value, a list of several, or null. It is not tried again
   * once it may have been done. Streams of records, as NDJSON or CSV, are posted to the call itself.
   */
  applyTransform(functionId: string, record: unknown, options?: CallOptions): Promise<unknown> {
    return this.#transport.call("applyTransform", { path: { functionId }, body: record }, options);
  }

  /** Returns what a function makes of records, in their order. */
  async applyTransformToAll(
    functionId: string,
    records: readonly unknown[],
    options?: CallOptions,
  ): Promise<unknown[]> {
    const told = await this.applyTransform(functionId, { records }, options);
    return (told as { records: unknown[] }).records;
  }

  /** Tries a filter on an event, without emitting it; says whether it takes it, and why. */
  testFilter(request: api.MatchEvent, options?: ChangeOptions): Promise<api.Match> {
    return this.#transport.call("testFilter", { body: request }, options);
  }

  /** Keeps a secret of the account, of an end user or of a function; no call answers its value. */
  putSecret(
    name: string,
    request: api.PutSecret & api.PutSecretQuery,
    options?: CallOptions,
  ): Promise<api.Secret> {
    const { functionId, userId, ...body } = request;
    const input = { path: { name }, query: { functionId, userId }, body };
    return this.#transport.call("putSecret", input, options);
  }

  /** Returns a page of the secrets of a scope, without values. */
  listSecrets(query: api.ListSecretsQuery = {}, options?: CallOptions): Promise<api.SecretPage> {
    return this.#transport.call("listSecrets", { query }, options);
  }

  /** Yields the secrets of a scope, without values. */
  listAllSecrets(query: All<api.ListSecretsQuery> = {}, options?: CallOptions): Items<api.Secret> {
    const read = (pagination?: string) => this.listSecrets({ ...query, pagination }, options);
    return eachOf(read, (page) => page.secrets);
  }

  /** Removes a secret of a scope. */
  deleteSecret(
    name: string,
    query: api.DeleteSecretQuery = {},
    options?: CallOptions,
  ): Promise<api.SecretDeleted> {
    return this.#transport.call("deleteSecret", { path: { name }, query }, options);
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

/** The server says so itself where there is none. */
function matching(ifMatch: string | undefined): Record<string, string> {
  return ifMatch ? { "If-Match": ifMatch } : {};
}
