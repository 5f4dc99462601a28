"""Machines around a host, for tests of what is reached from it."""

import os
import socket
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager

from cakework.node.network.namespaces import run_inside

PRIVATE = "10.233.77.2"
HOST_SIDE = "10.233.77.1"
HELLO = b"hello"


@contextmanager
def neighbouring() -> Generator[int]:
    """Have a machine in the host's private network, at PRIVATE; give the port on which it says
    hello."""
    name, link = f"cw-near-{os.getpid()}", f"cwn{os.getpid()}"[:15]
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
