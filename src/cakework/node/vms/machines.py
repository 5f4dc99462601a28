"""A machine: one QEMU and all it holds, from restored to released.

                        ┌─ rehearse, pause: waits in the pool ─┐
    restore a template ─┤                                      ├─▶ run ─▶ … ─▶ release
                        └──────────────────────────────────────┘
    boot a template ─▶ its state is saved ─▶ release

What it holds: a slot (user id, addresses), a network namespace, a cgroup, a process, and the
folder ``machines/<machine id>/``:

    record.json     what an adopting node must know; written before the process is started
    vm/             what QEMU sees as /vm: scratch (writable disk), image (a link)
    root/           where the jail mounts its root, in a mount namespace of its own
    qmp.sock  guest.sock  output.log
"""

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from cakework.domain.errors import CakeworkError, Unavailable
from cakework.domain.orders import VmOrder
from cakework.domain.steps import Step
from cakework.domain.vms import Shape
from cakework.faults import step
from cakework.node.cgroups import Cgroup, Limits
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.protocol import GuestError, Rehearse, Rehearsed
from cakework.node.network.namespaces import (
    Namespace,
    adopt_namespace,
    make_vm_namespace,
    unplug,
)
from cakework.node.network.rules import Egress
from cakework.node.network.slots import Slots
from cakework.node.sockets import listen
from cakework.node.territory import Territory
from cakework.node.unbroken import unbroken
from cakework.node.vms.artifacts import Artifacts
from cakework.node.vms.disks import copy_sparse
from cakework.node.vms.monitor import Monitor
from cakework.node.vms.processes import Jail, Process
from cakework.node.vms.qemu import Descriptors, boot_command, restore_command
from cakework.node.vms.template import Template

OVERHEAD_MB = 256
"""What a QEMU may use beyond its guest's memory: program, translation cache, disk cache."""
QEMU_THREADS = 64
START_TIMEOUT_S = 30.0
BOOT_TIMEOUT_S = 60.0
REHEARSAL_TIMEOUT_S = 30.0
GREET_TIMEOUT_S = 5.0
END_TIMEOUT_S = 0.5
CLOSE_TIMEOUT_S = 1.0
RECORD = "record.json"
OUTPUT = "output.log"
OUTPUT_BYTES = 1 << 20
IMAGE_IN_JAIL = "/vm/image"
REHEARSAL = ("/bin/busybox", "sh", "-c", "cat /etc/hosts; echo rehearsed >&2")


class Ending(BaseModel):
    """How a VM's run ended: a sentence for people, and the program's exit code if it is known."""

    reason: str
    exit_code: int | None = None


class MachineRecord(BaseModel):
    """``record.json``. Without ``order`` the machine belongs to nobody and dies with its node.

    ``lines_before`` is how many lines earlier runs of the VM had. ``ending`` is there from
    before anything is released.
    """

    slot: int
    shape: Shape
    pid: int | None = None
    started: int | None = None
    order: VmOrder | None = None
    lines_before: int = 0
    ending: Ending | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """What all machines of a node share."""

    machines_dir: Path
    artifacts: Artifacts
    territory: Territory
    slots: Slots
    egress: Egress
    dns: tuple[str, ...]


