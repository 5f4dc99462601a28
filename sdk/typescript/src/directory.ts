/**
 * Reads a folder to build from. Files travel as text where they are UTF-8 and as base64 where not. Neither
 * modes nor empty folders nor symbolic links travel: a link to a file inside the folder is sent as that
 * file, any other is left out and named in `skipped`.
 */
import { readdir, readFile, realpath, stat } from "node:fs/promises";
import { isAbsolute, join, relative, resolve, sep } from "node:path";
import { Dockerignore } from "./dockerignore.js";
import type { BuildFromFiles, File } from "./generated/shapes.js";
import { checkNames } from "./known.js";

/** What is read of a folder. */
export interface ReadOptions {
  /** The Dockerfile, by its path in the folder or from the root; `Dockerfile` if absent. */
  dockerfile?: string | undefined;
}

/** What buildImageFromFiles takes, and what of the folder is not in it. */
export interface Directory extends BuildFromFiles {
  /** Paths of links that lead out of the folder, and of what is no file. */
  skipped: string[];
}

/** Reads what a folder holds and its .dockerignore does not name. */
export async function readDirectory(folder: string, options: ReadOptions = {}): Promise<Directory> {
  checkNames("readDirectory", options, ["dockerfile"]);
  const dockerfile = asText(await readFile(resolve(folder, options.dockerfile ?? "Dockerfile")));
  if (dockerfile === undefined) throw new TypeError("The Dockerfile is not UTF-8 text.");
  const ignore = new Dockerignore(await readIgnore(join(folder, ".dockerignore")));
  const directory: Directory = { dockerfile, files: [], skipped: [] };
  const root = await realpath(folder);
  for await (const path of wantedPaths(root, "", ignore)) {
    const file = await readFileIn(root, path);
    if (file) directory.files.push(file);
    else directory.skipped.push(path);
  }
  return directory;
}

/** What of code is never sent: dependencies are installed anew. */
const LEFT_OUT = new Set([".git", ".venv", ".cakework", "node_modules", "__pycache__"]);

/** The files of a folder of code, and what of it is not in them. */
export interface Code {
  files: File[];
  /** Paths of links that lead out of the folder, and of what is no file. */
  skipped: string[];
}

/** Reads what a folder of code holds and its .dockerignore, if it has one, does not name. */
export async function readCode(folder: string): Promise<Code> {
  const ignore = new Dockerignore(await readIgnore(join(folder, ".dockerignore")));
  const code: Code = { files: [], skipped: [] };
  const root = await realpath(folder);
  for await (const path of wantedPaths(root, "", ignore, LEFT_OUT)) {
    const file = await readFileIn(root, path);
    if (file) code.files.push(file);
    else code.skipped.push(path);
  }
  return code;
}

async function readIgnore(path: string): Promise<string> {
  const found = await stat(path).catch(ifMissing(undefined));
  return found?.isFile() ? await readFile(path, "utf8") : "";
}

/** Yields the paths below a folder that are no folders. */
async function* wantedPaths(
  root: string,
  folder: string,
  ignore: Dockerignore,
  leftOut: ReadonlySet<string> = new Set(),
): AsyncGenerator<string, void, undefined> {
  const entries = await readdir(join(root, folder), { withFileTypes: true });
  entries.sort((one, other) => (one.name < other.name ? -1 : 1));
  for (const entry of entries) {
    if (leftOut.has(entry.name)) continue;
    const path = folder ? `${folder}/${entry.name}` : entry.name;
    const ignored = ignore.ignores(path);
    if (!entry.isDirectory()) {
      if (!ignored) yield path;
    } else if (!ignored || ignore.takesBack) {
      yield* wantedPaths(root, path, ignore, leftOut);
    }
  }
}

async function readFileIn(root: string, path: string): Promise<File | undefined> {
  const target = await realpath(join(root, path)).catch(ifMissing(undefined));
  if (!target || !isInside(root, target) || !(await stat(target)).isFile()) return undefined;
  const parts = path.split("/");
  const name = parts.pop() ?? "";
  return { dir: parts.join("/") || ".", name, ...encoded(await readFile(target)) };
}

function isInside(root: string, path: string): boolean {
  const way = relative(root, path);
  return way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

function encoded(content: Buffer): Pick<File, "content" | "encoding"> {
  const text = asText(content);
  if (text !== undefined) return { content: text };
  return { content: content.toString("base64"), encoding: "base64" };
}

function asText(content: Buffer): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
  } catch {
    return undefined;
  }
}

/** Returns what takes a missing file for `value`, and throws every other error on. */
function ifMissing<T>(value: T): (error: NodeJS.ErrnoException) => T {
  return (error) => {
    if (error.code === "ENOENT" || error.code === "ELOOP") return value;
    throw error;
  };
}
