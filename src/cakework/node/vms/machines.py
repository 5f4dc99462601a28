"""A machine: one QEMU, from restored to released.

                                   ┌─ rehearse, pause: waits in the pool ─┐
    restore a template, a snapshot ┤                                      ├─▶ run ─▶ … ─▶ release
                                   └──────────────────────────────────────┘        ▲
                                                            save ──────────────────┘
    boot a template ─▶ save ─▶ release

What it holds on the way: :mod:`.holdings`.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from cakework.domain.errors import CakeworkError, Unavailable
from cakework.domain.orders import VmOrder
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.guest.protocol import GuestError, GuestFrame, HostFrame, Rehearse, Rehearsed
from cakework.node.sockets import listen
from cakework.node.unbroken import unbroken
from cakework.node.vms.disks import clone_sparse
from cakework.node.vms.holdings import Began, Ending, Holdings, Host, MachineRecord
from cakework.node.vms.memory import save_memory
from cakework.node.vms.qemu import Descriptors, boot_command, restore_command
from cakework.node.vms.saved import Saved

START_TIMEOUT_S = 30.0
BOOT_TIMEOUT_S = 60.0
REHEARSAL_TIMEOUT_S = 30.0
SAVE_TIMEOUT_S = 60.0
STATE_BYTES = 64 << 20
"""A state is some 150 KB; a QEMU that sends more is not saved."""
IMAGE_IN_JAIL = "/vm/image"
VOLUME_IN_JAIL = "/vm/volume"
REHEARSAL = ("/bin/busybox", "sh", "-c", "cat /etc/hosts; echo rehearsed >&2")

F = TypeVar("F", bound=GuestFrame)


class Machine(Holdings):
    """One QEMU. :meth:`release` gives back everything it holds, in any state."""

    @classmethod
    async def boot(cls, host: Host, making: Saved) -> "Machine":
        """Boot the kernel that lies in ``making``'s folder, with its memory a file there."""
        machine = cls._new(host, making)
        async with machine._making():
            await machine._prepare()
            await machine._copy_scratch(making.scratch)
            with machine._sockets() as (qmp, guest):
                fds = Descriptors(qmp, guest, machine._tap())
                binds = ((making.folder, "/template,rw"), *machine._binds())
                machine._spawn(boot_command(making.spec, fds), fds, binds, preload=None)
            await machine._connect(BOOT_TIMEOUT_S)
        return machine

    @classmethod
    async def restore(
        cls, host: Host, saved: Saved, image: Path | None = None, volume: Path | None = None
    ) -> "Machine":
        """Restore a machine from ``saved``.

        Behind its image disk is the image of its program; if it has none yet, ``image``, or the
        rehearsal's. ``volume`` is what lay behind its volume disk when it was saved, if the guest
        used it. When it returns the guest has answered: it waits, or its program is frozen. Raises
        CakeworkError, and holds nothing then.
        """
        machine = cls._new(host, saved)
        image = saved.image or image
        async with machine._making():
            await machine._prepare()
            await machine._copy_scratch(saved.scratch)
            if image is not None:
                machine._link(image)
            if volume is not None:
                machine._link_volume(volume)
            with machine._sockets() as (qmp, guest), saved.state.open("rb") as state:
                fds = Descriptors(qmp, guest, machine._tap(), state.fileno())
                disk = "/template/rehearsal.erofs" if image is None else IMAGE_IN_JAIL
                command = restore_command(
                    saved.spec, fds, disk, None if volume is None else VOLUME_IN_JAIL
                )
                binds = ((saved.folder, "/template"), *machine._binds())
                machine._spawn(command, fds, binds, host.artifacts.readonly)
            await machine._connect(START_TIMEOUT_S, saved.lines, fds.state)
        step(Step.NODE_MACHINE_RESTORED)
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

    async def give_image(self, image: Path) -> None:
        """Put ``image`` behind the image disk, in place of the rehearsal's."""
        self._link(image)
        await self.monitor.replace_disk("image", IMAGE_IN_JAIL, read_only=True)

    async def give_volume(self, volume: Path) -> None:
        """Put the file ``volume`` behind the volume disk; it stays when the machine goes."""
        self._link_volume(volume)
        await self.monitor.replace_disk("volume", VOLUME_IN_JAIL, read_only=False)

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
        self, order: VmOrder, recorded: int, *, saved: int = 0, began: Began = "boot"
    ) -> None:
        """Record whose machine this is from now on, without its environment, which may be secret
        and which an adopting node has no use for.

        ``recorded`` is the number of the VM's last line; ``saved`` how many its program had
        printed when it was saved.
        """
        nameless = order.model_copy(update={"env": {}})
        update = {
            "order": nameless,
            "lines_before": recorded - saved,
            "lines_saved": saved,
            "began": began,
        }
        self.record = self.record.model_copy(update=update)
        self._write_record()

    def note_ending(self, ending: Ending) -> Ending:
        """Record how the VM ended, so that it is known even if the node ends now; return what
        is recorded: the first word on it."""
        if self.record.ending is None:
            self.record = self.record.model_copy(update={"ending": ending})
            self._write_record()
            step(Step.NODE_VM_END_RECORDED)
        return self.record.ending or ending

    def _binds(self) -> tuple[tuple[Path, str], ...]:
        return (self.folder / "vm", "/vm,rw"), (self.folder / "way", "/way")

    async def _copy_scratch(self, saved: Path) -> None:
        scratch = self.folder / "vm" / "scratch"
        await unbroken(asyncio.to_thread(clone_sparse, saved, scratch))
        os.chown(scratch, self.uid, self.uid)

    def _link(self, image: Path) -> None:
        """Let QEMU see the image's file; its folder is root's, so only who is shown it can."""
        (self.folder / "vm" / "image").hardlink_to(image)

    def _link_volume(self, volume: Path) -> None:
        os.chown(volume, self.uid, self.uid)
        (self.folder / "vm" / "volume").hardlink_to(volume)

    async def _save_state(self, target: Path) -> None:
        """Have QEMU write its state through a socket that is root's, as its folder is."""
        way = self.folder / "way" / "state.sock"
        way.unlink(missing_ok=True)
        with listen(way) as listener:
            way.chmod(0o666)
            receiving = asyncio.create_task(asyncio.to_thread(_receive, listener, target))
            # QEMU that is gone never connects; a listener that is shut down waits for nobody.
            self.process.when_ended(partial(_shut, listener))
            try:
                await self.monitor.save("unix:/way/state.sock", SAVE_TIMEOUT_S)
            except BaseException:
                _shut(listener)
                await asyncio.gather(receiving, return_exceptions=True)
                raise
            await receiving
        way.unlink()

    def _save_files(self, target: Saved) -> None:
        clone_sparse(self.folder / "vm" / "scratch", target.scratch, owner=self.uid)
        if not target.ram.exists():
            save_memory(self.process.pid, target.ram)
        if target.ram.stat().st_size != target.spec.shape.memory_mb << 20:
            raise OSError("its memory has another size")


def _receive(listener: socket.socket, target: Path) -> None:
    connection, _ = listener.accept()
    size = 0
    with connection, target.open("wb") as file:
        while chunk := connection.recv(1 << 20):
            size += len(chunk)
            if size > STATE_BYTES:
                raise OSError("QEMU's state has no end")
            file.write(chunk)


def _shut(listener: socket.socket) -> None:
    if listener.fileno() >= 0:
        listener.shutdown(socket.SHUT_RDWR)
