import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.codec import decode_host, encode
from cakework.node.guest.protocol import (
    MARK,
    WIRE_MAX,
    Ack,
    GuestError,
    GuestHello,
    HostHello,
    Line,
    Ping,
    Pong,
)

pytestmark = pytest.mark.anyio
Script = Callable[[HostHello, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the next frame that is not empty, without its mark."""
    frame = b""
    while not frame:
        frame = (await reader.readuntil(MARK))[:-1]
    return frame


@contextlib.asynccontextmanager
async def guest(path: Path, script: Script) -> AsyncGenerator[None]:
    """A guest that reads HELLO and then does what ``script`` says; its failure is the test's."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = decode_host(await read_frame(reader))
            assert isinstance(hello, HostHello)
            await script(hello, reader, writer)
        finally:
            writer.close()

    async with contextlib.AsyncExitStack() as stack:
        with contextlib.chdir(path.parent):
            server = await asyncio.start_unix_server(serve, path.name)
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        yield


def answer(hello: HostHello, **changes: int) -> bytes:
    return MARK + encode(GuestHello(hello.token, "running", 7, "test", **changes))


async def connect(path: Path, acked: int = 0) -> GuestChannel:
    return await GuestChannel.connect(path, acked=acked, timeout_s=60)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A socket's path of more than 108 bytes."""
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    return folder / "port.sock"


async def test_frames_go_both_ways(path: Path) -> None:
    """The handshake tells what is acknowledged; then frames arrive whole, in order."""

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert hello.acked == 5
        writer.write(answer(hello) + encode(Line(6, 1, "stdout", b"\xff\xfe")))
        assert decode_host(await read_frame(reader)) == Ack(6)
        writer.write(encode(Pong(1)))

    async with guest(path, script):
        channel = await connect(path, acked=5)
        assert (channel.hello.state, channel.hello.last) == ("running", 7)
        assert await channel.receive() == Line(6, 1, "stdout", b"\xff\xfe")
        await channel.send(Ack(6))
        assert await channel.receive() == Pong(1)
        assert await channel.receive() is None
        await channel.close()


async def test_leftovers_of_an_earlier_connection_are_skipped(path: Path) -> None:
    """Half frames, lines and the HELLO meant for another node come to nobody."""

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line = encode(Line(6, 1, "stdout", b"old"))
        other = encode(GuestHello(hello.token ^ 1, "waiting", 0, "test"))
        writer.write(line[5:] + line + other + line + line[:9] + answer(hello) + line)

    async with guest(path, script):
        channel = await connect(path)
        assert channel.hello.state == "running"
        assert await channel.receive() == Line(6, 1, "stdout", b"old")
        assert await channel.receive() is None
        await channel.close()


async def test_thousands_of_lines_come_in_order(path: Path) -> None:
    """However the bytes are cut up, no line is lost, repeated or torn."""
    lines = [Line(n, n, "stderr", b"\xfe%d\xff" % n * (n % 9)) for n in range(1, 20_001)]

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        wire = answer(hello) + b"".join(map(encode, lines))
        for start in range(0, len(wire), 7777):
            writer.write(wire[start : start + 7777])
            await writer.drain()

    async with guest(path, script):
        channel = await connect(path)
        assert [await channel.receive() for _ in lines] == lines
        assert await channel.receive() is None
        await channel.close()


async def test_a_cancelled_receive_loses_nothing(path: Path) -> None:
    """A frame that comes in halves around a cancelled receive is the next one's."""
    frame = encode(Pong(9))

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(answer(hello) + frame[:4])
        assert decode_host(await read_frame(reader)) == Ping(9)
        writer.write(frame[4:])

    async with guest(path, script):
        channel = await connect(path)
        with anyio.move_on_after(0.05):
            await channel.receive()
        await channel.send(Ping(9))
        assert await channel.receive() == Pong(9)
        await channel.close()


async def test_a_broken_frame_is_an_error(path: Path) -> None:
    """After the handshake, bytes that are no frame end the connection."""

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(answer(hello) + b"junk" + MARK)

    async with guest(path, script):
        channel = await connect(path)
        with pytest.raises(GuestError):
            await channel.receive()
        await channel.close()


async def test_a_frame_without_end_is_an_error(path: Path) -> None:
    """Of a frame longer than any may be, no more is kept than that."""

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(answer(hello))
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * (WIRE_MAX // 8))
                await writer.drain()

    async with guest(path, script):
        channel = await connect(path)
        with pytest.raises(GuestError, match="without end"):
            await channel.receive()
        await channel.close()


async def test_another_version_is_refused(path: Path) -> None:
    """A guest of another version is not talked to, and the connection is closed."""
    closed = asyncio.Event()

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(answer(hello, version=3))
        assert await reader.read() == b""
        closed.set()

    async with guest(path, script):
        with pytest.raises(GuestError, match="version 3"):
            await connect(path)
        with anyio.fail_after(60):
            await closed.wait()


async def test_a_silent_guest_is_given_up(path: Path) -> None:
    """Without an answer the connection is closed after the time allowed."""
    closed = asyncio.Event()

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert await reader.read() == b""
        closed.set()

    async with guest(path, script):
        with pytest.raises(GuestError, match="did not answer"):
            await GuestChannel.connect(path, acked=0, timeout_s=0.05)
        with anyio.fail_after(60):
            await closed.wait()


async def test_a_port_closed_early_is_an_error(path: Path) -> None:
    """QEMU going away during the handshake is told at once."""

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"half a fra")

    async with guest(path, script):
        with pytest.raises(GuestError, match="before it answered"):
            await connect(path)


async def test_nobody_listening_is_an_error(path: Path) -> None:
    """A socket that is not there is a GuestError with its cause."""
    with pytest.raises(GuestError, match="cannot connect"):
        await connect(path)
    with pytest.raises(GuestError, match="cannot connect"):
        await connect(path.parent / "none" / "port.sock")
