"""What a machine holds: taken one after another, given back in reverse.

A slot (user id, addresses), a network namespace, a cgroup, a process, and the folder
``machines/<machine id>/``:

    record.json     what an adopting node must know; written before the process is started
    vm/             scratch (writable disk), image, volume (links); a QEMU that was started for
                    it sees them in /vm
    root/           where the jail mounts its root, in a mount namespace of its own
    qmp.sock  guest.sock  output.log
"""

import asyncio
import errno
import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel

from cakework.domain.errors import CakeworkError, NoRoom, Unavailable
from cakework.domain.orders import VmOrder
from cakework.domain.steps import Step
from cakework.domain.vms import EndCause, Shape
from cakework.faults import step
from cakework.node.cgroups import Cgroup, Limits
from cakework.node.cleanup import clean_up
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.protocol import GuestError
from cakework.node.listing import if_there
from cakework.node.network.namespaces import Namespace, adopt_namespace, unplug
from cakework.node.sockets import listen
from cakework.node.vms.forking import Forkable, ForkSocket
from cakework.node.vms.host import Host, Network
from cakework.node.vms.monitor import Monitor
from cakework.node.vms.processes import Jail, Process, reap_strays
from cakework.node.vms.qemu import Descriptors
from cakework.unbroken import unbroken

QEMU_THREADS = 64
"""For a QEMU of 8 processors with all its workers, and those of a fork that is just being made."""
OVERHEAD_MB = 256
"""What a QEMU may use beyond its guest's memory: program, translation cache, disk cache."""
GREET_TIMEOUT_S = 5.0
GREET_RETRY_S = 0.01
END_TIMEOUT_S = 0.5
ADOPT_TIMEOUT_S = 30.0
SHORTAGES = (
    errno.EAGAIN,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
)
"""Errors of the kernel that say that the host is short of something."""
RECORD = "record.json"
OUTPUT = "output.log"
OUTPUT_BYTES = 1 << 20

Began = Literal["boot", "ready", "memory"]


class Ending(BaseModel):
    """How a VM's run ended: a sentence for people, what ended it, and the program's exit code if it
    is known. ``memory_kept``: the next start goes on where it was."""

    reason: str
    exit_code: int | None = None
    memory_kept: bool = False
    cause: EndCause | None = None


class MachineRecord(BaseModel):
    """``record.json``. Without ``order`` the machine belongs to nobody and dies with its node.

    ``user_slot`` is the slot whose user its QEMU is, if not its own's. ``lines_before`` is how
    many lines of the VM's this machine does not count: those of earlier runs, less the
    ``lines_saved`` that its program had printed when it was saved. ``ending`` is there from
    before anything is released; ``saved_for_good``: with it its program was frozen, and is not to
    go on here. ``template`` is the fingerprint of what the machine came from in the first place,
    ``environment`` a digest of what its program was started with; empty where that is not known.
    """

    slot: int
    shape: Shape
    user_slot: int | None = None
    pid: int | None = None
    started: int | None = None
    order: VmOrder | None = None
    lines_before: int = 0
    lines_saved: int = 0
    began: Began = "boot"
    template: str = ""
    environment: str = ""
    ending: Ending | None = None
    saved_for_good: bool = False


