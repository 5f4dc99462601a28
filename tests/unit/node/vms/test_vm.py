"""A VM whose guest does not do its part: it is ended, all is released, and the reason told."""

import asyncio
import errno
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, cast

import pytest

from cakework.domain.errors import CakeworkError, Conflict, Unavailable
from cakework.domain.facts import VmLine, VmStarted, VmStopped
from cakework.domain.ids import new_vm_id
from cakework.domain.orders import VmOrder
from cakework.domain.vms import EndCause, Shape
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.codec import decode_host, encode
from cakework.node.guest.protocol import (
    MARK,
    Exited,
    Failed,
    Frozen,
    GuestFrame,
    GuestHello,
    HostHello,
    Identity,
    Line,
    Mark,
    Marked,
    Ready,
    Run,
    Started,
)
from cakework.node.journal import Journal
from cakework.node.vms import vm as module
from cakework.node.vms.holdings import Ending, MachineRecord
from cakework.node.vms.machines import Machine
from cakework.node.vms.vm import Vm
from tests.integration.node.vm_site import facts_in, until
from tests.unit.node.guest.fake_guest import guest, read_frame

F = TypeVar("F", VmStarted, VmStopped)
RUN = Run(Identity(clock_ns=0, seed=bytes(32), hostname="vm"), ("/bin/true",))


class Qemu:
    """A QEMU that lives until it is killed, and says so when it is asked."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()
        self.wait = self._ended.wait
        self.kill = self._ended.set

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def when_ended(self, callback: object) -> None:
        """It is not told."""

    async def check(self, timeout_s: float) -> None:
        """There is a sign of life."""


class FakeMachine:
    """What a VM needs of a machine, with a real connection to a guest."""

    def __init__(self, channel: GuestChannel) -> None:
        self.machine_id = "machine"
        self.record = MachineRecord(slot=0, shape=Shape())
        self.channel = channel
        self.process = self.monitor = Qemu()
        self.released = False

    def when_gone(self) -> None:
        """Be replaced by the VM's own."""

    def trim_output(self) -> None:
        """There is none."""

    def note_ending(self, ending: Ending) -> Ending:
        return ending

    async def release(self) -> None:
        self.process.kill()
        await self.channel.close()
        self.when_gone()
        self.released = True


class Scene:
    """A VM that was told to run, and its guest, which says ``frames`` and then nothing."""

    def __init__(self, folder: Path, vm: Vm, machine: FakeMachine) -> None:
        self.vm, self.machine = vm, machine
        self._folder = folder

    async def over(self) -> str:
        """Wait for the VM's end; return its reason."""
        await asyncio.wait_for(self.vm.live(cast("Machine", self.machine)), 60)
        assert self.machine.released
        assert self.vm.gone.is_set()
        assert self.vm.begun.is_set()
        (end,) = self.facts(VmStopped)
        assert self.vm.report.state == "stopped"
        assert end.reason == self.vm.report.reason
        return end.reason

    def lines(self) -> list[VmLine]:
        return [fact for fact in facts_in(self._folder / "journal") if isinstance(fact, VmLine)]

    def facts(self, kind: type[F]) -> list[F]:
        return [fact for fact in facts_in(self._folder / "journal") if isinstance(fact, kind)]


async def answer_marks(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    to_mark: Callable[[Mark], Sequence[GuestFrame]],
) -> None:
    while True:
        order = decode_host(await read_frame(reader))
        if isinstance(order, Mark):
            writer.write(b"".join(map(encode, to_mark(order))))


@asynccontextmanager
async def scene(
    folder: Path,
    frames: Sequence[GuestFrame],
    *,
    hang_up: bool = False,
    to_mark: Callable[[Mark], Sequence[GuestFrame]] = lambda _: (),
) -> AsyncGenerator[Scene]:
    over = asyncio.Event()

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(MARK + encode(GuestHello(hello.token, "waiting", 0, "test")))
        await read_frame(reader)
        writer.write(b"".join(map(encode, frames)))
        answering = asyncio.create_task(answer_marks(reader, writer, to_mark))
        if not hang_up:
            await over.wait()
        answering.cancel()

    order = VmOrder(vm_id=new_vm_id(), image_id="image", hostname="vm.localhost")
    journal = Journal.open(folder / "journal")
    try:
        async with guest(folder / "port", script):
            channel = await GuestChannel.connect(folder / "port", acked=0, timeout_s=60)
            await channel.send(RUN)
            yield Scene(folder, Vm(order, journal, (), 60), FakeMachine(channel))
            over.set()
    finally:
        journal.close()


