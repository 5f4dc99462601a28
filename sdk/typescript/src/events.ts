/** Server-sent events, as the WHATWG's HTML standard has them (9.2.6). */

/** An event, or a comment, which has neither `id` nor `data`. */
export interface ServerEvent {
  type: string;
  id?: string;
  data?: string;
}

/** Reads the events of a stream. Half an event at its end is none. */
export class EventReader {
  readonly #decoder = new TextDecoder();
  #rest = "";
  #block: string[] = [];

  /** Returns the events that these bytes complete. */
  read(bytes: Uint8Array): ServerEvent[] {
    const text = this.#rest + this.#decoder.decode(bytes, { stream: true });
    // A \r at the end may be the first half of a line's end.
    const lines = text.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    return lines.flatMap((line) => this.#take(line) ?? []);
  }

  #take(line: string): ServerEvent | undefined {
    if (line.startsWith(":")) return { type: "comment" };
    if (line !== "") {
      this.#block.push(line);
      return undefined;
    }
    const block = this.#block;
    this.#block = [];
    return block.length > 0 ? readBlock(block) : undefined;
  }
}

function readBlock(lines: string[]): ServerEvent {
  const event: ServerEvent = { type: "message" };
  const data: string[] = [];
  for (const line of lines) {
    const [, name, value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
    if (name === "event") event.type = value;
    if (name === "id") event.id = value;
    if (name === "data") data.push(value);
  }
  if (data.length > 0) event.data = data.join("\n");
  return event;
}
