"""Ports for programs that have to be told one."""

import socket
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Generator[int]:
    """Give a port of the loopback interface that the kernel gives to nobody else meanwhile.

    Whoever sets SO_REUSEADDR, as servers do, may listen there again and again: the socket that
    keeps it has that too, and does not listen, so that it refuses who connects.
    """
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]
