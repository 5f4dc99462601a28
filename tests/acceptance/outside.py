"""A network beyond the host, made for a test: a namespace with addresses of every kind."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass

PUBLIC = "11.77.77.2"
"""An address that is public, and announced by nobody."""
REACHED_BY_SETTING = "10.77.0.66"
WALLED_OFF = (
    "10.77.0.2",
    "172.20.77.2",
    "192.168.77.2",
    "169.254.169.254",
    "100.64.77.2",
    "198.18.77.2",
)
HOST_END = "10.77.0.1"

LISTEN = """
import socket, sys
server = socket.create_server(("0.0.0.0", 0), backlog=64)
print(server.getsockname()[1], flush=True)
while True:
    server.accept()[0].close()
"""


@dataclass(frozen=True)
class Outside:
    """``port`` is listened on at each of the addresses."""

    port: int


@contextlib.contextmanager
def outside() -> Generator[Outside]:
    """Put the addresses of this module a hop beyond the host, with a listener at each."""
    name = f"cwt{os.getpid()}"
    with contextlib.ExitStack() as stack:
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "delete", name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        stack.callback(_ip, "link", "delete", name)
        _ip("address", "add", f"{HOST_END}/32", "dev", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "route", "add", HOST_END, "dev", "eth0")
        for address in (PUBLIC, REACHED_BY_SETTING, *WALLED_OFF):
            _ip("-n", name, "address", "add", f"{address}/32", "dev", "eth0")
            _ip("route", "add", address, "dev", name, "src", HOST_END)
        _ip("-n", name, "route", "add", "default", "via", HOST_END, "dev", "eth0")
        listener = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", LISTEN],
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(_end, listener)
        assert listener.stdout is not None
        yield Outside(int(listener.stdout.readline()))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
