"""A VM whose guest does not do its part: it is ended, all is released, and the reason told."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, cast

import pytest

from cakework.domain.facts import VmStarted, VmStopped
from cakework.domain.ids import new_vm_id
from cakework.domain.orders import VmOrder
from cakework.domain.vms import Shape
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.codec import encode
from cakework.node.guest.protocol import (
    MARK,
    GuestFrame,
    GuestHello,
    HostHello,
    Identity,
    Line,
    Ready,
    Run,
    Started,
)
from cakework.node.journal import Journal
from cakework.node.vms import vm as module
from cakework.node.vms.holdings import Ending, MachineRecord
from cakework.node.vms.machines import Machine
from cakework.node.vms.vm import Vm
from tests.integration.node.vm_site import facts_in
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

    def facts(self, kind: type[F]) -> list[F]:
        return [fact for fact in facts_in(self._folder / "journal") if isinstance(fact, kind)]


@asynccontextmanager
async def scene(
    folder: Path, frames: Sequence[GuestFrame], *, hang_up: bool = False
) -> AsyncGenerator[Scene]:
    over = asyncio.Event()

    async def script(
        hello: HostHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(MARK + encode(GuestHello(hello.token, "waiting", 0, "test")))
        await read_frame(reader)
        writer.write(b"".join(map(encode, frames)))
        if not hang_up:
            await over.wait()

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
