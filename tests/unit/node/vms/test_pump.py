"""The pump: every line once and in order into the journal, no faster than it may."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cakework.domain.facts import VmLine
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.codec import decode_host, encode
from cakework.node.guest.protocol import (
    MARK,
    Ack,
    Exited,
    GuestError,
    GuestFrame,
    Line,
)
from cakework.node.journal import Journal
from cakework.node.vms import pump as module
from cakework.node.vms.pump import Pump


def line(number: int, text: bytes = b"x", time_ns: int = 5_000_000) -> Line:
    return Line(number, time_ns, "stdout", text)


class Rig:
    """A pump on a real journal, and the guest's end of its connection."""

    def __init__(self, journal: Journal, guest: socket.socket, pump: Pump) -> None:
        self.journal, self.guest, self.pump = journal, guest, pump
        self.facts: list[VmLine] = []

    async def says(self, frames: Iterable[GuestFrame]) -> list[GuestFrame] | None:
        """The guest sends frames; return what the pump makes of them."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.guest, b"".join(encode(frame) for frame in frames))
        return await asyncio.wait_for(self.pump.receive(), 60)

    def acks(self) -> list[Ack]:
        received = self.guest.recv(1 << 16)
        return [
            frame for p in received.split(MARK) if p and isinstance(frame := decode_host(p), Ack)
        ]


@asynccontextmanager
async def rig(folder: Path, before: int = 0) -> AsyncGenerator[Rig]:
    ours, guest = socket.socketpair()
    guest.setblocking(False)
    journal = Journal.open(folder)
    channel = GuestChannel(*await asyncio.open_unix_connection(sock=ours))
    try:
        source = journal.source("vm", "account")
        yield Rig(journal, guest, Pump("vm", channel, source, before))
    finally:
        await channel.close()
        guest.close()
        journal.close()


def texts(folder: Path) -> list[tuple[int, str]]:
    return [(fact.seq, fact.text) for fact in lines_in(folder)]


def lines_in(folder: Path) -> list[VmLine]:
    segments = [path.read_text() for path in sorted(folder.glob("lines/vm.lines/*.ndjson"))]
    lines = "".join(segments).splitlines()
    return [VmLine.model_validate_json(text) for text in lines if '"vm.line"' in text]


def test_lines_are_recorded_then_acknowledged(tmp_path: Path) -> None:
    """Lines come into the journal with their numbers; other frames come back."""

    async def scene() -> None:
        async with rig(tmp_path) as r:
            exited = Exited(False, 0, False, 2)
            assert await r.says([line(1, b"one"), line(2, b"\xff\x00two"), exited]) == [exited]
            assert r.acks() == [Ack(2)]

    asyncio.run(scene())
    assert texts(tmp_path) == [(1, "one"), (2, "\ufffd\0two")]


def test_lines_sent_again_are_recorded_once(tmp_path: Path) -> None:
    """After a reconnection a guest repeats what was not acknowledged."""

    async def scene() -> None:
        async with rig(tmp_path) as r:
            await r.says([line(1), line(2)])
            await r.says([line(1), line(2), line(3)])
            await r.says([line(3)])
            assert r.acks()[-1] == Ack(3)

    asyncio.run(scene())
    assert [seq for seq, _ in texts(tmp_path)] == [1, 2, 3]


def test_a_gap_is_the_guests_fault(tmp_path: Path) -> None:
    """Numbers that jump would hide lost lines."""

    async def scene() -> None:
        async with rig(tmp_path) as r:
            await r.says([line(1)])
            with pytest.raises(GuestError, match="line 3 after line 1"):
                await r.says([line(3)])

    asyncio.run(scene())
    assert [seq for seq, _ in texts(tmp_path)] == [1]


def test_a_further_run_counts_on(tmp_path: Path) -> None:
    """A guest counts its own lines from 1; the journal those of all runs of the VM."""
    journal = Journal.open(tmp_path)
    journal.source("vm", "account").extend(
        [VmLine(at_ms=1, vm_id="vm", seq=n, stream="stdout", text="x") for n in range(1, 8)]
    )
    journal.close()

    async def scene() -> None:
        async with rig(tmp_path, before=7) as r:
            await r.says([line(1), line(2)])
            assert r.acks() == [Ack(2)]

    asyncio.run(scene())
    assert [seq for seq, _ in texts(tmp_path)] == list(range(1, 10))


def test_a_further_run_counts_on_when_the_journal_has_forgotten(tmp_path: Path) -> None:
    """What earlier runs had is known from the order, too."""

    async def scene() -> None:
        async with rig(tmp_path, before=7) as r:
            await r.says([line(1), line(2)])
            await r.says([line(2), line(3)])
            assert r.acks()[-1] == Ack(3)

    asyncio.run(scene())
    assert [seq for seq, _ in texts(tmp_path)] == [8, 9, 10]


def test_the_end_of_the_connection(tmp_path: Path) -> None:
    """None says that the guest is gone."""

    async def scene() -> None:
        async with rig(tmp_path) as r:
            r.guest.close()
            assert await r.pump.receive() is None

    asyncio.run(scene())


def test_no_line_is_from_the_future(tmp_path: Path) -> None:
    """A guest's clock cannot put lines after those that come later."""
    began_ms = int(time.time() * 1000)

    async def scene() -> None:
        async with rig(tmp_path) as r:
            await r.says([line(1, time_ns=2**63)])

    asyncio.run(scene())
    (fact,) = lines_in(tmp_path)
    assert began_ms <= fact.at_ms <= time.time() * 1000


