import { environment } from "../runtime.js";

/** Servers by name. The first two were a hosted service: they mean the server at `CAKEWORK_URL`. */
export const CakeworkApiEnvironment = {
  Production: "https://api.cakework.com",
  Staging: "https://api-staging.cakework.com",
  Local: "http://localhost:8081",
} as const;

export type CakeworkApiEnvironment =
  (typeof CakeworkApiEnvironment)[keyof typeof CakeworkApiEnvironment];

/** Returns the address of a server; a key of one's own server is not for the hosted service's. */
export function addressOf(wanted: string | undefined): string | undefined {
  if (wanted !== CakeworkApiEnvironment.Production && wanted !== CakeworkApiEnvironment.Staging) {
    return wanted;
  }
  const address = environment("CAKEWORK_URL");
  if (address) return address;
  throw new TypeError(
    `${wanted} was a hosted service: set CAKEWORK_URL, or give your server's address as environment.`,
  );
}
