"""Unix sockets by paths of any length: the kernel takes 107 bytes, a data folder may have more."""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def listen(path: Path, backlog: int = 1) -> socket.socket:
    """Return a socket that listens at ``path``, in place of what was there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as short:
            listener.bind(short)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def connect(path: Path) -> socket.socket:
    """Return a non-blocking socket connected to ``path``.

    Raises:
        OSError: nothing listens there, or as many wait already as the listener lets wait.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _short(path) as short:
            connected.connect(short)
    except BaseException:
        connected.close()
        raise
    return connected


@contextmanager
def _short(path: Path) -> Generator[str]:
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
