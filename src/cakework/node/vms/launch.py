"""A launch: from an order to a machine that was told to run the user's program, or that has it
frozen and is the VM's own."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from cakework.domain.errors import CakeworkError, InvalidRequest, NoRoom, Unavailable
from cakework.domain.orders import VmOrder
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.images import Image
from cakework.node.vms.disks import make_ext4
from cakework.node.vms.forking import Forkable
from cakework.node.vms.holdings import Began
from cakework.node.vms.host import Host
from cakework.node.vms.machines import Machine
from cakework.node.vms.pool import Pool
from cakework.node.vms.runs import run_order
from cakework.node.vms.saved import Saved
from cakework.node.vms.shelf import Snapshot
from cakework.node.vms.snapshots import Snapshots
from cakework.node.vms.volumes import Volumes
from cakework.node.vms.workshop import Workshop
from cakework.unbroken import unbroken

log = structlog.get_logger("cakework.node.vms")


@dataclass(frozen=True, slots=True)
class Launched:
    """A machine that is a VM's from now on; its record says what it began with. Unless that was
    a boot, its program is frozen and waits to be resumed. ``laps``: how long it took, by phase,
    in ms."""

    machine: Machine
    laps: dict[str, float]


class Launcher:
    """Takes machines from the pool, or has them restored, and gives them what an order says."""

    def __init__(
        self, host: Host, workshop: Workshop, pool: Pool, volumes: Volumes, snapshots: Snapshots
    ) -> None:
        self._host = host
        self._workshop = workshop
        self._pool = pool
        self._volumes = volumes
        self._snapshots = snapshots
        self._restores = asyncio.Semaphore(max(2, 2 * (os.cpu_count() or 1)))

    async def launch(self, order: VmOrder, image: Image, recorded: Callable[[], int]) -> Launched:
        """Return the machine of ``order``; ``recorded`` gives the VM's last line on record.

        When it fails or is cancelled, nothing is left of it.

        Raises:
            InvalidRequest: the guest cannot be told what the order says.
            CakeworkError: no machine could be made.
        """
        clock = Phases()
        kept = await self._snapshots.take_kept(order, image)
        if kept is not None and (machine := await self._from_kept(kept, order, recorded, clock)):
            return Launched(machine, clock.laps)
        if order.fork_of is not None or order.snapshot == "ready":
            machine = await self._from_ready(order, image, recorded, clock)
            if machine is not None:
                return Launched(machine, clock.laps)
        return Launched(await self._boot(order, image, recorded, clock), clock.laps)

    async def _boot(
        self, order: VmOrder, image: Image, recorded: Callable[[], int], clock: "Phases"
    ) -> Machine:
        waits = not order.forkable and order.egress == "internet"
        machine = self._pool.take(order.shape) if waits else None
        if machine is not None:
            try:
                await self._dress(machine, order, image, recorded(), pooled=True)
            except InvalidRequest:
                raise
            except CakeworkError as error:
                log.warning("pool.machine_failed", reason=error.detail)
            else:
                clock.lap("disks")
                return machine
        template = await self._workshop.template(order.shape)
        async with self._restores:
            clock.lap("queue")
            machine = await self._pool.fork(
                template, image.rootfs, forkable=order.forkable, egress=order.egress
            )
            clock.lap("fork")
            if machine is None:
                forkable = _forkable(order, template)
                machine = await Machine.restore(
                    self._host, template, image.rootfs, forkable=forkable, network=order.egress
                )
                clock.lap("restore")
        await self._dress(machine, order, image, recorded(), pooled=False)
        clock.lap("disks")
        return machine

    async def _from_ready(
        self, order: VmOrder, image: Image, recorded: Callable[[], int], clock: "Phases"
    ) -> Machine | None:
        """Return a machine with the program of a "ready" snapshot; None if it is to be booted."""
        try:
            snapshot = await self._snapshots.ready(order, image)
            clock.lap("snapshot")
            machine = await self._restored(snapshot, order, clock)
        except CakeworkError as error:
            if order.fork_of is not None:
                raise
            log.warning("snapshot.not_started", vm_id=order.vm_id, reason=error.detail)
            return None
        environment = self._snapshots.environment(order, image)
        await self._assign(
            machine, order, recorded(), snapshot.lines, "ready", environment=environment
        )
        return machine

    async def _restored(self, snapshot: Snapshot, order: VmOrder, clock: "Phases") -> Machine:
        """Return a machine of ``snapshot``; where one is forked there are likely to be more."""
        forks = order.fork_of is not None
        machine = None if order.forkable else self._pool.take(snapshot, order.egress)
        if machine is not None:
            try:
                await machine.go_on()
            except BaseException as error:
                await machine.release()
                if not isinstance(error, CakeworkError):
                    raise
                log.warning("pool.machine_failed", reason=error.detail)
            else:
                clock.lap("pooled")
                return machine
        try:
            async with self._restores:
                clock.lap("queue")
                machine = await self._pool.fork(
                    snapshot, make=forks, forkable=order.forkable, egress=order.egress
                )
                clock.lap("fork")
                if machine is not None:
                    return machine
                forkable = _forkable(order, snapshot)
                machine = await Machine.restore(
                    self._host, snapshot, forkable=forkable, network=order.egress
                )
        except NoRoom:
            # It is the host that is short, and the snapshot may be as good as ever.
            raise
        except CakeworkError as error:
            await self._snapshots.drop_ready(snapshot, error.detail)
            raise
        clock.lap("restore")
        return machine

    async def _from_kept(
        self, kept: Snapshot, order: VmOrder, recorded: Callable[[], int], clock: "Phases"
    ) -> Machine | None:
        """Return a machine that goes on where a stop kept it; None if it cannot.

        What was kept is not to be found any more, so a crash from here on leads to a boot and
        never to old memory over a volume that has moved on.
        """
        machine = None
        try:
            try:
                machine = await self._restored_kept(kept, order, clock)
            finally:
                await self._snapshots.used(kept)
        except BaseException:
            if machine is not None:
                await machine.release()
            raise
        if machine is not None:
            await self._assign(machine, order, recorded(), kept.lines, "memory")
        return machine

    async def _restored_kept(
        self, kept: Snapshot, order: VmOrder, clock: "Phases"
    ) -> Machine | None:
        try:
            volume = self._volumes.path(order.vm_id) if order.volume_gb else None
            async with self._restores:
                clock.lap("queue")
                machine = await Machine.restore(
                    self._host, kept, volume=volume, network=order.egress
                )
                clock.lap("restore")
        except CakeworkError as error:
            log.warning(
                "snapshot.not_used", vm_id=order.vm_id, snapshot="kept", reason=error.detail
            )
            return None
        return machine

    async def _assign(
        self,
        machine: Machine,
        order: VmOrder,
        recorded: int,
        saved: int,
        began: Began,
        *,
        environment: str = "",
    ) -> None:
        try:
            machine.assign(
                order,
                recorded,
                saved=saved,
                began=began,
                template=self._workshop.fingerprint(order.shape),
                environment=environment,
            )
            step(Step.NODE_MACHINE_ASSIGNED)
        except BaseException as error:
            await machine.release()
            if isinstance(error, OSError):
                raise Unavailable(f"the VM could not be recorded: {error}") from error
            raise

    async def _dress(
        self, machine: Machine, order: VmOrder, image: Image, recorded: int, *, pooled: bool
    ) -> None:
        """Give the machine its disks and its orders; release it if that fails."""
        try:
            if pooled:
                await machine.give_image(image.rootfs)
                step(Step.NODE_MACHINE_TAKEN)
            if order.volume_gb:
                volume = await self._volume(order, machine)
                await machine.give_volume(volume)
                step(Step.NODE_VOLUME_GIVEN)
                if not order.volume_kept:
                    # The machine's own name for it is the only one: so it counts as its disk.
                    volume.unlink()
            machine.assign(
                order,
                recorded,
                template=self._workshop.fingerprint(order.shape),
                environment=self._snapshots.environment(order, image),
            )
            step(Step.NODE_MACHINE_ASSIGNED)
            if pooled:
                await machine.monitor.resume()
            await machine.channel.send(run_order(order, image, self._host.dns))
            step(Step.NODE_MACHINE_RUN_SENT)
        except BaseException as error:
            await machine.release()
            if isinstance(error, ValueError):
                raise InvalidRequest(f"the guest cannot be told that: {error}") from error
            if isinstance(error, OSError | subprocess.CalledProcessError):
                raise Unavailable(f"the VM's disks could not be made: {error}") from error
            raise

    async def _volume(self, order: VmOrder, machine: Machine) -> Path:
        """Return the VM's own volume, or a new one that goes with the machine."""
        if order.volume_kept:
            return await unbroken(self._volumes.get(order.vm_id, order.volume_gb))
        volume = machine.folder / "volume"
        make = partial(make_ext4, volume, order.volume_gb, journal=True)
        await unbroken(asyncio.to_thread(make))
        return volume


def _forkable(order: VmOrder, saved: Saved) -> Forkable:
    """Return whether a machine that is restored for ``order`` can be forked, once it rests."""
    return "itself" if order.forkable and saved.spec.accelerator == "tcg" else "no"


class Phases:
    """A stopwatch: how long each phase took, in milliseconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._at = time.perf_counter()

    def lap(self, name: str) -> None:
        """A phase ends, and the next begins."""
        now = time.perf_counter()
        self.laps[name] = round((now - self._at) * 1000, 2)
        self._at = now
