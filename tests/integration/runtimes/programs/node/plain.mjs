/** A function of requests. */
import fs from "node:fs";

const PART = new Uint8Array(65_536).fill(120);
let made = 0;

const routes = {
  root: () => new Response("hello"),
  table: () => Response.json({ a: [1] }),
  blob: () => new Response(new Uint8Array([0, 1])),
  empty: () => new Response(null, { status: 204 }),
  full: () => new Response("made", { status: 201, headers: { "x-a": "1", "set-cookie": "a=b" } }),
  told: async (request, ctx) =>
    Response.json({
      method: request.method,
      query: Object.fromEntries(new URL(request.url).searchParams),
      headers: Object.fromEntries(request.headers),
      body: await request.text(),
      invocationId: ctx.invocationId,
      version: ctx.version ?? null,
      userId: ctx.userId ?? null,
    }),
  echo: (request) => new Response(request.body),
  count: async (request) => new Response(String((await request.bytes()).length)),
  endless: (request) => {
    const parts = Number(new URL(request.url).searchParams.get("parts"));
    const pull = (controller) => {
      if (made === parts) return controller.close();
      made++;
      controller.enqueue(PART);
    };
    return new Response(new ReadableStream({ pull }));
  },
  made: () => new Response(String(made)),
  breaks: () => {
    let begun = false;
    const pull = (controller) => {
      if (begun) throw new Error("in the middle");
      begun = true;
      controller.enqueue(new TextEncoder().encode("begun"));
    };
    return new Response(new ReadableStream({ pull }));
  },
  raises: () => {
    throw new TypeError("before");
  },
  wrong: () => 42,
  later: (request, ctx) => {
    const gate = new URL(request.url).searchParams.get("gate");
    const open = async () => {
      while (!fs.existsSync(gate)) await new Promise((done) => setTimeout(done, 5));
    };
    ctx.waitUntil(open());
    return new Response("answered");
  },
  late: () => {
    setTimeout(() => {
      throw new Error("late");
    });
    return new Promise(() => {});
  },
  gone: async (request) => {
    const file = new URL(request.url).searchParams.get("file");
    fs.writeFileSync(file, "begun");
    await new Promise((done) => request.signal.addEventListener("abort", done));
    fs.writeFileSync(file, "gone");
    return new Response();
  },
};

export default (request, _env, ctx) => routes[new URL(request.url).pathname.slice(1) || "root"](request, ctx);
