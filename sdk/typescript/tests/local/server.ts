/** A small HTTP server that answers as a test wants, and remembers what it was asked. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { CakeworkClient, type ClientOptions } from "@cakework/client";

export interface Asked {
  method: string;
  url: string;
  headers: IncomingMessage["headers"];
  body: string;
}

type Answer = (response: ServerResponse, asked: Asked) => void;

export class TestServer implements AsyncDisposable {
  readonly asked: Asked[] = [];
  /** Connections that were ever made. */
  connections = 0;
  readonly #server: Server;
  #answers: Answer[] = [];

  private constructor() {
    this.#server = createServer((request, response) => void this.#serve(request, response));
    this.#server.on("connection", () => this.connections++);
  }

  /** Starts one that gives these answers in turn, and the last one for ever. */
  static async start(...answers: Answer[]): Promise<TestServer> {
    const server = new TestServer();
    server.#answers = answers;
    server.#server.listen(0, "127.0.0.1");
    await once(server.#server, "listening");
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  client(options: ClientOptions = {}): CakeworkClient {
    return new CakeworkClient({ url: this.url, apiKey: "cw_test", ...options });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const piece of request) body += piece;
    const { method = "", url = "", headers } = request;
    const asked = { method, url, headers, body };
    this.asked.push(asked);
    const answer = this.#answers.length > 1 ? this.#answers.shift() : this.#answers[0];
    answer?.(response, asked);
  }
}

/** Answers with JSON. */
export function json(body: unknown, status = 200, headers: Record<string, string> = {}): Answer {
  return (response) => {
    response.writeHead(status, { "Content-Type": "application/json", ...headers });
    response.end(JSON.stringify(body));
  };
}

/** Refuses, as the API does. */
export function refuse(status: number, code: string, headers: Record<string, string> = {}): Answer {
  return json(
    { type: "", title: "", status, code, detail: `It is ${code}.`, requestId: "r1" },
    status,
    {
      ...headers,
      "Content-Type": "application/problem+json",
    },
  );
}

/** Breaks the connection without a word. */
export const breakOff: Answer = (response) => response.destroy();

/** Never answers. */
export const sayNothing: Answer = () => undefined;

/** Streams these words and then ends, breaks off, or stays. */
export function stream(words: string, then: "end" | "break" | "stay"): Answer {
  return (response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    if (then === "end") response.end(words);
    else response.write(words, () => then === "break" && response.destroy());
  };
}

/** A line of a log, as an event. */
export function lineEvent(id: number, message = `line ${id}`): string {
  return `id: ${id}\ndata: ${JSON.stringify({ id, timestamp: id, level: "info", message })}\n\n`;
}

export const END = "event: end\ndata: {}\n\n";
export const VM = {
  id: "0123456789abcd",
  hostname: "x.localhost",
  cpu: 1,
  memory: 256,
  imageId: "01JAAAAAAAAAAAAAAAAAAAAAAA",
  state: "started",
  volumeGB: 2,
  createdAt: "2026-01-01T00:00:00.000Z",
  updatedAt: "2026-01-01T00:00:00.000Z",
} as const;
