"""A place at which steps of builds wait until a test lets them go on."""

import os
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

from cakework.node.network.namespaces import run_inside


class Gate:
    """Shut until it is opened; ``step`` is the command that waits there, and goes past it after."""

    def __init__(self, listener: socket.socket) -> None:
        self.step = f"nc 127.0.0.1 {listener.getsockname()[1]} </dev/null"
        self._listener = listener
        self._opened = threading.Event()
        self._waiting: list[socket.socket] = []

    def open(self) -> None:
        """Let go on whoever waits, and who comes later."""
        self._opened.set()
        for connection in [*self._waiting]:
            connection.close()

    def serve(self) -> None:
        """Keep those that come until it is opened."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._waiting.append(connection)
            if self._opened.is_set():
                connection.close()


@contextmanager
def gate(netns: str) -> Generator[Gate]:
    """Have a gate on the loopback interface of a network namespace."""
    fd = os.open(netns, os.O_RDONLY)
    try:
        listener = run_inside(fd, lambda: socket.create_server(("127.0.0.1", 0)))
    finally:
        os.close(fd)
    with listener:
        made = Gate(listener)
        thread = threading.Thread(target=made.serve)
        thread.start()
        try:
            yield made
        finally:
            made.open()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
