import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakework.node.guest import channel as module
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.codec import decode_guest, decode_host, encode
from cakework.node.guest.protocol import (
    MARK,
    WIRE_MAX,
    Ack,
    Exited,
    Failed,
    Freeze,
    Frozen,
    GuestError,
    GuestFrame,
    GuestHello,
    Hooked,
    HostFrame,
    HostHello,
    Identity,
    Line,
    Ping,
    Pong,
    PowerOff,
    Ready,
    Rehearse,
    Resumed,
    Run,
    Started,
)
from tests.properties import examples

from .fake_guest import answer, guest, read_frame
from .frames import guest_frames, host_frames

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


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
        assert decode_host(await read_frame(reader)) == Ping(1)
        writer.write(encode(Pong(1)))

    async with guest(path, script):
        channel = await connect(path, acked=5)
        assert (channel.hello.state, channel.hello.last) == ("running", 7)
        assert await channel.receive() == Line(6, 1, "stdout", b"\xff\xfe")
        await channel.send(Ack(6), Ping(1))
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


ONCE = [Exited(False, 0, False, 0), Failed(1, "no"), Hooked("done", 0), Frozen(0), Ready()]


@pytest.mark.parametrize("frame", [Started(5), Resumed(), Pong(1), GuestHello(1, "running", 0, "")])
async def test_what_nobody_asked_for_is_an_error(path: Path, frame: GuestFrame) -> None:
    """An answer without an order ends the connection, the first time it comes."""

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(answer(hello) + encode(frame))

    async with guest(path, script):
        channel = await connect(path)
        with pytest.raises(GuestError, match="without being asked"):
            await channel.receive()
        await channel.close()


@pytest.mark.parametrize(
    ("order", "said"),
    [
        *((Ack(0), frame) for frame in ONCE),
        (Run(Identity(clock_ns=0, seed=bytes(32), hostname="h"), ()), Started(5)),
        (Freeze(), Frozen(0)),
        (PowerOff(0), Failed(1, "no")),
    ],
)
async def test_no_frame_is_said_without_end(path: Path, order: HostFrame, said: GuestFrame) -> None:
    """Each kind comes as often as it was asked for, and once where an earlier connection may have;
    what came before is told first."""

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(answer(hello))
        await read_frame(reader)
        writer.write(encode(said) * 1000)

    async with guest(path, script):
        channel = await connect(path)
        await channel.send(order)
        heard: list[GuestFrame] = []
        with pytest.raises(GuestError, match="without being asked, or twice"):
            while frames := await channel.receive_all():
                heard += frames
        await channel.close()
    assert heard == [said] * len(heard)
    assert 1 <= len(heard) <= 2


@pytest.mark.parametrize("greeting", [True, False], ids=["after HELLO", "before HELLO"])
@pytest.mark.parametrize("flood", [MARK, encode(Ready())], ids=["empty", "frames"])
async def test_a_flood_ends_the_connection(path: Path, flood: bytes, *, greeting: bool) -> None:
    """What costs the node time and tells it nothing is not read for ever."""

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            if greeting:
                writer.write(answer(hello))
            while True:
                writer.write(flood * 50_000)
                await writer.drain()

    async with guest(path, script):
        with pytest.raises(GuestError, match=r"everything but hello|empty frames|or twice"):
            channel = await GuestChannel.connect(path, acked=0, timeout_s=3600)
            try:
                while await channel.receive_all():
                    pass
            finally:
                await channel.close()


async def test_a_guest_that_takes_nothing_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sending nor closing waits for it for ever."""
    monkeypatch.setattr(module, "SEND_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.05)
    deaf = asyncio.Event()

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(answer(hello))
        await deaf.wait()

    async with guest(path, script):
        channel = await connect(path)
        with pytest.raises(GuestError, match="took nothing"):
            while True:
                await channel.send(Rehearse(("x" * 1_000_000,)))
        with anyio.fail_after(60):
            await channel.close()
        deaf.set()


class Nowhere:
    """The end of a connection on which nobody takes anything."""

    def write(self, data: bytes) -> None:
        """Take it."""

    async def drain(self) -> None:
        """Wait for nobody."""


def heard(pieces: list[bytes], orders: Sequence[HostFrame]) -> tuple[list[GuestFrame], str]:
    """Return what a channel makes of bytes that come in ``pieces``, and how that ended."""

    async def listen() -> tuple[list[GuestFrame], str]:
        reader = asyncio.StreamReader()
        channel = GuestChannel(reader, cast("asyncio.StreamWriter", Nowhere()))
        await channel.send(*orders)
        frames: list[GuestFrame] = []
        try:
            for piece in pieces:
                reader.feed_data(piece)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        while True:
                            frames += await channel.receive_all()
            reader.feed_eof()
            while said := await channel.receive_all():
                frames += said
        except GuestError as error:
            return frames, error.detail
        return frames, ""

    return asyncio.run(listen())


wires = st.lists(
    guest_frames.map(encode)
    | st.binary(max_size=20)
    | st.sampled_from([MARK, b"\xfe", encode(Started(1)), encode(Ready()), encode(Ready()) * 9])
).map(b"".join)


@settings(max_examples=examples(150), deadline=None)
@given(wires, st.lists(host_frames, max_size=5), st.data())
def test_any_bytes_of_a_guest(wire: bytes, orders: list[HostFrame], data: st.DataObject) -> None:
    """However its bytes are cut up they are the same frames, up to the first fault; none is told
    more often than it was asked for, and an earlier connection may have asked."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    pieces = [wire[a:b] for a, b in pairwise([0, *cuts, len(wire)])]
    frames, fault = heard([piece for piece in pieces if piece], orders)
    assert (frames, fault) == heard([wire] if wire else [], orders)
    told = Counter(type(frame) for frame in frames if not isinstance(frame, Line))
    assert all(count <= 1 + len(orders) * (1 + (kind is Failed)) for kind, count in told.items())
    whole = [piece for piece in wire.split(MARK)[:-1] if piece]
    assert [encode(frame) for frame in frames] == [
        encode(decode_guest(piece)) for piece in whole[: len(frames)]
    ]
    assert fault or len(frames) == len(whole)