class Machine:
    """One QEMU with all it holds. :meth:`release` gives back everything, in any state."""

    namespace: Namespace
    cgroup: Cgroup
    process: Process
    monitor: Monitor
    channel: GuestChannel

    def __init__(self, host: Host, machine_id: str, record: MachineRecord) -> None:
        self._host = host
        self._held = AsyncExitStack()
        self.machine_id = machine_id
        self.folder = host.machines_dir / machine_id
        self.record = record
        self.when_gone: Callable[[], None] = _nothing
        """Called by :meth:`release` when all is given back but the record, which goes last:
        so what must be said of the machine's end is said, even if the node ends before."""

    @classmethod
    async def boot(cls, host: Host, template: Template) -> "Machine":
        """Boot the kernel that lies in ``template``'s folder, with its memory a file there."""
        machine = cls._new(host, template)
        async with machine._making():
            await machine._prepare()
            await machine._copy_scratch(template.scratch)
            with machine._sockets() as (qmp, guest):
                fds = Descriptors(qmp, guest, machine._tap())
                binds = ((template.folder, "/template,rw"), (machine.folder / "vm", "/vm,rw"))
                machine._spawn(boot_command(template.spec, fds), fds, binds, preload=None)
            await machine._connect(BOOT_TIMEOUT_S)
        return machine

    @classmethod
    async def restore(cls, host: Host, template: Template, image: Path | None) -> "Machine":
        """Restore a machine from ``template``, with ``image`` or the rehearsal's behind its disk.

        When it returns the guest has answered and waits. Raises CakeworkError, and holds
        nothing then.
        """
        machine = cls._new(host, template)
        async with machine._making():
            await machine._prepare()
            await machine._copy_scratch(template.scratch)
            if image is not None:
                machine._link(image)
            with machine._sockets() as (qmp, guest), template.state.open("rb") as state:
                fds = Descriptors(qmp, guest, machine._tap(), state.fileno())
                disk = "/template/rehearsal.erofs" if image is None else IMAGE_IN_JAIL
                binds = ((template.folder, "/template"), (machine.folder / "vm", "/vm,rw"))
                command = restore_command(template.spec, fds, disk)
                machine._spawn(command, fds, binds, host.artifacts.readonly)
            await machine._connect(START_TIMEOUT_S, state=fds.state)
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
        try:
            async with asyncio.timeout(REHEARSAL_TIMEOUT_S):
                await self.channel.send(Rehearse(REHEARSAL))
                answer = await self.channel.receive()
        except TimeoutError as error:
            raise GuestError("the guest did not end its rehearsal in time") from error
        if not isinstance(answer, Rehearsed):
            raise GuestError(f"the guest could not rehearse: {answer}")

    async def give_image(self, image: Path) -> None:
        """Put ``image`` behind the image disk, in place of the rehearsal's."""
        self._link(image)
        await self.monitor.replace_disk("image", IMAGE_IN_JAIL, read_only=True)

    async def give_volume(self, volume: Path) -> None:
        """Put the file ``volume`` behind the volume disk; it stays when the machine goes."""
        uid = self._host.territory.uid(self.record.slot)
        os.chown(volume, uid, uid)
        (self.folder / "vm" / "volume").hardlink_to(volume)
        await self.monitor.replace_disk("volume", "/vm/volume", read_only=False)

    def assign(self, order: VmOrder, lines_before: int) -> None:
        """Record whose machine this is from now on, without its environment, which may be secret
        and which an adopting node has no use for."""
        update = {"order": order.model_copy(update={"env": {}}), "lines_before": lines_before}
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

    def trim_output(self) -> None:
        """Empty the file of what QEMU says when a guest has made it grow beyond its bound."""
        output = self.folder / OUTPUT
        if output.stat().st_size > OUTPUT_BYTES:
            os.truncate(output, 0)

    async def disconnect(self) -> None:
        """Let go of a machine that goes on running, for the next node to adopt."""
        await unbroken(self._let_go())

    async def kill(self) -> None:
        """End the process, and nothing else yet."""
        self.process.kill()
        await self.process.wait()

    async def release(self) -> None:
        """Kill the process and give back all that is held; returns when nothing is left.

        When cancelled, it is done all the same before the cancellation is raised.
        """
        await unbroken(self._held.aclose())

    @classmethod
    def _new(cls, host: Host, template: Template) -> "Machine":
        record = MachineRecord(slot=host.slots.take(), shape=template.spec.shape)
        return cls(host, secrets.token_hex(6), record)

    @asynccontextmanager
    async def _making(self) -> AsyncGenerator[None]:
        """Release everything if what is done within fails; turn faults into errors of ours."""
        self._held.callback(self._host.slots.give_back, self.record.slot)
        try:
            yield
        except BaseException as error:
            await self.release()
            if isinstance(error, OSError):
                raise Unavailable(f"a machine could not be made: {error}") from error
            raise

    async def _prepare(self) -> None:
        """Make folder, record, cgroup and namespace."""
        uid = self._host.territory.uid(self.record.slot)
        self.folder.mkdir(mode=0o711)
        step(Step.NODE_MACHINE_FOLDER_MADE)
        self._hold_leftovers()
        for folder in (self.folder / "vm", self.folder / "root"):
            folder.mkdir(mode=0o711)
        os.chown(self.folder / "vm", uid, uid)
        self._write_record()
        step(Step.NODE_MACHINE_RECORDED)
        await unbroken(self._make_namespace())
        step(Step.NODE_MACHINE_WIRED)

    async def _make_namespace(self) -> None:
        make = partial(make_vm_namespace, self._host.territory, self.record.slot, self._host.egress)
        self._hold_namespace(await asyncio.to_thread(make))

    async def _let_go(self) -> None:
        self._held.pop_all()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.channel.close(), CLOSE_TIMEOUT_S)
        await self.monitor.close()
        self.process.close()
        self.namespace.close()

    def _hold_leftovers(self) -> None:
        """Hold what a crash leaves behind: folder and cgroup."""
        shape = self.record.shape
        self._held.push_async_callback(self._forget)
        self._held.push_async_callback(asyncio.to_thread, _remove_disks, self.folder)
        name = f"{self._host.territory.name}-{self.machine_id}"
        limits = Limits(shape.memory_mb + OVERHEAD_MB, QEMU_THREADS, shape.cpu + 0.5)
        self.cgroup = Cgroup.create(name, limits)
        self._held.push_async_callback(self.cgroup.end)

    async def _forget(self) -> None:
        """Say that it is gone, and remove the record; if the first fails, the next node says it."""
        step(Step.NODE_MACHINE_DISKS_GONE)
        self.when_gone()
        step(Step.NODE_VM_END_TOLD)
        await asyncio.to_thread(shutil.rmtree, self.folder)

    async def _find_running(self, acked: int) -> None:
        pid, started = self.record.pid, self.record.started
        process = Process.adopt(pid, started) if pid and started else None
        if pid is None or process is None:
            raise Unavailable("its process was gone")
        self._hold_process(process)
        self._hold_namespace(adopt_namespace(self.record.slot, pid))
        await self._connect(START_TIMEOUT_S, acked)

    def _hold_namespace(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self._held.callback(namespace.close)
        self._held.push_async_callback(
            asyncio.to_thread, unplug, self._host.territory, self.record.slot
        )

    def _hold_process(self, process: Process) -> None:
        self.process = process
        self._held.push_async_callback(_end_process, process)

    async def _copy_scratch(self, template: Path) -> None:
        uid = self._host.territory.uid(self.record.slot)
        scratch = self.folder / "vm" / "scratch"
        await unbroken(asyncio.to_thread(copy_sparse, template, scratch))
        os.chown(scratch, uid, uid)

    def _link(self, image: Path) -> None:
        """Let QEMU see the image's file; its folder is root's, so only who is shown it can."""
        (self.folder / "vm" / "image").hardlink_to(image)

    def _tap(self) -> int:
        if self.namespace.tap is None:
            raise Unavailable("the namespace has no tap")
        return self.namespace.tap

    @contextmanager
    def _sockets(self) -> Generator[tuple[int, int]]:
        with listen(self.folder / "qmp.sock") as qmp, listen(self.folder / "guest.sock") as guest:
            yield qmp.fileno(), guest.fileno()

    def _spawn(
        self,
        command: Sequence[str],
        fds: Descriptors,
        binds: Sequence[tuple[Path, str]],
        preload: Path | None,
    ) -> None:
        jail = Jail(
            program=self._host.artifacts.jail,
            root=self.folder / "root",
            uid=self._host.territory.uid(self.record.slot),
            namespace_fd=self.namespace.fd,
            procs=self.cgroup.procs_files(),
            binds=binds,
            devices=("/dev/kvm",) if "kvm" in command else (),
            preload=preload,
        )
        process = Process.spawn(jail, command, fds.all(), self.folder / OUTPUT)
        step(Step.NODE_MACHINE_SPAWNED)
        self._hold_process(process)
        self.namespace.close_tap()
        update = {"pid": process.pid, "started": process.started}
        self.record = self.record.model_copy(update=update)
        self._write_record()
        step(Step.NODE_MACHINE_PID_RECORDED)

    async def _connect(self, timeout_s: float, acked: int = 0, state: int | None = None) -> None:
        """Connect to monitor and guest; a process that ends meanwhile tells why they fail.

        The sockets listened before QEMU was started, so that its end resets them.
        """
        try:
            await self._hold_connections(timeout_s, acked, state)
        except CakeworkError as error:
            try:
                await asyncio.wait_for(self.process.wait(), END_TIMEOUT_S)
            except TimeoutError:
                raise error from None
            said = (self.folder / OUTPUT).read_text(errors="replace")[-500:].strip()
            raise Unavailable(f"QEMU {self.process.how()} at its start: {said}") from error

    async def _hold_connections(self, timeout_s: float, acked: int, state: int | None) -> None:
        self.monitor = await Monitor.connect(self.folder / "qmp.sock", timeout_s)
        self._held.push_async_callback(self.monitor.close)
        if state is not None:
            await self.monitor.load(state, timeout_s)
        else:
            # An adopted one may have been paused still when its node ended.
            await self.monitor.resume()
        self.channel = await self._greet(timeout_s, acked)
        self._held.push_async_callback(self.channel.close)
        # First of all at the end: connections to a process that is gone close without delay.
        self._held.callback(self.process.kill)

    async def _greet(self, timeout_s: float, acked: int) -> GuestChannel:
        """Connect to the guest; a HELLO may be lost with the word that a node is there."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return await GuestChannel.connect(
                    self.folder / "guest.sock", acked=acked, timeout_s=GREET_TIMEOUT_S
                )
            except GuestError:
                if time.monotonic() >= deadline or self.process.ended:
                    raise

    def _write_record(self) -> None:
        partial_file = self.folder / "record.partial"
        partial_file.write_text(self.record.model_dump_json())
        partial_file.rename(self.folder / RECORD)


async def _end_process(process: Process) -> None:
    process.kill()
    await process.wait()
    process.close()
    step(Step.NODE_MACHINE_PROCESS_GONE)


def _remove_disks(folder: Path) -> None:
    step(Step.NODE_MACHINE_CGROUP_GONE)
    shutil.rmtree(folder / "vm", ignore_errors=True)


def _nothing() -> None:
    return None
