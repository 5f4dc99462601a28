"""What a relay does with connections that end in unusual ways."""

import asyncio
import gc
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
    """Nothing is reported once the garbage is looked through, in whichever order."""
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, said: reported.append(said))
    passed: asyncio.Queue[tuple[StreamReader, StreamWriter]] = asyncio.Queue()

    async def serve_far(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def relay(reader: StreamReader, writer: StreamWriter) -> None:
        await pass_on(reader, writer, far.sockets[0].getsockname())
        passed.put_nowait((reader, writer))

    async with (
        await asyncio.start_server(serve_far, LOOPBACK, 0) as far,
        await asyncio.start_server(relay, LOOPBACK, 0) as between,
    ):
        for _ in range(10):
            peer = socket.create_connection(between.sockets[0].getsockname())
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            reader, writer = await asyncio.wait_for(passed.get(), 60)
            # Its future alone is kept: what the garbage leaves of it when the order is bad.
            ended = writer._protocol._closed  # pyright: ignore
            del reader, writer
            gc.collect()
            assert not ended._log_traceback  # pyright: ignore
            del ended
    gc.collect()
    assert reported == []