def test_a_guest_that_never_starts_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the start is told, and nothing is kept."""
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.05)

    async def attack() -> None:
        async with scene(tmp_path, [Ready()]) as s:
            assert await s.over() == "the VM was ended: it did not start its program in 0.05 s"
            assert not s.facts(VmStarted)

    asyncio.run(attack())


def test_a_guest_that_starts_its_program_without_end(tmp_path: Path) -> None:
    """Facts are written for what happens, not for what a guest repeats."""

    async def attack() -> None:
        line = Line(1, 1, "stdout", b"hello")
        async with scene(tmp_path, [Started(5), line, *[Started(5)] * 1000]) as s:
            assert await s.over() == (
                "the VM was ended: the guest said started without being asked, or twice"
            )
            assert len(s.facts(VmStarted)) == 1

    asyncio.run(attack())


def test_a_port_that_is_closed_while_qemu_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more can come from it, so it is over."""
    monkeypatch.setattr(module, "CHECK_TIMEOUT_S", 0.05)

    async def attack() -> None:
        async with scene(tmp_path, [Started(5)], hang_up=True) as s:
            assert await s.over() == "the VM was ended: it closed its port"

    asyncio.run(attack())


@pytest.mark.parametrize(
    ("exited", "cause"),
    [
        (Exited(False, 0, False, 0), EndCause.EXITED),
        (Exited(True, 9, False, 0), EndCause.EXITED),
        (Exited(True, 9, True, 0), EndCause.OUT_OF_MEMORY),
        (None, EndCause.DIED),
    ],
)
def test_what_ended_a_vm_is_told_in_a_word(
    tmp_path: Path, exited: Exited | None, cause: EndCause, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is in the report as in the fact."""
    monkeypatch.setattr(module, "CHECK_TIMEOUT_S", 0.05)

    async def end() -> None:
        frames = [Started(5)] if exited is None else [Started(5), exited]
        async with scene(tmp_path, frames, hang_up=exited is None) as s:
            await s.over()
            (fact,) = s.facts(VmStopped)
            assert fact.cause == s.vm.report.cause == cause

    asyncio.run(end())


LINE = Line(1, 1, "stdout", b"hello")
MARKS: list[tuple[Callable[[Mark], Sequence[GuestFrame]], int | type[CakeworkError]]] = [
    (lambda mark: [Marked(mark.token, 1)], 1),
    (lambda mark: [Line(2, 1, "stdout", b"more"), Marked(mark.token, 2)], 2),
    (lambda mark: [Frozen(0), Marked(mark.token, 1)], 1),
    (lambda mark: [Marked(mark.token, 2)], Unavailable),
    (lambda mark: [Marked(mark.token, 2**64 - 1)], Unavailable),
    (lambda _: [Failed(errno.EBUSY, "marking the lines: busy")], Unavailable),
    (lambda _: [Failed(errno.EBADMSG, "reading a frame: bad message")], Conflict),
]


@pytest.mark.parametrize(("answers", "expected"), MARKS)
def test_a_mark_is_what_the_guest_may_say(
    tmp_path: Path,
    answers: Callable[[Mark], Sequence[GuestFrame]],
    expected: int | type[CakeworkError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The number of a line that it has sent, in answer to this mark and no other. A guest of an
    earlier version, which knows no marks, costs no VM."""
    monkeypatch.setattr(module, "CHECK_TIMEOUT_S", 0.05)

    async def ask() -> None:
        async with scene(tmp_path, [Started(5), LINE], to_mark=answers) as s:
            living = asyncio.create_task(s.over())
            await s.vm.begun.wait()
            await until(s.lines)
            if isinstance(expected, int):
                assert await s.vm.mark() == expected
            else:
                with pytest.raises(expected):
                    await s.vm.mark()
            assert s.vm.report.state == "started"
            await s.vm.end("over")
            assert await living == "over"
            with pytest.raises(Conflict):
                await s.vm.mark()

    asyncio.run(ask())


def test_a_vm_that_ends_leaves_no_mark_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for it is told at once."""
    monkeypatch.setattr(module, "CHECK_TIMEOUT_S", 0.05)

    async def ask() -> None:
        asked = asyncio.Event()

        def note(_: Mark) -> list[GuestFrame]:
            asked.set()
            return []

        async with scene(tmp_path, [Started(5)], to_mark=note) as s:
            living = asyncio.create_task(s.over())
            await s.vm.begun.wait()
            marking = asyncio.create_task(s.vm.mark())
            await asked.wait()
            await s.vm.end("over")
            await living
            # Before its own time is over: that would say so.
            with pytest.raises(Unavailable, match="the VM ended"):
                await marking

    asyncio.run(ask())


def test_an_answer_that_comes_late_is_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked first gave up; who asks then gets its own answer."""
    monkeypatch.setattr(module, "CHECK_TIMEOUT_S", 0.05)

    async def ask() -> None:
        asked: list[Mark] = []

        def both(mark: Mark) -> list[GuestFrame]:
            asked.append(mark)
            late = [Marked(earlier.token, 0) for earlier in asked[:-1]]
            return [*late, LINE, Marked(mark.token, 1)] if late else []

        async with scene(tmp_path, [Started(5)], to_mark=both) as s:
            living = asyncio.create_task(s.over())
            await s.vm.begun.wait()
            marking = asyncio.create_task(s.vm.mark())
            await until(lambda: asked)
            marking.cancel()
            assert await s.vm.mark() == 1
            await s.vm.end("over")
            await living

    asyncio.run(ask())
