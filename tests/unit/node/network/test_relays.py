"""What a relay does with connections that end in unusual ways."""

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter

import pytest

from cakework.node.network.relays import pass_on

LOOPBACK = "127.0.0.1"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that the node runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.mark.anyio
async def test_one_side_is_lost_before_the_other_ends() -> None:
    """It is no fault: the end that nobody is there for is not passed on."""
    passed: asyncio.Queue[BaseException | None] = asyncio.Queue()
    near: list[StreamWriter] = []

    async def serve_far(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.read()
        near[0].transport.abort()
        await near[0].wait_closed()
        writer.close()

    async def relay(reader: StreamReader, writer: StreamWriter) -> None:
        near.append(writer)
        address = far.sockets[0].getsockname()
        ended = await asyncio.gather(pass_on(reader, writer, address), return_exceptions=True)
        passed.put_nowait(ended[0])

    async with (
        await asyncio.start_server(serve_far, LOOPBACK, 0) as far,
        await asyncio.start_server(relay, LOOPBACK, 0) as between,
    ):
        _, writer = await asyncio.open_connection(*between.sockets[0].getsockname())
        writer.write_eof()
        assert await asyncio.wait_for(passed.get(), 60) is None
        writer.close()


@pytest.mark.anyio
async def test_a_reset_connection_is_asked_what_ended_it() -> None:
    """So nothing is reported when it is forgotten, in whichever order what is left of it goes."""
    passed: asyncio.Queue[bool] = asyncio.Queue()

    async def serve_far(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def relay(reader: StreamReader, writer: StreamWriter) -> None:
        await pass_on(reader, writer, far.sockets[0].getsockname())
        ended = writer._protocol._closed  # pyright: ignore
        passed.put_nowait(ended.done() and not ended._log_traceback)  # pyright: ignore

    async with (
        await asyncio.start_server(serve_far, LOOPBACK, 0) as far,
        await asyncio.start_server(relay, LOOPBACK, 0) as between,
    ):
        peer = socket.create_connection(between.sockets[0].getsockname())
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert await asyncio.wait_for(passed.get(), 60)
