/** Throws a TypeError for a name that is none of `known`. What is undefined is as if it were not there. */
export function checkNames(what: string, given: object, known: readonly string[]): void {
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || known.includes(name)) continue;
    const meant = nearest(name, known);
    const told = meant ? `did you mean ${meant}?` : `there are ${known.join(", ") || "none"}`;
    throw new TypeError(`${what}: ${JSON.stringify(name)} is unknown; ${told}`);
  }
}

/** Returns the name that has most letters in common with this one, in the same order; more than half. */
function nearest(name: string, known: readonly string[]): string | undefined {
  const likeness = (other: string) => (2 * common(name, other)) / (name.length + other.length);
  const best = known.reduce((one, other) => (likeness(other) > likeness(one) ? other : one), "");
  return likeness(best) >= 0.6 ? best : undefined;
}

/** Returns how many letters two names have in common, in the same order, in upper or lower case. */
function common(one: string, other: string): number {
  // Longer than any that is known, it is near to none; comparing would take long.
  if (one.length > 40) return 0;
  const letters = other.toLowerCase();
  let before = new Array<number>(letters.length + 1).fill(0);
  for (const letter of one.toLowerCase()) {
    const row = [0];
    for (let i = 0; i < letters.length; i++) {
      const longer = letter === letters[i] ? (before[i] ?? 0) + 1 : 0;
      row.push(Math.max(longer, before[i + 1] ?? 0, row[i] ?? 0));
    }
    before = row;
  }
  return before.at(-1) ?? 0;
}
