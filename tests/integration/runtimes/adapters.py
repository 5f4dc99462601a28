"""The adapters as real processes, and what pid 1 and the router would say to them."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from cakework.runtimes import NODE, PYTHON
from tests.integration.ports import reserved_port

NODE_PROGRAM = Path(sys.prefix) / "bin" / "node"
PROGRAMS = Path(__file__).with_name("programs")
LANGUAGES = ("python", "node")
DEADLINE_S = 60
"""Only tells what hangs."""
KEPT_CHARACTERS = 65_536
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Told:
    """What ``/invoke`` answered: the answer, and the line that says that nothing runs."""

    answer: dict[str, Any]
    idle: dict[str, Any]


class Adapter:
    """One adapter that runs. ``output`` is the end of what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, control: int) -> None:
        self.process = process
        self.port = port
        self.control = control
        self.output = ""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def order(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer to an order of pid 1's, which must be 200."""
        with self.asked(method, path, body) as response:
            told = json.loads(response.read())
            assert response.status == 200, (response.status, told)
            return told

    @contextlib.contextmanager
    def asked(
        self, method: str, path: str, body: Any = None, caller: str = "cakework"
    ) -> Generator[HTTPResponse]:
        """Give an order; its answer may be read as it comes."""
        connection = HTTPConnection("127.0.0.1", self.control, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            raw = None if body is None else json.dumps(body).encode()
            connection.request(method, path, raw, {"User-Agent": caller})
            yield connection.getresponse()

    def invoke(self, event: Any = None, **more: Any) -> Told:
        """Have an attempt made; return its two lines when both are there."""
        with self.invoked(event, **more) as response:
            answer, idle = response.read().splitlines()
            return Told(json.loads(answer), json.loads(idle))

    @contextlib.contextmanager
    def invoked(
        self,
        event: Any = None,
        kind: str = "event",
        invocation: str | None = None,
        attempt: int = 1,
        unit: str | None = None,
        **context: Any,
    ) -> Generator[HTTPResponse]:
        """Have an attempt made; its lines may be read as they come."""
        name = invocation or f"inv_{next(_numbers)}"
        order = {
            "kind": kind,
            "event": event,
            "context": {"invocationId": name, "attempt": attempt, **context},
            **({"unit": unit} if unit else {}),
        }
        with self.asked("POST", "/invoke", order) as response:
            yield response

    def result(self, event: Any = None, **more: Any) -> Any:
        """Return the result of an attempt that must succeed."""
        answer = self.invoke(event, **more).answer
        assert answer["outcome"] == "ok", answer
        return answer["result"]

    @contextlib.contextmanager
    def visit(
        self, method: str, target: str, body: Any = None, **headers: str
    ) -> Generator[HTTPResponse]:
        """Send a visitor's request; the answer may be read as it comes."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body, named)
            yield connection.getresponse()

    def connect(self) -> socket.socket:
        """Return a visitor's connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def wait(self) -> int:
        """Return how the process ended."""
        status = self.process.wait(DEADLINE_S)
        self._reading.join(DEADLINE_S)
        return status

    def _read(self) -> None:
        assert self.process.stdout
        while part := os.read(self.process.stdout.fileno(), 65_536):
            self.output = (self.output + part.decode(errors="replace"))[-KEPT_CHARACTERS:]


@contextlib.contextmanager
def adapter(
    language: str,
    entry: str | None,
    *options: str,
    folder: Path | None = None,
    env: dict[str, str] | None = None,
    flags: tuple[str, ...] = (),
) -> Generator[Adapter]:
    """Run the adapter of ``language`` while the block lasts, which begins when it listens.

    ``flags`` are for the language's own program. Without an ``entry`` it has no function yet.
    """
    started = {
        "python": [sys.executable, *flags, str(PYTHON)],
        "node": [str(NODE_PROGRAM), *flags, str(NODE / "adapter" / "main.mjs")],
    }[language]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with reserved_port() as port, reserved_port() as control:
        ports = ["--host", "127.0.0.1", "--port", str(port), "--control-port", str(control)]
        process = subprocess.Popen(
            [*started, *(() if entry is None else ("--entry", entry)), *ports, *options],
            cwd=folder or PROGRAMS / language,
            env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        with process:
            made = Adapter(process, port, control)
            try:
                until(lambda: _listens(port) or process.poll() is not None)
                yield made
            finally:
                process.kill()
                made.wait()


def until(reached: Any) -> None:
    """Return when ``reached`` answers something true; fail when it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
