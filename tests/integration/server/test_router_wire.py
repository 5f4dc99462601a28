import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from cakework.router.wire import HIGH_WATER, Wire
from tests.integration.server.router_rig import DEADLINE_S, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def pair() -> AsyncGenerator[tuple[Wire, Wire]]:
    """Two ends of one TCP connection."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Wire] = loop.create_future()
    server = await loop.create_server(lambda: Wire(accepted.set_result), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, near = await loop.create_connection(Wire, "127.0.0.1", port)
    far = await accepted
    server.close()
    try:
        yield near, far
    finally:
        near.abort()
        far.abort()
        await asyncio.gather(near.ended(), far.ended())


async def test_what_is_read_is_what_was_written() -> None:
    """Bytes arrive in order, those put back come first, and an end is an end."""
    async with pair() as (near, far):
        await near.write(b"one ")
        first = await far.read()
        far.unread(first)
        await near.write(b"two")
        near.write_eof()
        read = b""
        while data := await far.read():
            read += data
        assert read == b"one two"
        await far.write(b"back")
        assert await near.read() == b"back"


async def test_a_wire_that_was_closed_here_is_lost_at_once() -> None:
    """From the moment it is closed nothing can be written or read, and closing again is nothing."""
    async with pair() as (near, _):
        near.abort()
        assert near.is_lost
        with pytest.raises(ConnectionResetError):
            await near.write(b"x")
        with pytest.raises(ConnectionResetError):
            await near.read()
        near.write_eof()
        near.probe()
        near.reset()
        near.abort()
        await near.finish(flush_s=1, linger_s=1)


async def test_closing_wakes_who_waits() -> None:
    """A reader and a stalled writer learn that the wire was closed here."""
    async with pair() as (near, far):
        reading = asyncio.create_task(near.read())
        writing = asyncio.create_task(_write_without_end(far))
        await eventually(lambda: near.has_bytes or reading.done())
        await reading
        stalled = asyncio.create_task(_write_without_end(near))
        await asyncio.wait({stalled}, timeout=0.2)
        near.abort()
        for task in (writing, stalled):
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(task, DEADLINE_S)


async def test_what_nobody_takes_waits_where_it_is_counted() -> None:
    """And not in the kernel, which has room for megabytes."""
    async with pair() as (near, far):
        far.transport.pause_reading()
        writing = asyncio.create_task(near.write(bytes(2 << 20)))
        await eventually(lambda: near.held > 0 or writing.done())
        assert near.held > 1 << 20
        writing.cancel()
        await asyncio.wait([writing])


async def test_a_reset_is_seen_though_nothing_is_read() -> None:
    """While so much waits that the peer is not listened to, a probe still finds it gone."""
    async with pair() as (near, far):
        writing = asyncio.create_task(_write_without_end(far))
        await eventually(lambda: vars(near)["_reading_paused"])
        far.reset()
        with pytest.raises(ConnectionResetError):
            await writing
        await eventually(lambda: near.probe() or near.is_lost)
        assert near.has_bytes


async def test_finishing_delivers_everything_first() -> None:
    """A slow reader still gets all that was written before the end."""
    async with pair() as (near, far):
        size = 4 * HIGH_WATER
        finishing = asyncio.create_task(_write_and_finish(near, b"x" * size))
        received = 0
        while data := await far.read():
            received += len(data)
            await asyncio.sleep(0)
        assert received == size
        far.abort()
        await finishing


async def _write_and_finish(wire: Wire, data: bytes) -> None:
    await wire.write(data)
    await wire.finish(flush_s=DEADLINE_S, linger_s=DEADLINE_S)


async def _write_without_end(wire: Wire) -> None:
    while True:
        await wire.write(b"x" * 65536)
