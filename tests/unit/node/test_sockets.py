"""Unix sockets at any path."""

import socket
from pathlib import Path

import pytest

from cakework.node.sockets import connect, listen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    return folder / "node.sock"


def test_paths_longer_than_the_kernel_takes(path: Path) -> None:
    """A socket whose path has more than 107 bytes is listened at and connected to."""
    with listen(path) as listener, connect(path) as client:
        server, _ = listener.accept()
        with server:
            client.send(b"hello")
            assert server.recv(10) == b"hello"


def test_what_was_there_is_replaced(path: Path) -> None:
    """The socket of a killed node is no hindrance."""
    listen(path).close()
    with listen(path), connect(path):
        pass


def test_connecting_never_blocks(path: Path) -> None:
    """A listener that takes nobody, as a stopped process does, gives an error at once."""
    waiting: list[socket.socket] = []
    with listen(path), pytest.raises(BlockingIOError):
        while len(waiting) < 10:
            waiting.append(connect(path))
    assert 1 <= len(waiting) < 10
    for client in waiting:
        client.close()


def test_nothing_listens(tmp_path: Path) -> None:
    """Neither an absent socket nor an absent folder is taken for one."""
    for path in (tmp_path / "no.sock", tmp_path / "no" / "no.sock"):
        with pytest.raises(FileNotFoundError):
            connect(path)
