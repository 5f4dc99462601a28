"""All VMs of this host: admitted, started, found again after a restart of the node."""

import asyncio
import shutil
import time
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import ValidationError

from cakework.domain.errors import CakeworkError, Conflict, InvalidRequest, NotFound, Unavailable
from cakework.domain.facts import VmStopped
from cakework.domain.orders import MarkReport, SnapshotOrder, SnapshotReport, VmOrder, VmReport
from cakework.domain.vms import EndCause, Shape
from cakework.node.cgroups import Cgroup, NotEnded
from cakework.node.cleanup import clean_up
from cakework.node.images import Image, ImageStore
from cakework.node.journal import Journal
from cakework.node.listing import if_there
from cakework.node.territory import SLOTS
from cakework.node.vms.holdings import RECORD, Ending, MachineRecord
from cakework.node.vms.host import Host
from cakework.node.vms.launch import Launcher, Phases
from cakework.node.vms.machines import Machine
from cakework.node.vms.pool import Pool
from cakework.node.vms.processes import Process
from cakework.node.vms.room import Room
from cakework.node.vms.saved import Saved
from cakework.node.vms.snapshots import Snapshots
from cakework.node.vms.vm import BECAME_SNAPSHOT, Vm
from cakework.node.vms.volumes import Volumes
from cakework.node.vms.workshop import Workshop

ENDED_KEPT = 10_000
log = structlog.get_logger("cakework.node.vms")


@dataclass(frozen=True, slots=True)
class _Taking:
    """A snapshot that is being taken of a VM as it runs."""

    order: SnapshotOrder
    task: asyncio.Task[int]


