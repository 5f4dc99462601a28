"""The server's connections to its node: what is cut short at either end leaves nothing behind."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cakework.domain.errors import Unavailable
from cakework.server.node.client import NodeClient
from cakework.server.node.connections import StreamConnection, UnixSocketTransport

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A node's socket that nothing answers on but the test."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "node.sock"))
        listening.listen()
        listening.setblocking(False)
        yield listening


@pytest.fixture
async def client(listener: socket.socket) -> AsyncIterator[NodeClient]:
    """A client of that node."""
    client = NodeClient(Path(listener.getsockname()))
    yield client
    await client.close()


async def _asked(listener: socket.socket) -> socket.socket:
    """Take a connection and what is asked on it."""
    loop = asyncio.get_running_loop()
    accepted, _ = await loop.sock_accept(listener)
    accepted.setblocking(False)
    await loop.sock_recv(accepted, 65536)
    return accepted


async def _answer(listener: socket.socket, status: str, body: bytes) -> socket.socket:
    accepted = await _asked(listener)
    accepted.send(
        b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status.encode(), len(body), body)
    )
    return accepted


async def test_a_read_that_is_cancelled_as_bytes_arrive(
    listener: socket.socket, client: NodeClient
) -> None:
    """Whoever follows a log goes away just as a line is printed: the loop has nothing to tell."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    began = asyncio.Event()

    async def follow() -> None:
        async with client.journal(0) as chunks:
            async for _ in chunks:
                began.set()

    following = asyncio.create_task(follow())
    with await _asked(listener) as node:
        node.send(HEAD + b"1\r\nx\r\n")
        await began.wait()
        await asyncio.sleep(0.01)  # until nothing is left to read
        node.send(b"1\r\ny\r\n")
        asyncio.get_running_loop().call_soon(following.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await following
        with contextlib.suppress(ConnectionResetError):  # as when bytes were left unread
            assert await asyncio.get_running_loop().sock_recv(node, 1) == b"", "it was hung up"
    assert told == []


async def test_a_connection_that_the_node_has_closed_is_not_used_again(
    listener: socket.socket, client: NodeClient
) -> None:
    """A node that was started again has closed what was kept open."""
    for _ in range(3):
        asking = asyncio.create_task(client.builds())
        with await _answer(listener, "200 OK", b"[]"):
            assert await asking == []


async def test_a_kept_connection_is_used_again(listener: socket.socket, client: NodeClient) -> None:
    """A call costs no connection of its own."""
    asking = asyncio.create_task(client.builds())
    with await _answer(listener, "200 OK", b"[]") as node:
        assert await asking == []
        again = asyncio.create_task(client.builds())
        await asyncio.get_running_loop().sock_recv(node, 65536)
        node.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]")
        assert await again == []


async def test_a_node_that_hangs_up_in_the_midst(
    listener: socket.socket, client: NodeClient
) -> None:
    """An answer that is cut short is no answer."""
    asking = asyncio.create_task(client.builds())
    with await _asked(listener) as node:
        node.send(HEAD)
    with pytest.raises(Unavailable):
        await asking


async def test_a_node_that_is_not_there(tmp_path: Path) -> None:
    """Before it is started there is no socket."""
    client = NodeClient(tmp_path / "node.sock")
    with pytest.raises(Unavailable):
        await client.builds()
    await client.close()


async def test_a_node_that_does_not_answer(listener: socket.socket) -> None:
    """It is waited for as long as was said, and then it is away."""
    transport = UnixSocketTransport(listener.getsockname(), kept=1)
    async with httpx2.AsyncClient(transport=transport, timeout=0.05) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.get("http://node/v1/health")


async def test_what_has_come_to_its_end_is_closed(listener: socket.socket) -> None:
    """Whether or not the client gets to close it: somebody may cancel that just then."""
    reader, writer = await asyncio.open_unix_connection(listener.getsockname())
    connection = StreamConnection(reader, writer)
    accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
    accepted.send(b"all there is")
    accepted.close()
    assert await connection.read(4) == b"all "
    assert not writer.is_closing()
    assert await connection.read(100) == b"there is"
    assert await connection.read(100) == b""
    assert writer.is_closing()
    assert connection.get_extra_info("is_readable")
    await connection.aclose()