@pytest.mark.parametrize("again", [False, True])
def test_it_keeps_to_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    """Beyond the burst it waits as long as the rate says, unless nothing prints any more; also for
    a line that a guest sends again and again."""
    waits: list[float] = []
    now = SimpleNamespace(monotonic=lambda: 100.0, time_ns=time.time_ns)

    async def wait_for(waiting: Coroutine[object, object, object], seconds: float) -> None:
        waits.append(seconds)
        waiting.close()
        raise TimeoutError

    async def scene() -> None:
        monkeypatch.setattr(module, "time", now)
        async with rig(tmp_path) as r:
            lines = [line(1 if again else n) for n in range(1, 501)]
            with monkeypatch.context() as clock:
                clock.setattr(module, "asyncio", SimpleNamespace(wait_for=wait_for))
                clock.setattr(module, "LINES_PER_S", 50.0)
                clock.setattr(module, "BYTES_PER_S", 1e9)
                await r.says(lines)

    asyncio.run(scene())
    assert waits == [pytest.approx(500 / 50 - module.BURST_S, abs=0.01)]


def test_the_last_lines_are_not_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the VM's process has ended, what it printed is taken at any rate."""
    monkeypatch.setattr(module, "LINES_PER_S", 0.001)

    async def scene() -> None:
        async with rig(tmp_path) as r:
            r.pump.hurry()
            await r.says([line(n) for n in range(1, 100)])

    asyncio.run(scene())
    assert len(texts(tmp_path)) == 99


def test_bytes_count_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A character that is six bytes in the journal takes six bytes of the rate."""
    monkeypatch.setattr(module, "LINES_PER_S", 1e9)
    monkeypatch.setattr(module, "BYTES_PER_S", 1000.0)
    monkeypatch.setattr(module, "BURST_S", 1e9)
    spent: list[float] = []

    async def scene() -> None:
        for text in (b"x" * 1000, b"\1" * 1000, b"\xff" * 1000):
            async with rig(tmp_path / str(len(spent))) as r:
                await r.says([line(1, text)])
                spent.append(vars(r.pump)["_debt_s"])

    asyncio.run(scene())
    plain, control, invalid = spent
    assert control - plain == pytest.approx(5)
    assert invalid - plain == pytest.approx(2)


def test_a_guest_whose_lines_nobody_takes_is_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not read, and not acknowledged, until the server has taken some; or has it ended."""
    monkeypatch.setattr("cakework.node.lines.BACKLOG_BYTES", 17 * 1000)

    async def scene() -> None:
        async with rig(tmp_path) as r:
            loop = asyncio.get_running_loop()
            await r.says([line(1, b"x" * 1000)])
            assert r.acks() == [Ack(1)]
            await loop.sock_sendall(r.guest, encode(line(2)))
            receiving = asyncio.create_task(r.pump.receive())
            for _ in range(100):
                await asyncio.sleep(0)
            assert not receiving.done()
            r.journal.confirm_lines({"vm": 1})
            assert await asyncio.wait_for(receiving, 60) == []
            await r.says([line(3, b"x" * 1000)])
            await loop.sock_sendall(r.guest, encode(line(4)))
            receiving = asyncio.create_task(r.pump.receive())
            await asyncio.sleep(0)
            r.pump.hurry()
            assert await asyncio.wait_for(receiving, 60) == []

    asyncio.run(scene())
    assert [seq for seq, _ in texts(tmp_path)] == [1, 2, 3, 4]
