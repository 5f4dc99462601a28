"""Machines around a host, for tests of what is reached from it."""

import ipaddress
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager

from cakework.node.network.namespaces import run_inside

_LINKS = 1 << 14
_LINK = ipaddress.IPv4Address("10.233.0.0") + os.getpid() % _LINKS * 4
"""A /30 of this process's own: other runs of these tests on this host have others."""
HOST_SIDE, PRIVATE = str(_LINK + 1), str(_LINK + 2)
HELLO = b"hello"


@contextmanager
def neighbouring() -> Generator[int]:
    """Have a machine in the host's private network, at PRIVATE; give the port on which it says
    hello."""
    name, link = f"cw-near-{secrets.token_hex(6)}", f"cwn{secrets.token_hex(5)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            f"ip link add {link} type veth peer name far netns {name}",
            f"ip addr add {HOST_SIDE}/30 dev {link}",
            f"ip link set {link} up",
            f"ip -n {name} addr add {PRIVATE}/30 dev far",
            f"ip -n {name} link set far up",
            f"ip -n {name} route add default via {HOST_SIDE}",
        ):
            subprocess.run(command.split(), check=True)
        fd = os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            listener = run_inside(fd, lambda: socket.create_server((PRIVATE, 0)))
        finally:
            os.close(fd)
        with listener, greeting_on(listener) as port:
            yield port
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextmanager
def greeting_on(listener: socket.socket) -> Generator[int]:
    """Say hello to whoever connects; give the port."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(HELLO)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
