/** The reference of the TypeScript client: methods and errors as its own sources declare them. */

const METHOD = /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\n  (\w+)\(((?:(?!\n  \})[\s\S])*?)\): ([^;\n]+) \{\n/g;
const ERROR = /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\nexport class (\w+) extends (\w+)/g;

/** Returns the part of the page about the client and its errors. Throws when a method has no comment. */
export function typescriptReference(client: string, errors: string): string {
  const methods = [...client.matchAll(METHOD)];
  const declared = client.match(/^  (?!constructor)\w+\((?!.*;$)/gm) ?? [];
  if (methods.length !== declared.length) {
    throw new Error(`${declared.length} methods, of which ${methods.length} are described`);
  }
  const sections = methods.map(([, comment = "", name, given = "", answer]) =>
    [`### ${name}\n`, `${sentence(comment)}\n`, "```ts", `${name}(${oneLine(given)}): ${answer.replaceAll("api.", "")}`, "```\n"].join("\n"),
  );
  const rows = [...errors.matchAll(ERROR)].map(
    ([, comment = "", name, parent]) => `| \`${name}\` | \`${parent}\` | ${sentence(comment)} |`,
  );
  return [
    "## CakeworkClient\n",
    "A method for each call of the API, and a few that make several.\n",
    ...sections,
    "## Error classes\n",
    "| Class | Is a | When |",
    "|---|---|---|",
    ...rows,
    "",
  ].join("\n");
}

function sentence(comment: string): string {
  return comment.replace(/^\s*\* ?/gm, "").replaceAll("|", "\\|").trim().replace(/\n+/g, " ");
}

function oneLine(given: string): string {
  return given.trim().replaceAll("api.", "").replace(/,?\s*\n\s*/g, (gap) => (gap.startsWith(",") ? ", " : "")).replace(/,\s*$/, "");
}
