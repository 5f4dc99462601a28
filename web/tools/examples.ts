/** The examples of examples/*.md: below each `## call`, one block of code for each language. */

/** Returns, for each call, its code by language (`sh`, `ts`, `py`). */
export function examplesOf(document: string): Map<string, Record<string, string>> {
  const found = new Map<string, Record<string, string>>();
  for (const section of document.split(/^## /m).slice(1)) {
    const [name = ""] = section.split("\n", 1);
    const blocks = [...section.matchAll(/^```(\w+)\n([\s\S]*?)^```/gm)];
    found.set(name.trim(), Object.fromEntries(blocks.map(([, language, code]) => [language, code])));
  }
  return found;
}
