/**
 * Makes the built site ready to be served as it lies: every inline script moves to a file of its own, so
 * that the policy for scripts can be 'self'; every page of the documentation is there as Markdown
 * too, and all are listed in llms.txt; what can be compressed lies beside itself compressed.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import type { AstroIntegration } from "astro";

const COMPRESSED = /\.(html|css|js|svg|md|txt|xml|json)$/;
const SMALLEST = 512;
const INLINE = /<script((?:(?!\ssrc=)[^>])*)>([\s\S]*?)<\/script>/g;
const DATA = /type="(?:application\/(?:ld\+)?json|speculationrules)"/;

export function deliver(): AstroIntegration {
  return {
    name: "deliver",
    hooks: {
      "astro:build:done": ({ dir }) => {
        const root = fileURLToPath(dir);
        const source = join(root, "../src/content/docs");
        for (const page of filesBelow(root, /\.html$/)) moveScripts(root, page);
        copyMarkdown(root, source);
        for (const file of filesBelow(root, COMPRESSED)) compress(file);
      },
    },
  };
}

function moveScripts(root: string, page: string): void {
  const html = readFileSync(page, "utf8");
  const moved = html.replace(INLINE, (whole: string, attributes: string, code: string) => {
    if (DATA.test(attributes) || !code.trim()) return whole;
    const name = `_astro/inline.${createHash("sha256").update(code).digest("hex").slice(0, 12)}.js`;
    writeFileSync(join(root, name), code);
    return `<script${attributes} src="/${name}"></script>`;
  });
  if (moved !== html) writeFileSync(page, moved);
}

/** Writes `docs/….md` beside each page, and `llms.txt`, which lists them. */
function copyMarkdown(root: string, source: string): void {
  const listed: string[] = [];
  for (const file of filesBelow(source, /\.md$/)) {
    const document = readFileSync(file, "utf8");
    const [, title, description, body] =
      /^---\ntitle: (.*)\ndescription: (.*)\n(?:.+\n)*?---\n([\s\S]*)$/.exec(document) ?? [];
    if (!title || !description || !body) throw new Error(`${file}: no title and description`);
    const path = relative(source, file).replace(/(^|\/)index\.md$/, ".md");
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), `# ${unquoted(title)}\n\n${body.trim()}\n`);
    listed.push(`- [${unquoted(title)}](/${path}): ${unquoted(description)}`);
  }
  const about = "# Cakework\n\n> Serverless inside your own product: build, run and observe your users' code in microVMs.\n";
  const rest = "- [OpenAPI](/openapi.json): every call of the API, for programs";
  writeFileSync(join(root, "llms.txt"), [about, "## Docs\n", ...listed, rest, ""].join("\n"));
}

function unquoted(text: string): string {
  return text.startsWith('"') ? JSON.parse(text) : text;
}

function compress(file: string): void {
  const content = readFileSync(file);
  if (content.length < SMALLEST) return;
  const quality = { params: { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY } };
  writeFileSync(`${file}.br`, brotliCompressSync(content, quality));
  writeFileSync(`${file}.gz`, gzipSync(content, { level: constants.Z_BEST_COMPRESSION }));
}

function filesBelow(folder: string, name: RegExp): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && name.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
}
