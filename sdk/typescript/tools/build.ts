/**
 * Makes dist/: every module as ESM and as CommonJS, each with its types. Modules are not bundled, so that a
 * class is the same one through each entry point.
 */
import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";

const root = new URL("../", import.meta.url);
const AS_COMMONJS = "--module commonjs --moduleResolution bundler --verbatimModuleSyntax false";

rmSync(new URL("dist", root), { recursive: true, force: true });
run(["tools/generate.ts"]);
compile("esm", "module", []);
compile("cjs", "commonjs", AS_COMMONJS.split(" "));

function compile(folder: string, type: string, more: string[]): void {
  run([
    "node_modules/typescript/bin/tsc",
    "-p",
    "tsconfig.build.json",
    "--outDir",
    `dist/${folder}`,
    ...more,
  ]);
  writeFileSync(new URL(`dist/${folder}/package.json`, root), JSON.stringify({ type }));
}

function run(words: string[]): void {
  execFileSync(process.execPath, words, { cwd: root, stdio: "inherit" });
}
