"""A launch: from an order to a machine that was told to run the user's program."""

import asyncio
import os
import subprocess
import time
from functools import partial
from pathlib import Path

import structlog

from cakework.domain.errors import CakeworkError, InvalidRequest, Unavailable
from cakework.domain.orders import VmOrder
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.guest.protocol import Identity, Run
from cakework.node.images import Image
from cakework.node.unbroken import unbroken
from cakework.node.vms.disks import make_ext4
from cakework.node.vms.machines import Host, Machine
from cakework.node.vms.pool import Pool
from cakework.node.vms.volumes import Volumes
from cakework.node.vms.workshop import Workshop

log = structlog.get_logger("cakework.node.vms")


class Launcher:
    """Takes machines from the pool, or has them restored, and gives them what an order says."""

    def __init__(self, host: Host, workshop: Workshop, pool: Pool, volumes: Volumes) -> None:
        self._host = host
        self._workshop = workshop
        self._pool = pool
        self._volumes = volumes
        self._restores = asyncio.Semaphore(max(2, 2 * (os.cpu_count() or 1)))

    async def launch(
        self, order: VmOrder, image: Image, lines_before: int
    ) -> tuple[Machine, dict[str, float]]:
        """Return a machine that was told to run, and how long that took, by phase, in ms.

        When it fails or is cancelled, nothing is left of it.

        Raises:
            InvalidRequest: the guest cannot be told what the order says.
            CakeworkError: no machine could be made.
        """
        clock = Phases()
        machine = self._pool.take(order.shape)
        if machine is not None:
            try:
                await self._dress(machine, order, image, lines_before, pooled=True)
            except InvalidRequest:
                raise
            except CakeworkError as error:
                log.warning("pool.machine_failed", reason=error.detail)
            else:
                clock.lap("disks")
                return machine, clock.laps
        template = await self._workshop.template(order.shape)
        async with self._restores:
            clock.lap("queue")
            machine = await Machine.restore(self._host, template, image.rootfs)
            clock.lap("restore")
        await self._dress(machine, order, image, lines_before, pooled=False)
        clock.lap("disks")
        return machine, clock.laps

    async def _dress(
        self, machine: Machine, order: VmOrder, image: Image, lines_before: int, *, pooled: bool
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
            machine.assign(order, lines_before)
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


def identity_of(order: VmOrder, dns: tuple[str, ...]) -> Identity:
    """Return what makes the machine of ``order`` itself, as of now."""
    return Identity(
        clock_ns=time.time_ns(),
        seed=os.urandom(32),
        hostname=order.hostname.partition(".")[0],
        dns=dns,
        vm_id=order.vm_id,
        domain=order.hostname,
    )


def run_order(order: VmOrder, image: Image, dns: tuple[str, ...]) -> Run:
    """Put image and order together: the order's environment wins over the image's."""
    env = dict(entry.split("=", 1) for entry in image.config.env if "=" in entry)
    if order.port is not None:
        env["PORT"] = str(order.port)
    env.update(order.env)
    return Run(
        identity=identity_of(order, dns),
        cwd=image.config.cwd,
        user=image.config.user,
        argv=image.config.argv,
        env=tuple(f"{name}={value}" for name, value in env.items()),
        volume=order.volume_gb > 0,
    )
