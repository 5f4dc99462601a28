/** The namespace CakeworkApi: shapes and errors of then. */
import type { File, LogLine } from "../generated/shapes.js";

export {
  BadRequest,
  ConflictError,
  DoesNotExistError,
  InternalServerError,
  UnauthorizedError,
} from "./errors.js";
export type { File };

export type BuildId = string;
export type CachedVmId = string;
export type ImageId = string;
export type VmId = string;
export type Line = LogLine;

export interface Image {
  imageId: ImageId;
}

export interface ImportImageInput {
  imageUri: string;
  password: string;
}

export interface BuildImageFromFilesInput {
  dockerfile: string;
  files: File[];
}

export interface BuildImageFromGithubInput {
  dockerfile: string;
  dockerignore?: string | undefined;
  token: string;
  repository: string;
  branch: string;
}

export interface Build {
  buildId: BuildId;
  imageId?: ImageId;
  status: string;
  createdAt: Date;
  updatedAt: Date;
}

export interface BuildWebhook {
  buildId: BuildId;
  imageId: ImageId;
}

export interface CacheVmInput {
  imageId: ImageId;
  port?: number | undefined;
  cpu?: number | undefined;
  memory?: number | undefined;
  envVars?: Record<string, string | undefined> | undefined;
  volumeGb?: number | undefined;
}

export type StartVmInput = CacheVmInput;

export interface Vm {
  id: VmId;
  hostname: string;
  port?: number;
  cpu: number;
  memory: number;
  imageId: ImageId;
  state: string;
  volumeGb?: number;
  createdAt: Date;
  updatedAt: Date;
}

export type CachedVm = Vm;

export interface ListVMsRequest {
  imageId?: ImageId | undefined;
  status?: string | undefined;
  pagination?: string | undefined;
}

export interface ListVMsResponse {
  vms: Vm[];
  pagination?: string;
}

export interface GetVmLogsRequest {
  query?: string | undefined;
  batch?: number | undefined;
  order?: string | undefined;
  pagination?: string | undefined;
  from?: string | undefined;
  to?: string | undefined;
}

export type GetBuildLogsRequest = GetVmLogsRequest;

export interface VmLogs {
  lines: Line[];
  pagination?: string;
  from?: string;
  to?: string;
}

export type BuildLogs = VmLogs;
export type CachedVmLogs = VmLogs;
