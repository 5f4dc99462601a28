"""A machine: one QEMU, from restored to released.

                                   ┌─ rehearse, pause: waits in the pool ─┐
    restore a template, a snapshot ┤                                      ├─▶ run ─▶ … ─▶ release
    fork one that rests ───────────┴──────────────────────────────────────┘        ▲
                                                            save ──────────────────┤
    boot a template ─▶ save ─▶ release                            rest, be forked ─┘

What it holds on the way: :mod:`.holdings`.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from cakework.domain.errors import CakeworkError, Unavailable
from cakework.domain.orders import VmOrder
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.guest.protocol import GuestError, GuestFrame, HostFrame, Rehearse, Rehearsed
from cakework.node.vms.disks import clone_sparse
from cakework.node.vms.forking import Forkable, NotForked, Places, find_places
from cakework.node.vms.holdings import OUTPUT, Began, Ending, Holdings, MachineRecord
from cakework.node.vms.host import Host, Network
from cakework.node.vms.memory import save_memory
from cakework.node.vms.processes import Process
from cakework.node.vms.qemu import Descriptors, boot_command, restore_command
from cakework.node.vms.saved import Saved
from cakework.unbroken import unbroken

START_TIMEOUT_S = 30.0
BOOT_TIMEOUT_S = 180.0
"""A boot takes 6 s of two processors under emulation, and on a busy host it may get few of them."""
REHEARSAL_TIMEOUT_S = 30.0
SAVE_TIMEOUT_S = 60.0
REST_TIMEOUT_S = 5.0
REST_POLL_S = 0.002
STATE_BYTES = 64 << 20
"""A state is some 150 KB; a QEMU that sends more is not saved."""
IMAGE_IN_JAIL = "/vm/image"
VOLUME_IN_JAIL = "/vm/volume"
REHEARSAL = ("/bin/busybox", "sh", "-c", "cat /etc/hosts; echo rehearsed >&2")

F = TypeVar("F", bound=GuestFrame)


class Machine(Holdings):
    """One QEMU. :meth:`release` gives back everything it holds, in any state."""

    @classmethod
    async def boot(cls, host: Host, making: Saved, timeout_s: float) -> "Machine":
        """Boot the kernel that lies in ``making``'s folder, with its memory a file there.

        Raises GuestError if the guest said nothing for ``timeout_s`` though its QEMU ran on.
        """
        machine = cls._new(host, making.spec.shape, "internet")
        async with machine._making():
            await machine._prepare("internet")
            await machine._copy_scratch(making.scratch)
            with machine._sockets() as (qmp, guest):
                fds = Descriptors(qmp, guest, machine._tap())
                binds = ((making.folder, "/template,rw"), *machine._binds())
                machine._spawn(boot_command(making.spec, fds), fds, binds)
            async with machine._beginning():
                await machine._hold_monitor(BOOT_TIMEOUT_S)
                await machine._hold_channel(timeout_s)
        return machine

    @classmethod
    async def restore(
        cls,
        host: Host,
        saved: Saved,
        image: Path | None = None,
        volume: Path | None = None,
        forkable: Forkable = "no",
        network: Network = "internet",
    ) -> "Machine":
        """Restore a machine from ``saved``, with such a network.

        Behind its image disk is the image of its program; if it has none yet, ``image``, or the
        rehearsal's. ``volume`` is what lay behind its volume disk when it was saved, if the guest
        used it. When it returns the guest has answered: it waits, or its program is frozen. Raises
        CakeworkError, and holds nothing then.
        """
        machine = cls._new(host, saved.spec.shape, network)
        image = saved.image or image
        async with machine._making():
            await machine._prepare(network)
            await machine._copy_scratch(saved.scratch)
            if image is not None:
                machine._link(image)
            if volume is not None:
                machine._link_volume(volume)
            with machine._sockets() as (qmp, guest), saved.state.open("rb") as state:
                fork = machine._fork_socket() if forkable != "no" else None
                machine.forks = forkable
                loaded = state.fileno()
                fds = Descriptors(qmp, guest, machine._tap(), loaded, fork)
                disk = "/template/rehearsal.erofs" if image is None else IMAGE_IN_JAIL
                command = restore_command(
                    saved.spec, fds, disk, None if volume is None else VOLUME_IN_JAIL
                )
                binds = ((saved.folder, "/template"), *machine._binds())
                machine._spawn(
                    command,
                    fds,
                    binds,
                    preload=host.artifacts.preload,
                    fork=_fork_option(fork, forkable),
                )
            async with machine._beginning():
                await machine._hold_monitor(START_TIMEOUT_S)
                await machine.monitor.load(loaded, START_TIMEOUT_S)
                await machine._hold_channel(START_TIMEOUT_S, saved.lines)
        step(Step.NODE_MACHINE_RESTORED)
        return machine

    @classmethod
    async def fork(
        cls,
        host: Host,
        resting: "Resting",
        image: Path | None = None,
        *,
        forkable: bool = False,
        network: Network = "internet",
    ) -> "Machine":
        """Make a machine that is what ``resting`` is, of its QEMU as it is, with such a network.

        ``image`` is put behind its image disk, if it waits for a program. When it returns the guest
        has answered, as after a restore.

        Raises:
            NotForked: that machine cannot be forked any more.
            CakeworkError: another reason. Nothing is held then.
        """
        source = resting.machine
        user = None if resting.as_others else source.user_slot
        machine = cls._new(host, source.record.shape, network, user)
        machine.forks = "itself" if forkable else "no"
        async with machine._making():
            await machine._prepare(network)
            await machine._copy_scratch(source.disk("scratch"), owner=0)
            with machine._sockets() as (qmp, guest):
                await unbroken(machine._fork_of(resting, qmp, guest, forkable=forkable))
            async with machine._beginning():
                await machine._hold_monitor(START_TIMEOUT_S)
                if image is not None:
                    await machine.give_image(image)
                await machine.monitor.resume()
                await machine._hold_channel(START_TIMEOUT_S, resting.lines)
        step(Step.NODE_MACHINE_FORKED)
        return machine

    @classmethod
    async def adopt(
        cls,
        host: Host,
        machine_id: str,
        record: MachineRecord,
        acked: int,
        lost: Callable[[str], None],
    ) -> "Machine":
        """Take on a machine that an earlier node left running.

        ``acked`` is the last line recorded of it.

        Raises:
            CakeworkError: it is gone, or does not answer; everything of it is released then,
                and ``lost`` was told why.
        """
        machine = cls(host, machine_id, record)
        host.slots.claim(record.slot)
        async with machine._making():
            machine._hold_leftovers()
            try:
                await machine._find_running(acked)
            except (CakeworkError, OSError) as error:
                machine.when_gone = partial(lost, str(error))
                raise
        return machine

    async def rehearse(self) -> None:
        """Let the guest go the way of a start once, so that the emulator knows it."""
        await self.ask(Rehearse(REHEARSAL), Rehearsed, REHEARSAL_TIMEOUT_S)

    async def ask(self, order: HostFrame, answer: type[F], timeout_s: float) -> F:
        """Give the guest an order, and return its answer, which is the next that it says.

        Raises:
            GuestError: it says something else, or nothing in time.
        """
        name = type(order).__name__.lower()
        try:
            async with asyncio.timeout(timeout_s):
                await self.channel.send(order)
                said = await self.channel.receive()
        except TimeoutError as error:
            raise GuestError(f"the guest did not answer {name} in {timeout_s:g} s") from error
        if not isinstance(said, answer):
            raise GuestError(f"the guest could not do {name}: {said}")
        return said

    def disk(self, name: str) -> Path:
        """Return the file behind one of its disks."""
        return self.folder / "vm" / name

    async def give_image(self, image: Path) -> None:
        """Put ``image`` behind the image disk, in place of the rehearsal's."""
        self._link(image)
        await self.monitor.replace_disk("image", self.disk("image"), read_only=True)

    async def give_volume(self, volume: Path) -> None:
        """Put the file ``volume`` behind the volume disk; it stays when the machine goes."""
        self._link_volume(volume)
        await self.monitor.replace_disk("volume", self.disk("volume"), read_only=False)

    async def rest(self, lines: int = 0) -> "Resting":
        """Pause it for good, and let go of monitor and guest: so it can be forked.

        ``lines`` is how many its program has printed. Raises CakeworkError.
        """
        await self.monitor.pause()
        await self.channel.close()
        await self.monitor.close()
        # Forks may be in its mount namespace and its user. It has the file open.
        os.chown(self.disk("scratch"), 0, 0)
        self.disk("scratch").chmod(0o600)
        try:
            async with asyncio.timeout(REST_TIMEOUT_S):
                # QEMU tells nobody that it has seen its connections closed.
                while (places := find_places(self.process.pid, self.disk("scratch"))) is None:  # noqa: ASYNC110
                    await asyncio.sleep(REST_POLL_S)
        except TimeoutError as error:
            raise Unavailable("QEMU keeps connections that were closed") from error
        except OSError as error:
            raise Unavailable(f"QEMU's files cannot be looked at: {error}") from error
        return Resting(self, places, lines, self.forks == "as others")

    async def save(self, target: Saved) -> None:
        """Write memory, devices and writable disk, as they are at one moment, to ``target``.

        Saving its state stops the machine; :meth:`go_on` lets it go on. The memory of one that
        was booted is in ``target`` already.

        Raises:
            CakeworkError: it cannot be saved.
        """
        try:
            await self._save_state(target.state)
            await unbroken(asyncio.to_thread(self._save_files, target))
        except OSError as error:
            raise Unavailable(f"the machine could not be saved: {error}") from error

    async def go_on(self) -> None:
        """Let a machine that was stopped to be saved go on."""
        await self.monitor.resume()

    def assign(
        self,
        order: VmOrder,
        recorded: int,
        *,
        saved: int = 0,
        began: Began = "boot",
        template: str = "",
        environment: str = "",
    ) -> None:
        """Record whose machine this is from now on, without its environment, which may be secret
        and which an adopting node has no use for.

        ``recorded`` is the number of the VM's last line; ``saved`` how many its program had
        printed when it was saved. For ``template`` and ``environment`` see MachineRecord.
        """
        nameless = order.model_copy(update={"env": {}})
        update = {
            "order": nameless,
            "lines_before": recorded - saved,
            "lines_saved": saved,
            "began": began,
            "template": template,
            "environment": environment,
        }
        self.record = self.record.model_copy(update=update)
        self._write_record()

    def note_ending(self, ending: Ending, *, saved_for_good: bool = False) -> Ending:
        """Record how the VM ended, so that it is known even if the node ends now; return what
        is recorded: the first word on it. For ``saved_for_good`` see MachineRecord.

        Raises:
            OSError: it could not be recorded, and so has not ended.
        """
        before = self.record
        if before.ending is None:
            update = {"ending": ending, "saved_for_good": saved_for_good}
            self.record = before.model_copy(update=update)
            try:
                self._write_record()
            except OSError:
                self.record = before
                raise
            step(Step.NODE_VM_END_RECORDED)
        return self.record.ending or ending

    def disown(self) -> None:
        """Record that it is nobody's any more: it goes with its node."""
        own = self.record
        self.record = MachineRecord(
            slot=own.slot,
            shape=own.shape,
            user_slot=own.user_slot,
            pid=own.pid,
            started=own.started,
        )
        self.when_gone = _nothing
        self._write_record()

    async def _fork_of(self, resting: "Resting", qmp: int, guest: int, *, forkable: bool) -> None:
        """Get a process forked and given what is this machine's; once begun, this must be done."""
        source, fds = resting.machine, resting.machine.fds
        if source.fork_socket is None or fds.fork is None:
            raise NotForked("this QEMU cannot be forked")
        with ExitStack() as stack:
            output = stack.enter_context((self.folder / OUTPUT).open("ab")).fileno()
            scratch = stack.enter_context(self.disk("scratch").open("r+b", buffering=0))
            own = {fds.qmp: qmp, fds.guest: guest, fds.tap: self._tap(), 1: output, 2: output}
            own[resting.places.scratch] = scratch.fileno()
            own |= stack.enter_context(resting.places.own())
            if forkable:
                own[fds.fork] = self._fork_socket()
            uid = self.uid if resting.as_others else None
            async with resting.turn:
                pid = await source.fork_socket.fork(uid, own, forkable=forkable)
                self._note_process(
                    _forked(pid, self.uid),
                    Descriptors(fds.qmp, fds.guest, fds.tap, fork=fds.fork if forkable else None),
                )
                self.cgroup.add(pid)
        step(Step.NODE_MACHINE_SPAWNED)

    def _binds(self) -> tuple[tuple[Path, str], ...]:
        return ((self.folder / "vm", "/vm,rw"),)

    async def _copy_scratch(self, saved: Path, owner: int | None = None) -> None:
        scratch = self.disk("scratch")
        await unbroken(asyncio.to_thread(clone_sparse, saved, scratch, owner=owner))
        os.chown(scratch, self.uid, self.uid)

    def _link(self, image: Path) -> None:
        """Let QEMU see the image's file; its folder is root's, so only who is shown it can."""
        (self.folder / "vm" / "image").hardlink_to(image)

    def _link_volume(self, volume: Path) -> None:
        os.chown(volume, self.uid, self.uid)
        (self.folder / "vm" / "volume").hardlink_to(volume)

    async def _save_state(self, target: Path) -> None:
        """Have QEMU write its state through a socket: the file is root's, as its folder is."""
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            receiving = asyncio.create_task(_receive(ours, target))
            try:
                with theirs:
                    await self.monitor.save(theirs.fileno(), SAVE_TIMEOUT_S)
                async with asyncio.timeout(SAVE_TIMEOUT_S):
                    await receiving
            except TimeoutError as error:
                raise Unavailable("QEMU's state has no end") from error
            finally:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)

    def _save_files(self, target: Saved) -> None:
        clone_sparse(self.folder / "vm" / "scratch", target.scratch, owner=self.uid)
        if not target.ram.exists():
            save_memory(self.process.pid, target.ram)
        if target.ram.stat().st_size != target.spec.shape.memory_mb << 20:
            raise OSError("its memory has another size")


@dataclass(frozen=True, slots=True)
class Resting:
    """A machine that is paused and that nobody is connected to, so that it can be forked.

    Its program has printed ``lines`` lines. One fork is made at a time: until the node has moved
    it, it counts as the machine that it was made of.
    """

    machine: Machine
    places: Places
    lines: int = 0
    as_others: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


def _nothing() -> None:
    return None


def _forked(pid: int, uid: int) -> Process:
    try:
        return Process.forked(pid, uid)
    except (ProcessLookupError, FileNotFoundError) as error:
        raise NotForked(f"QEMU was not forked: {error}") from error


async def _receive(connection: socket.socket, target: Path) -> None:
    loop = asyncio.get_running_loop()
    size = 0
    with target.open("wb") as file:
        while chunk := await loop.sock_recv(connection, 1 << 20):
            size += len(chunk)
            if size > STATE_BYTES:
                raise OSError("QEMU's state has no end")
            file.write(chunk)


def _fork_option(fd: int | None, forkable: Forkable) -> tuple[str, ...]:
    if fd is None:
        return ()
    return "--fork-users" if forkable == "as others" else "--fork", str(fd)
