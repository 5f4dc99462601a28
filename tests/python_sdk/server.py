"""A small HTTP server that answers as the test says, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

VM: dict[str, Any] = {
    "id": "0123456789abcd",
    "hostname": "01m84jarqcmetrhmb49wa83kf3.localhost",
    "cpu": 1,
    "memory": 256,
    "imageId": "01M84JAQ6RGNRXKE5TFB8SJJJE",
    "state": "started",
    "volumeGB": 0,
    "createdAt": "2026-03-03T20:22:39.096Z",
    "updatedAt": "2026-03-03T20:22:39.096Z",
}


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any
    content: bytes = b""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    @property
    def script(self) -> "Script":
        """The server it came to."""
        assert isinstance(self.server, Script)
        return self.server

    def setup(self) -> None:
        super().setup()
        self.script.connections += 1

    def answer(self) -> None:
        """Note the request and do what is next in the script."""
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        is_json = headers.get("content-type", "") == "application/json"
        body = json.loads(content) if content and is_json else None
        query = parse_qs(parts.query)
        self.script.asked.append(Asked(self.command, parts.path, query, headers, body, content))
        self.script.steps.pop(0)(self)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer  # noqa: N815

    def send_json(self, status: int, value: object, **headers: str) -> None:
        """Send a JSON answer."""
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


Step = Callable[[Handler], None]


class Script(ThreadingHTTPServer):
    """Answers each request with the next step."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.steps: list[Step] = []
        self.asked: list[Asked] = []
        self.connections = 0
        self.gone = threading.Event()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def keys(self) -> list[str | None]:
        """Return the Idempotency-Keys that came."""
        return [asked.headers.get("idempotency-key") for asked in self.asked]


@contextmanager
def scripted() -> Generator[Script]:
    """A server that runs during the block."""
    with Script() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def good(value: object = VM) -> Step:
    """Answer with a value."""
    return lambda handler: handler.send_json(200, value)


def problem(status: int, code: str, **headers: str) -> Step:
    """Answer with a problem."""
    value = {
        "type": f"urn:cakework:problem:{code}",
        "title": "Refused",
        "status": status,
        "detail": "It cannot be.",
        "code": code,
        "requestId": "req_1",
    }
    return lambda handler: handler.send_json(status, value, **headers)


def hang_up(handler: Handler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def hang(handler: Handler) -> None:
    """Say nothing until the test is over."""
    handler.script.released.wait()
    handler.close_connection = True


def trickle(handler: Handler) -> None:
    """Send a body so slowly that it never ends, until the client is gone."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.close_connection = True
    try:
        while not handler.script.released.wait(0.02):
            handler.wfile.write(b" ")
    except OSError:
        handler.script.gone.set()


def line(number: int) -> dict[str, object]:
    """Return a line of a log."""
    return {"id": number, "timestamp": number, "level": "info", "message": f"line {number}"}


@dataclass
class Stream:
    """Answers with lines as events, then with ``last`` bytes, then closes or waits."""

    first: int
    end: int
    last: bytes = b""
    wait: bool = False
    sent: threading.Event = field(default_factory=threading.Event)

    def __call__(self, handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.close_connection = True
        try:
            self._send(handler)
        except OSError:
            handler.script.gone.set()

    def _send(self, handler: Handler) -> None:
        for number in range(self.first, self.end):
            event = f"id: {number}\ndata: {json.dumps(line(number))}\n\n"
            handler.wfile.write(event.encode())
        handler.wfile.write(self.last)
        self.sent.set()
        while self.wait and not handler.script.released.wait(0.02):
            handler.wfile.write(b": still here\n\n")


END = b"event: end\ndata: {}\n\n"
