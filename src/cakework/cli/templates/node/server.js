// Answers every request with a greeting; change it to what you like.
const http = require("node:http");

const PORT = Number(process.env.PORT ?? 8000);

const server = http.createServer((_request, response) => {
  response.setHeader("Content-Type", "text/plain; charset=utf-8");
  response.end(`Hello, ${process.env.NAME ?? "world"}!\n`);
});

server.listen(PORT, () => console.log(`listening on port ${PORT}`));
