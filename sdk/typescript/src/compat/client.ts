import { CakeworkClient } from "../client.js";
import type * as wire from "../generated/shapes.js";
import type { LogQuery } from "../logs.js";
import type * as CakeworkApi from "./api.js";
import { addressOf } from "./environments.js";
import { errorOfThen } from "./errors.js";

/** A value, or what gives one. */
type Supplier<T> = T | Promise<T> | (() => T | Promise<T>);

export declare namespace CakeworkApiClient {
  interface Options {
    /** Address of the server, or its name; `CAKEWORK_URL` if absent. */
    environment?: string | undefined;
    /** The API key; `CAKEWORK_API_KEY` if absent. */
    xApiKey?: Supplier<string> | undefined;
  }
}

/** The client of then, by way of today's: same names, same shapes. */
export class CakeworkApiClient {
  readonly #client: CakeworkClient;

  constructor(options: CakeworkApiClient.Options = {}) {
    const { environment, xApiKey } = options;
    const apiKey = xApiKey instanceof Promise ? () => xApiKey : xApiKey;
    this.#client = new CakeworkClient({ url: addressOf(environment), apiKey });
  }

  importImage(request: CakeworkApi.ImportImageInput): Promise<CakeworkApi.Image> {
    return told(this.#client.importImage(request));
  }

  buildImageFromFiles(request: CakeworkApi.BuildImageFromFilesInput): Promise<CakeworkApi.Build> {
    return told(this.#client.buildImageFromFiles(request).then(dated));
  }

  buildImageFromGithub(request: CakeworkApi.BuildImageFromGithubInput): Promise<CakeworkApi.Build> {
    return told(this.#client.buildImageFromGithub(request).then(dated));
  }

  getBuild(id: CakeworkApi.BuildId): Promise<CakeworkApi.Build> {
    return told(this.#client.getBuild(id).then(dated));
  }

  getBuildLogs(
    id: CakeworkApi.BuildId,
    request?: CakeworkApi.GetBuildLogsRequest,
  ): Promise<CakeworkApi.BuildLogs> {
    return told(this.#client.getBuildLogs(id, request as LogQuery));
  }

  startVm(request: CakeworkApi.StartVmInput): Promise<CakeworkApi.Vm> {
    return told(this.#client.startVM(vmRequest(request)).then(vmOfThen));
  }

  async stopVm(id: CakeworkApi.VmId): Promise<void> {
    await told(this.#client.stopVM(id));
  }

  getVm(id: CakeworkApi.VmId): Promise<CakeworkApi.Vm> {
    return told(this.#client.getVm(id).then(vmOfThen));
  }

  async listVMs(request?: CakeworkApi.ListVMsRequest): Promise<CakeworkApi.ListVMsResponse> {
    const { vms, ...page } = await told(this.#client.listVMs(request as wire.ListVMsQuery));
    return { ...page, vms: vms.map(vmOfThen) };
  }

  getVmLogs(
    id: CakeworkApi.VmId,
    request?: CakeworkApi.GetVmLogsRequest,
  ): Promise<CakeworkApi.VmLogs> {
    return told(this.#client.getVMLogs(id, request as LogQuery));
  }

  cacheVm(request: CakeworkApi.CacheVmInput): Promise<CakeworkApi.CachedVm> {
    return told(this.#client.cacheVM(vmRequest(request)).then(vmOfThen));
  }

  async startCachedVm(id: CakeworkApi.CachedVmId): Promise<void> {
    await told(this.#client.startCachedVM(id));
  }

  async stopCachedVm(id: CakeworkApi.CachedVmId): Promise<void> {
    await told(this.#client.stopCachedVM(id));
  }

  async destroyCachedVm(id: CakeworkApi.CachedVmId): Promise<void> {
    await told(this.#client.destroyCachedVM(id));
  }

  getCachedVmLogs(id: CakeworkApi.CachedVmId): Promise<CakeworkApi.CachedVmLogs> {
    return told(this.#client.getCachedVMLogs(id));
  }
}

async function told<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw errorOfThen(error);
  }
}

function dated<T extends { createdAt: string; updatedAt: string }>(
  made: T,
): Omit<T, "createdAt" | "updatedAt"> & { createdAt: Date; updatedAt: Date } {
  return { ...made, createdAt: new Date(made.createdAt), updatedAt: new Date(made.updatedAt) };
}

function vmOfThen({ volumeGB, ...vm }: wire.Vm): CakeworkApi.Vm {
  return { ...dated(vm), volumeGb: volumeGB };
}

function vmRequest(request: CakeworkApi.StartVmInput): wire.StartVm {
  const { volumeGb, envVars, ...vm } = request;
  const wanted = { ...vm, volumeGB: volumeGb || undefined };
  // Variables that are undefined are left out when this becomes JSON.
  return envVars ? { ...wanted, envVars: envVars as Record<string, string> } : wanted;
}