class Vms:
    """The VMs of this host, by id."""

    def __init__(
        self,
        host: Host,
        workshop: Workshop,
        pool: Pool,
        images: ImageStore,
        volumes: Volumes,
        journal: Journal,
        room: Room,
        snapshots: Snapshots,
    ) -> None:
        self._host = host
        self._images = images
        self._journal = journal
        self._room = room
        self._snapshots = snapshots
        self._vms: dict[str, Vm] = {}
        self._ended: OrderedDict[str, VmReport] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._takings: dict[str, _Taking] = {}
        self._pool = pool
        self._launcher = Launcher(host, workshop, pool, volumes, snapshots)
        room.when_changed = pool.allow
        pool.allow(room.free_mb)

    def reports(self) -> list[VmReport]:
        """Return how each VM is that has not ended."""
        return [vm.report for vm in self._vms.values()]

    def report(self, vm_id: str) -> VmReport:
        """Return how a VM is, or was at its end. Raises NotFound."""
        return self._find(vm_id).report if vm_id in self._vms else self._ended_report(vm_id)

    def machine(self, vm_id: str) -> Machine:
        """Return the machine of a VM that runs. Raises NotFound."""
        vm = self._vms.get(vm_id)
        if vm is None or vm.machine is None or vm.report.state == "stopped":
            raise NotFound(f"no VM {vm_id} runs here")
        return vm.machine

    def shapes(self) -> set[Shape]:
        """Return the shapes of all VMs."""
        return {vm.order.shape for vm in self._vms.values()}

    async def start(self, order: VmOrder) -> VmReport:
        """Start a VM; returns when its program runs, or could not be started.

        An order given before starts nothing again; one for the next run waits for the last to
        be over.

        Raises:
            NotFound: the image is not here.
            NoRoom: the host's memory is promised to others.
            Unavailable: no machine could be made.
        """
        order = _rounded(order)
        ended = self._ended.get(order.vm_id)
        if ended is not None and ended.run >= order.run:
            return ended
        vm = self._vms.get(order.vm_id)
        if vm is not None and vm.order.run < order.run:
            await vm.gone.wait()
            return await self.start(order)
        if vm is None:
            vm = self._begin(order)
        if vm.launch is not None:
            await asyncio.wait({vm.launch})
            if vm.failure is not None:
                raise vm.failure
            if vm.machine is None and not vm.gone.is_set():
                raise Unavailable("the node is closing")
        await vm.begun.wait()
        return vm.report

    def snapshot(self, order: VmOrder) -> None:
        """Have a "ready" snapshot of a VM's program made; facts tell how it went.

        Raises:
            Conflict: the VM runs.
            InvalidRequest, NotFound: there can be none.
        """
        if order.vm_id in self._vms:
            raise Conflict(f"VM {order.vm_id} runs")
        self._snapshots.order(_rounded(order))

    async def stop(
        self, vm_id: str, grace_s: float, *, wait_s: float = 0.0, keep_memory: bool = False
    ) -> VmReport:
        """End a VM; returns when all it held is released. It may end by itself for ``wait_s``
        before. With ``keep_memory`` it is frozen and kept, and goes on where it was at its next
        start.

        Raises:
            NotFound: there is no such VM.
            CakeworkError: its memory cannot be kept, and it goes on.
        """
        vm = self._vms.get(vm_id)
        if vm is None:
            return self._ended_report(vm_id)
        if keep_memory:
            return await self._stop_and_keep(vm)
        # Let a launch begin: a task that is cancelled before that never hears of it.
        await asyncio.sleep(0)
        if vm.machine is None and vm.launch is not None:
            vm.asked_to_stop = True
            vm.launch.cancel()
            await asyncio.wait({vm.launch})
        await vm.stop(grace_s, wait_s)
        return vm.report

    async def take_snapshot(self, vm_id: str, order: SnapshotOrder) -> SnapshotReport:
        """Take the "ready" snapshot of a VM as it runs; returns when that is done, and the VM has
        gone on or ended as the order says. It is done to its end whoever waits for it.

        Raises:
            NotFound: there is no such VM.
            Conflict: it does not run, or there can be none of it; or another is being taken.
            InvalidRequest: it has a volume.
            CakeworkError: it could not be taken, and the VM goes on or has ended.
        """
        under_way = self._takings.get(vm_id)
        if under_way is not None and under_way.order != order:
            raise Conflict(f"another snapshot of VM {vm_id} is being taken")
        taking = under_way or self._begin_taking(vm_id, order)
        await asyncio.wait({taking.task})
        if taking.task.cancelled():
            raise Unavailable("the node is closing")
        size = taking.task.result()
        return SnapshotReport(vm_id=vm_id, state="made", size_bytes=size)

    async def mark(self, vm_id: str) -> MarkReport:
        """Have what a VM has printed until now made lines; return the number of the last.

        Raises:
            NotFound: there is no such VM.
            Conflict: it does not run, or cannot be asked.
            Unavailable: its guest does not answer.
        """
        vm = self._vms.get(vm_id)
        if vm is None:
            self._ended_report(vm_id)
            raise Conflict(f"VM {vm_id} has stopped")
        return MarkReport(seq=await vm.mark())

    async def watch_disk(self) -> None:
        """For ever: end the VM that has taken most of a disk that is full."""

        def disks() -> dict[str, Path]:
            return {
                vm_id: vm.machine.folder / "vm"
                for vm_id, vm in self._vms.items()
                if vm.machine is not None
            }

        await self._room.watch_disk(disks, self._end, self._snapshots.kept)

    async def adopt(self) -> None:
        """Take on the VMs that an earlier node left running; reap what nobody claims."""
        folders = [path for path in self._host.machines_dir.iterdir() if path.is_dir()]
        claimed = {f"{self._host.territory.name}-{path.name}" for path in folders}
        for cgroup in Cgroup.existing(f"{self._host.territory.name}-"):
            if cgroup.name not in claimed:
                await self._end_cgroup(cgroup)
        await asyncio.gather(*(self._adopt(folder) for folder in folders))

    async def close(self) -> None:
        """Let go of all VMs; they go on running until a node adopts them.

        Those that have no machine yet are given up: whoever ordered them was not answered.
        """
        while self._takings:
            # First, and whole: a program that is frozen needs its VM to go on.
            takings = {taking.task for taking in self._takings.values()}
            for task in takings:
                task.cancel("closing")
            await asyncio.wait(takings)
        while self._tasks:
            for task in self._tasks:
                task.cancel("closing")
            await asyncio.wait(set(self._tasks))

    async def _stop_and_keep(self, vm: Vm) -> VmReport:
        if vm.order.volume_gb and not vm.order.volume_kept:
            raise InvalidRequest("the memory of a VM whose volume goes with it cannot be kept")
        if vm.launch is not None:
            await asyncio.wait({vm.launch})

        async def save(machine: Machine, lines: int) -> None:
            await self._snapshots.keep(machine, vm.order, lines)

        try:
            await vm.keep(save)
        except CakeworkError:
            if not await vm.has_died():
                raise
            await vm.gone.wait()
        if not vm.report.memory_kept:
            # It ended by itself meanwhile: whatever was saved of it, it is not to go on.
            await self._snapshots.drop_kept(vm.order.vm_id)
        return vm.report

    def _begin_taking(self, vm_id: str, order: SnapshotOrder) -> _Taking:
        task = asyncio.create_task(self._take(vm_id, order))
        taking = self._takings[vm_id] = _Taking(order, task)

        def over(task: asyncio.Task[int]) -> None:
            del self._takings[vm_id]
            if not task.cancelled():
                # Whoever ordered it may be gone.
                task.exception()

        task.add_done_callback(over)
        return taking

    async def _take(self, vm_id: str, order: SnapshotOrder) -> int:
        """Take a snapshot unless it was taken; return its bytes."""
        vm, size = self._vms.get(vm_id), await self._snapshots.taken(vm_id, order.snapshot_id)
        over = vm is None or vm.order.run != order.run
        if over and size is not None:
            self._snapshots.tell_taken(vm_id, size)
            return size
        if vm is None:
            self._ended_report(vm_id)
        if vm is None or over:
            raise Conflict(f"run {order.run} of VM {vm_id} is over")
        await vm.begun.wait()
        if size is None:
            return await self._taken(vm, order)
        # An earlier node may have ended before it was told, and before the VM had ended.
        self._snapshots.tell_taken(vm_id, size)
        if order.then == "end":
            await vm.end(BECAME_SNAPSHOT)
        return size

    async def _taken(self, vm: Vm, order: SnapshotOrder) -> int:
        if vm.machine is None:
            raise Conflict(f"VM {vm.order.vm_id} has stopped")
        await self._snapshots.check_taking(vm.order, vm.machine)
        made: list[Saved] = []

        async def save(machine: Machine, lines: int) -> None:
            made.append(await self._snapshots.take(vm.order, machine, lines, order.snapshot_id))
            if order.then == "end":
                try:
                    machine.note_ending(
                        Ending(reason=BECAME_SNAPSHOT, cause=EndCause.STOPPED), saved_for_good=True
                    )
                except OSError as error:
                    raise Unavailable(f"its end could not be recorded: {error}") from error

        async def hand_over(machine: Machine) -> None:
            await vm.gone.wait()
            await self._pool.offer(made[0], machine)

        try:
            await vm.snapshot(save, hand_over if order.then == "end" else None)
        except CakeworkError as error:
            if not await vm.has_died():
                raise
            await vm.gone.wait()
            raise Unavailable(f"the VM has ended: {vm.report.reason}") from error
        size = await self._snapshots.taken(vm.order.vm_id, order.snapshot_id)
        if size is None:
            raise Unavailable("the snapshot was removed")
        return size

    async def _end(self, vm_id: str, why: str) -> None:
        if vm_id in self._vms:
            await self._vms[vm_id].end(why)

    def _begin(self, order: VmOrder) -> Vm:
        image = self._image(order.image_id)
        _check(order)
        self._room.take(order.vm_id, order.shape, order.owner)
        vm = self._vms[order.vm_id] = self._vm(order)
        vm.launch = self._spawn(self._launch(vm, image))
        return vm

    def _vm(self, order: VmOrder) -> Vm:
        return Vm(order, self._journal, self._host.dns, self._snapshots.patience.hook_s)

    async def _launch(self, vm: Vm, image: Image) -> None:
        """Get the VM a machine and see that its program is begun; ``vm.failure`` if not."""
        try:
            with self._host.quiet.disturbed():
                await self._run(vm, image)
        except asyncio.CancelledError:
            if vm.machine is not None or not vm.asked_to_stop:
                raise
            vm.never_ran()
            self._forget(vm)
            self._remember(vm.report)
        except Exception as error:
            log.warning("vm.not_started", vm_id=vm.order.vm_id, exc_info=error)
            vm.failure = error
            self._forget(vm)
            vm.over()

    async def _run(self, vm: Vm, image: Image) -> None:
        clock = Phases()
        # It would print into the same log.
        await self._snapshots.made_or_given_up(vm.order.vm_id)
        launched = await self._launcher.launch(vm.order, image, lambda: self._lines_of(vm.order))
        live = self._see_through(vm, launched.machine)
        clock.lap("machine")
        waiting = asyncio.create_task(vm.begun.wait())
        try:
            await asyncio.wait({waiting, live}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        clock.lap("run")
        vm.report = vm.report.model_copy(update={"phases_ms": {**launched.laps, **clock.laps}})
        log.info("vm.started", vm_id=vm.order.vm_id, **vm.report.phases_ms)

    def _lines_of(self, order: VmOrder) -> int:
        """Return the number of a VM's last line: the server's word, if this node knows less."""
        return max(self._journal.last_seq(order.vm_id), order.lines_before)

    def _see_through(self, vm: Vm, machine: Machine) -> asyncio.Task[None]:
        vm.machine = machine
        vm.report = vm.report.model_copy(update={"began": machine.record.began})
        return self._spawn(self._live(vm, machine))

    async def _live(self, vm: Vm, machine: Machine) -> None:
        await vm.live(machine)
        self._forget(vm)
        self._remember(vm.report)

    def _forget(self, vm: Vm) -> None:
        del self._vms[vm.order.vm_id]
        self._room.give_back(vm.order.vm_id)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _adopt(self, folder: Path) -> None:
        try:
            record = MachineRecord.model_validate_json((folder / RECORD).read_bytes())
        except (OSError, ValidationError):
            await self._reap(folder, None)
            return
        if record.order is None:
            await self._reap(folder, record)
            return
        vm = self._vm(record.order)
        if record.ending is not None and (record.ending.memory_kept or record.saved_for_good):
            await _end_process(record)
        else:
            # It goes on, and so does its volume: what a stop had kept of it is no more.
            await self._snapshots.drop_kept(vm.order.vm_id)
        acked = max(
            self._journal.last_seq(vm.order.vm_id) - record.lines_before, record.lines_saved
        )
        try:
            machine = await Machine.adopt(
                self._host, folder.name, record, acked, lambda why: self._lost(vm, record, why)
            )
        except CakeworkError as error:
            log.warning("vm.lost", vm_id=vm.order.vm_id, reason=error.detail)
            return
        if machine.channel.hello.state == "waiting":
            await machine.release()
            return
        self._vms[vm.order.vm_id] = vm
        self._room.hold(vm.order.vm_id, vm.order.shape, vm.order.owner)
        if machine.channel.hello.state == "running":
            vm.now_started()
        self._see_through(vm, machine)
        log.info("vm.adopted", vm_id=vm.order.vm_id)

    async def _reap(self, folder: Path, record: MachineRecord | None) -> None:
        """End a machine that had no program yet when the node ended."""
        if record is not None:
            await _end_process(record)
        name = f"{self._host.territory.name}-{folder.name}"
        for cgroup in Cgroup.existing(name):
            await self._end_cgroup(cgroup)
        await clean_up(
            "machine folder", lambda: asyncio.to_thread(shutil.rmtree, folder), name=folder.name
        )

    async def _end_cgroup(self, cgroup: Cgroup) -> None:
        """End what an earlier node left in it; of a process that goes on all the same, no machine
        gets the user, and the next start tries again."""
        try:
            await cgroup.end()
        except NotEnded:
            log.exception("cgroup.not_ended", cgroup=cgroup.name)
            for pid in cgroup.pids():
                self._claim_slot_of(pid)

    def _claim_slot_of(self, pid: int) -> None:
        with if_there():
            slot = Path(f"/proc/{pid}").stat().st_uid - self._host.territory.uid(0)
            if 0 <= slot < SLOTS:
                self._host.slots.claim(slot)

    def _lost(self, vm: Vm, record: MachineRecord, why: str) -> None:
        """Tell the end of a VM that is gone; an earlier node may have seen it, and even told it."""
        unseen = Ending(reason=f"the VM ended while the node was down: {why}", cause=EndCause.LOST)
        ending = dict(record.ending or unseen)
        vm_id, run, now_ms = vm.order.vm_id, vm.order.run, time.time_ns() // 1_000_000
        self._journal.append(VmStopped(at_ms=now_ms, vm_id=vm_id, run=run, **ending))
        self._remember(VmReport(vm_id=vm_id, run=run, state="stopped", **ending))

    def _remember(self, report: VmReport) -> None:
        self._ended[report.vm_id] = report
        if len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)

    def _image(self, image_id: str) -> Image:
        try:
            image = self._images.get(image_id)
        except ValueError:
            image = None
        if image is None:
            raise NotFound(f"no image {image_id} on this host")
        return image

    def _find(self, vm_id: str) -> Vm:
        return self._vms[vm_id]

    def _ended_report(self, vm_id: str) -> VmReport:
        if vm_id not in self._ended:
            raise NotFound(f"no VM {vm_id} on this host")
        return self._ended[vm_id]


def _rounded(order: VmOrder) -> VmOrder:
    """Return the order for a machine of one of the shapes that there are templates of."""
    return order.model_copy(update={"shape": order.shape.rounded()})


def _check(order: VmOrder) -> None:
    if order.volume_gb and (order.snapshot == "ready" or order.fork_of is not None):
        raise InvalidRequest("a VM with a volume cannot begin from a snapshot of its program")


async def _end_process(record: MachineRecord) -> None:
    """End the process of a machine of an earlier node, if it is there."""
    if not record.pid or not record.started:
        return
    process = Process.adopt(record.pid, record.started)
    if process is not None:
        process.kill()
        await process.wait()
        process.close()
