"""A small web service: JSON on /, a stream on /stream, a line in the log for each request."""

import json
import os
import platform
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 8000
STARTED = time.time()


class Service(BaseHTTPRequestHandler):
    """Answers GET requests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one request."""
        if self.path == "/":
            self.answer_json()
        elif self.path == "/stream":
            self.answer_stream()
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def answer_json(self) -> None:
        """Say where this runs."""
        body = json.dumps(
            {
                "message": f"Hello from {os.environ.get('NAME', 'Python')}",
                "hostname": platform.node(),
                "python": platform.python_version(),
                "upSeconds": round(time.time() - STARTED, 1),
            }
        ).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_stream(self) -> None:
        """Count to five, a line every 200 ms, each sent when it is made."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(1, 6):
            self.wfile.write(f"{number}\n".encode())
            self.wfile.flush()
            time.sleep(0.2)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print a line of the log."""
        print(format % args, flush=True)


if __name__ == "__main__":
    print(f"Python {platform.python_version()} listens on port {PORT}", flush=True)
    ThreadingHTTPServer(("", PORT), Service).serve_forever()
