import { format } from "node:util";

const line =
  (level) =>
  (...values) =>
    void process.stdout.write(`${level} ${format(...values)}\n`);

/** What `ctx.log` is: a line of standard output each, with its level in front. */
export const log = Object.freeze({
  debug: line("DEBUG"),
  info: line("INFO"),
  warn: line("WARNING"),
  error: line("ERROR"),
});
