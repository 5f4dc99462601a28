/** What needs files: for Node, Deno and Bun. */
import type { CakeworkClient } from "./client.js";
import { type Directory, type ReadOptions, readDirectory } from "./directory.js";
import type { Build } from "./generated/shapes.js";
import { checkNames } from "./known.js";
import { CHANGE_OPTIONS, type ChangeOptions } from "./transport.js";

export { type Directory, type ReadOptions, readDirectory };

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
