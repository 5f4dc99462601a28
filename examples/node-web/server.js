"use strict";

// A small web service: JSON on /, a stream on /stream, a line in the log for each request.

const http = require("node:http");
const os = require("node:os");

const PORT = 8000;

function answerJson(response) {
  response.setHeader("Content-Type", "application/json");
  response.end(
    JSON.stringify({
      message: `Hello from ${process.env.NAME ?? "Node"}`,
      hostname: os.hostname(),
      node: process.versions.node,
      upSeconds: Math.round(process.uptime() * 10) / 10,
    }),
  );
}

// Counts to five, a line every 200 ms, each sent when it is made.
function answerStream(response) {
  response.setHeader("Content-Type", "text/plain; charset=utf-8");
  let number = 0;
  const timer = setInterval(() => {
    response.write(`${++number}\n`);
    if (number === 5) response.end();
  }, 200);
  response.on("close", () => clearInterval(timer));
}

function answerNotFound(response) {
  response.statusCode = 404;
  response.end("not found\n");
}

const pages = { "/": answerJson, "/stream": answerStream };

const server = http.createServer((request, response) => {
  response.on("finish", () => console.log(request.method, request.url, response.statusCode));
  (pages[request.url] ?? answerNotFound)(response);
});

process.on("SIGTERM", () => process.exit(0));
server.listen(PORT, () => console.log(`Node ${process.versions.node} listens on port ${PORT}`));
