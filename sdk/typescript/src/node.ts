/** What needs files: for Node, Deno and Bun. */
import type { CakeworkClient } from "./client.js";
import {
  type Code,
  type Directory,
  type ReadOptions,
  readCode,
  readDirectory,
} from "./directory.js";
import type { Build, Deploy, Version } from "./generated/shapes.js";
import { checkNames } from "./known.js";
import { CHANGE_OPTIONS, type ChangeOptions } from "./transport.js";

export { type Code, type Directory, type ReadOptions, readCode, readDirectory };

/** How a folder is sent. */
export interface UploadOptions extends ReadOptions, ChangeOptions {}

/** Begins to build an image from a folder: its Dockerfile, and what its .dockerignore does not name. */
export async function uploadDirectory(
  client: Pick<CakeworkClient, "buildImageFromFiles">,
  folder: string,
  given: UploadOptions = {},
): Promise<Build> {
  checkNames("uploadDirectory", given, ["dockerfile", ...CHANGE_OPTIONS]);
  const { dockerfile, ...options } = given;
  return await client.buildImageFromFiles(await readDirectory(folder, { dockerfile }), options);
}

/** How a folder of code is deployed. */
export interface DeployOptions extends Omit<Deploy, "source">, ChangeOptions {}

/**
 * Deploys a folder of code as a version of a function, which waitForVersion waits for: what its .dockerignore does not
 * name, without installed dependencies.
 */
export async function deployFolder(
  client: Pick<CakeworkClient, "deployFunction">,
  functionId: string,
  folder: string,
  given: DeployOptions = {},
): Promise<Version> {
  const own = ["entry", "signature", "message", "promote", "lock"];
  checkNames("deployFolder", given, [...own, ...CHANGE_OPTIONS]);
  const { timeout, retries, signal, idempotencyKey, ...request } = given;
  const { files } = await readCode(folder);
  const options = { timeout, retries, signal, idempotencyKey };
  return await client.deployFunction(functionId, { ...request, source: { files } }, options);
}