class Holdings:
    """One QEMU with all it holds. :meth:`release` gives back everything, in any state."""

    namespace: Namespace
    cgroup: Cgroup
    process: Process
    monitor: Monitor
    channel: GuestChannel
    fds: Descriptors
    """Numbers of what QEMU was given."""
    forks: Forkable = "no"
    fork_socket: ForkSocket | None = None

    def __init__(
        self, host: Host, machine_id: str, record: MachineRecord, spare: Namespace | None = None
    ) -> None:
        self._host = host
        self._spare = spare
        self._held = AsyncExitStack()
        self.machine_id = machine_id
        self.folder = host.machines_dir / machine_id
        self.record = record
        self.when_gone: Callable[[], None] = _nothing
        """Called by :meth:`release` when all is given back but the record, which goes last:
        so what must be said of the machine's end is said, even if the node ends before."""

    @property
    def uid(self) -> int:
        """The user that its QEMU is."""
        return self._host.territory.uid(self.user_slot)

    @property
    def user_slot(self) -> int:
        """The slot whose user that is."""
        own, shared = self.record.slot, self.record.user_slot
        return own if shared is None else shared

    def trim_output(self) -> None:
        """Empty the file of what QEMU says when a guest has made it grow beyond its bound."""
        output = self.folder / OUTPUT
        with if_there():
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

        When cancelled, it is done all the same before the cancellation is raised. What cannot be
        given back is logged, and keeps nothing else from it.
        """
        await clean_up("machine", self._held.aclose, machine=self.machine_id)

    @classmethod
    def _new(cls, host: Host, shape: Shape, network: Network, user_slot: int | None = None) -> Self:
        """Take a slot for a new machine, with such a network if one was made ahead."""
        spare = host.spare(network)
        slot = host.slots.take() if spare is None else spare.slot
        record = MachineRecord(slot=slot, shape=shape, user_slot=user_slot)
        return cls(host, secrets.token_hex(6), record, spare)

    @asynccontextmanager
    async def _making(self) -> AsyncGenerator[None]:
        """Release everything if what is done within fails; turn faults into errors of ours."""
        slots = self._host.slots
        self._held.callback(slots.give_back, self.record.slot)
        if self._spare is not None:
            self._held.callback(self._spare.close)
        if self.record.user_slot is not None:
            slots.claim(self.record.user_slot)
            self._held.callback(slots.give_back, self.record.user_slot)
        try:
            yield
        except BaseException as error:
            await self.release()
            if isinstance(error, OSError):
                kind = NoRoom if error.errno in SHORTAGES else Unavailable
                raise kind(f"a machine could not be made: {error}") from error
            raise

    async def _prepare(self, network: Network) -> None:
        """Make folder, record, cgroup and namespace: before its QEMU, so that nothing runs in it
        that reaches more than it may."""
        self.folder.mkdir(mode=0o711)
        step(Step.NODE_MACHINE_FOLDER_MADE)
        self._hold_leftovers()
        for name in ("vm", "root"):
            # QEMU's are files in it, and not the folder: it makes none that nobody counts.
            (self.folder / name).mkdir(mode=0o711)
        self._write_record()
        step(Step.NODE_MACHINE_RECORDED)
        await unbroken(self._make_namespace(network))
        step(Step.NODE_MACHINE_WIRED)

    async def _make_namespace(self, network: Network) -> None:
        slot = self.record.slot
        if self._spare is not None:
            self._hold_namespace(self._spare)
        else:
            make = self._host.make_network(network)
            self._hold_namespace(await asyncio.to_thread(make, slot))

    async def _let_go(self) -> None:
        self._held.pop_all()
        await self.channel.close()
        await self.monitor.close()
        self.process.close()
        self.namespace.close()

    def _hold_leftovers(self) -> None:
        """Hold what a crash leaves behind: folder and cgroup."""
        shape = self.record.shape
        self._held.push_async_callback(self._forget)
        self._held.push_async_callback(asyncio.to_thread, _remove_disks, self.folder)
        name = f"{self._host.territory.name}-{self.machine_id}"
        memory_mb, cpus = shape.memory_mb + OVERHEAD_MB, shape.cpu + 0.5
        limits = Limits(memory_mb, QEMU_THREADS, cpus, self._host.group)
        self.cgroup = Cgroup.create(name, limits)
        self._held.callback(self._reap_strays)
        self._held.push_async_callback(self._end_cgroup)

    async def _end_cgroup(self) -> None:
        """End what is left in it; if that fails, no other machine gets the user and the addresses
        of what goes on, and the node's next start tries again."""
        try:
            await self.cgroup.end()
        except BaseException:
            for slot in (self.record.slot, self.user_slot):
                self._host.slots.claim(slot)
            raise

    async def _forget(self) -> None:
        """Say that it is gone, and remove the record; if the first fails, the next node says it."""
        step(Step.NODE_MACHINE_DISKS_GONE)
        self.when_gone()
        step(Step.NODE_VM_END_TOLD)
        await asyncio.to_thread(shutil.rmtree, self.folder)

    def _reap_strays(self) -> None:
        if self.forks != "no":
            reap_strays(self.uid)

    async def _find_running(self, acked: int) -> None:
        pid, started = self.record.pid, self.record.started
        process = Process.adopt(pid, started) if pid and started else None
        if pid is None or process is None:
            raise Unavailable("its process was gone")
        self._hold_process(process)
        self._hold_namespace(adopt_namespace(self.record.slot, pid))
        async with self._beginning():
            await self._hold_monitor(ADOPT_TIMEOUT_S)
            # It may have been paused still when its node ended.
            await self.monitor.resume()
            await self._hold_channel(ADOPT_TIMEOUT_S, acked)

    def _hold_namespace(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self._held.callback(namespace.close)
        self._held.push_async_callback(
            asyncio.to_thread, unplug, self._host.territory, self.record.slot
        )

    def _hold_process(self, process: Process) -> None:
        self.process = process
        self._held.push_async_callback(_end_process, process)

    def _fork_socket(self) -> int:
        """Make the socket through which this machine is asked to be forked; return QEMU's end."""
        self.fork_socket = ForkSocket()
        self._held.callback(self.fork_socket.close)
        return self.fork_socket.theirs.fileno()

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
        *,
        preload: Path | None = None,
        fork: Sequence[str] = (),
    ) -> None:
        jail = Jail(
            program=self._host.artifacts.jail,
            root=self.folder / "root",
            uid=self.uid,
            namespace_fd=self.namespace.fd,
            procs=self.cgroup.procs_files(),
            binds=binds,
            devices=("/dev/kvm",) if "kvm" in command else (),
            preload=preload,
            fork=fork,
        )
        process = Process.spawn(jail, command, fds.all(), self.folder / OUTPUT)
        step(Step.NODE_MACHINE_SPAWNED)
        self._note_process(process, fds)

    def _note_process(self, process: Process, fds: Descriptors) -> None:
        """Hold and record the process that has what it was to get."""
        self._hold_process(process)
        self.fds = fds
        if self.fork_socket is not None:
            self.fork_socket.passed()
        self.namespace.close_tap()
        update = {"pid": process.pid, "started": process.started}
        self.record = self.record.model_copy(update=update)
        self._write_record()
        step(Step.NODE_MACHINE_PID_RECORDED)

    @asynccontextmanager
    async def _beginning(self) -> AsyncGenerator[None]:
        """Where connections are made, a process that ends meanwhile tells why they fail.

        The sockets listened before QEMU was started, so that its end resets them.
        """
        try:
            yield
        except CakeworkError as error:
            try:
                await asyncio.wait_for(self.process.wait(), END_TIMEOUT_S)
            except TimeoutError:
                raise error from None
            said = _end_of(self.folder / OUTPUT, 500)
            raise Unavailable(f"QEMU {self.process.how()} at its start: {said}") from error

    async def _hold_monitor(self, timeout_s: float) -> None:
        self.monitor = await Monitor.connect(self.folder / "qmp.sock", timeout_s)
        self._held.push_async_callback(self.monitor.close)

    async def _hold_channel(self, timeout_s: float, acked: int = 0) -> None:
        self.channel = await self._greet(timeout_s, acked)
        self._held.push_async_callback(self.channel.close)
        # First of all at the end: connections to a process that is gone close without delay.
        self._held.callback(self.process.kill)

    async def _greet(self, timeout_s: float, acked: int) -> GuestChannel:
        """Connect to the guest; a HELLO may be lost with the word that a node is there."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            try:
                return await GuestChannel.connect(
                    self.folder / "guest.sock", acked=acked, timeout_s=min(GREET_TIMEOUT_S, left_s)
                )
            except GuestError:
                if time.monotonic() >= deadline or self.process.ended:
                    raise
            # A socket that nobody has any more refuses at once, and its process is known to have
            # ended only when others had their turn.
            await asyncio.sleep(GREET_RETRY_S)

    def _write_record(self) -> None:
        partial_file = self.folder / "record.partial"
        partial_file.write_text(self.record.model_dump_json())
        partial_file.rename(self.folder / RECORD)


async def _end_process(process: Process) -> None:
    process.kill()
    await process.wait()
    process.close()
    step(Step.NODE_MACHINE_PROCESS_GONE)


def _end_of(file: Path, most: int) -> str:
    """Return the last ``most`` bytes of what QEMU says, which may be any number."""
    with file.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - most))
        return stream.read(most).decode(errors="replace").strip()


def _remove_disks(folder: Path) -> None:
    step(Step.NODE_MACHINE_CGROUP_GONE)
    shutil.rmtree(folder / "vm", ignore_errors=True)


def _nothing() -> None:
    return None
