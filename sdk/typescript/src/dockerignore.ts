/**
 * Which paths a .dockerignore names, by Docker's rules: patterns start at the root, a pattern that names a
 * folder names all that is in it, and the last one that names a path wins.
 */

interface Rule {
  takesBack: boolean;
  matches: RegExp;
}

/** Tells whether a path, relative with slashes, is ignored. */
export class Dockerignore {
  readonly #rules: Rule[];

  /** Throws a TypeError that names the line when a pattern is none. */
  constructor(text: string) {
    this.#rules = text
      .replace(/^\uFEFF/, "")
      .split(/\r?\n/)
      .flatMap((line) => readRule(line) ?? []);
  }

  /** Whether something in an ignored folder may not be ignored. */
  get takesBack(): boolean {
    return this.#rules.some((rule) => rule.takesBack);
  }

  /** Whether a path is ignored, by itself or for a folder that it is in. */
  ignores(path: string): boolean {
    const parts = path.split("/");
    const above = parts.map((_, index) => parts.slice(0, index + 1).join("/"));
    return this.#rules.reduce(
      (ignored, { takesBack, matches }) =>
        ignored === takesBack && above.some((each) => matches.test(each)) ? !takesBack : ignored,
      false,
    );
  }
}

function readRule(line: string): Rule | undefined {
  const text = line.trim();
  if (!text || line.startsWith("#")) return undefined;
  const takesBack = text.startsWith("!");
  const pattern = cleaned(takesBack ? text.slice(1).trim() : text);
  if (!pattern) {
    if (takesBack && text.length === 1) throw new TypeError('.dockerignore: "!" names nothing');
    return undefined;
  }
  try {
    return { takesBack, matches: compiled(pattern) };
  } catch (error) {
    throw new TypeError(`.dockerignore: ${JSON.stringify(text)} is no pattern`, { cause: error });
  }
}

/** Returns a pattern without the parts that lead nowhere; `""` is the root. */
function cleaned(pattern: string): string {
  const parts: string[] = [];
  for (const part of pattern.split("/")) {
    if (part === "" || part === ".") continue;
    if (part !== "..") parts.push(part);
    else if (parts.length > 0 && parts.at(-1) !== "..") parts.pop();
    else if (!pattern.startsWith("/")) parts.push(part);
  }
  return parts.join("/");
}

/** `**` with its slash is any folders or none, at the end anything; the rest is as in Go's path.Match. */
function compiled(pattern: string): RegExp {
  const token = /\*\*\/?$|\*\*\/?|\*|\?|\[\^?(?:\\.|[^\]\\])+\]|\\.|./gsu;
  const source = pattern.replace(token, (found, index: number) => {
    if (found.startsWith("**")) return index + found.length === pattern.length ? ".*" : "(?:.*/)?";
    if (found === "*") return "[^/]*";
    if (found === "?") return "[^/]";
    if (found === "[" || found === "\\") throw new SyntaxError(`${found} is not ended`);
    return found.length > 2 ? characterClass(found) : literal(found.at(-1) ?? "");
  });
  return new RegExp(`^${source}$`, "su");
}

function characterClass(text: string): string {
  const head = text.startsWith("[^") ? "[^" : "[";
  const members = text.slice(head.length, -1);
  const member = /\\(.)|([[^])/gsu;
  return `${head}${members.replace(member, (_, escaped, plain) => literal(escaped ?? plain))}]`;
}

function literal(character: string): string {
  return character.replace(/[\\^$.*+?()[\]{}|/-]/u, (found) =>
    found === "-" ? "\\x2d" : `\\${found}`,
  );
}
