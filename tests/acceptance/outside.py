"""A network beyond the host, made for a test: a namespace with addresses of every kind."""

import contextlib
import fcntl
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

PUBLIC = "11.77.77.2"
"""An address that is public, and announced by nobody."""
REACHED_BY_SETTING = "10.77.0.66"
WALLED_OFF = (
    "10.77.0.2",
    "172.20.77.2",
    "192.168.77.2",
    "169.254.169.254",
    "100.64.77.2",
    "161.26.77.2",
    "198.18.77.2",
)
HOST_END = "10.77.0.1"
NAME = "cakework-test"
"""Of the namespace, and of the host's link to it. One at a time; a killed test's is taken away."""

DNS_PORT = 53
BACKLOG = 4096
"""Of who listens at all addresses of the host, is tried at each, and accepts nothing: the host has
one for each machine of each platform on it."""
LISTEN = """
import select, socket, sys
heard = open(sys.argv[1], "a", buffering=1)
server = socket.create_server(("0.0.0.0", 0), backlog=64)
port = server.getsockname()[1]
datagrams = []
for address in sys.argv[2:]:
    for number in (port, 53):
        datagrams.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams[-1].bind((address, number))
print(port, flush=True)
while True:
    for ready in select.select([server, *datagrams], [], [])[0]:
        if ready is server:
            server.accept()[0].close()
            continue
        data, sender = ready.recvfrom(2048)
        print(ready.getsockname()[0], data.hex(), file=heard)
        ready.sendto(data, sender)
"""


@dataclass(frozen=True)
class Outside:
    """``port`` is listened on at each of the addresses; by UDP, which is echoed, port 53 too."""

    port: int
    record: Path

    def heard(self, content: bytes) -> set[str]:
        """Return the addresses at which a datagram with ``content`` in it came in."""
        lines = (line.split() for line in self.record.read_text().splitlines())
        return {address for address, data in lines if content in bytes.fromhex(data)}


@contextlib.contextmanager
def outside() -> Generator[Outside]:
    """Put the addresses of this module a hop beyond the host, with a listener at each."""
    addresses = (PUBLIC, REACHED_BY_SETTING, *WALLED_OFF)
    with (
        namespace(NAME, HOST_END, addresses) as enter,
        tempfile.TemporaryDirectory() as folder,
        heard_first([*enter, sys.executable, "-c", LISTEN, f"{folder}/heard", *addresses]) as port,
    ):
        yield Outside(int(port), Path(folder) / "heard")


@contextlib.contextmanager
def namespace(name: str, host_end: str, addresses: Sequence[str]) -> Generator[list[str]]:
    """Make a namespace a hop beyond the host that has ``addresses``; yields the command by which
    others are run in it. ``host_end`` is the host's address on the link. One of a name at a time:
    others wait."""
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((Path(tempfile.gettempdir()) / f"{name}.lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (Path("/run/netns") / name).exists():
            _ip("netns", "delete", name)
        if (Path("/sys/class/net") / name).exists():
            _ip("link", "delete", name)
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "delete", name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        stack.callback(_ip, "link", "delete", name)
        _ip("address", "add", f"{host_end}/32", "dev", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "route", "add", host_end, "dev", "eth0")
        for address in addresses:
            _ip("-n", name, "address", "add", f"{address}/32", "dev", "eth0")
            _ip("route", "add", address, "dev", name, "src", host_end)
        _ip("-n", name, "route", "add", "default", "via", host_end, "dev", "eth0")
        yield ["ip", "netns", "exec", name]


@contextlib.contextmanager
def heard_first(command: Sequence[str]) -> Generator[str]:
    """Run a command, yield the first line that it prints, and end it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
