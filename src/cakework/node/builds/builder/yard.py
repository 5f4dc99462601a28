"""The yard: where builder machines come from, one for each build, and where they go again.

A machine is restored from a template of its own kind: booted once, saved while it waited, like
those of VMs, but with a guest that lets its program do what it likes. It has a user id, a
control group, a jail and a network namespace as VMs do; it is nobody's, so a node that finds it
after a crash takes it away. Nothing of it outlives the build.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from cakework.domain.errors import NoRoom
from cakework.domain.orders import BuildOrder
from cakework.domain.steps import Step
from cakework.domain.vms import CPU_MAX, Shape
from cakework.faults import step
from cakework.node.builds.bases import Say
from cakework.node.builds.failure import BuildError
from cakework.node.builds.share import group_of_builds
from cakework.node.guest.protocol import Identity, Run
from cakework.node.network.builds import BuildNetworks
from cakework.node.network.namespaces import GATEWAY
from cakework.node.vms.disks import make_ext4
from cakework.node.vms.host import Host
from cakework.node.vms.machines import Machine
from cakework.node.vms.room import Room
from cakework.node.vms.workshop import Workshop
from cakework.settings import Isolation, Settings
from cakework.unbroken import unbroken

SYSTEM_MB = 192
"""What a machine takes for kernel, guest and buildah, beside what a build may use."""
ROLE = "builder"
DISK_GB = 1
PORT = 77
PROGRAM = "/usr/lib/cakework/builder"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ROOM_RETRY_S = 0.5
log = structlog.get_logger("cakework.node.builder")


@dataclass(frozen=True, slots=True)
class BuilderYard:
    """What builder machines are made of. ``workshop`` makes templates of their kind."""

    host: Host
    workshop: Workshop
    room: Room
    networks: BuildNetworks

    @asynccontextmanager
    async def lease(
        self, order: BuildOrder, root: Path, memory_mb: int, disk_mb: int, say: Say
    ) -> AsyncGenerator[Machine]:
        """Give a machine that runs from ``root``, with a disk of its own; it goes at the end.

        It waits until the host has room for it, and tells ``say`` so.

        Raises:
            BuildError: the host is too small.
            CakeworkError: no machine can be made.
        """
        shape = builder_shape(memory_mb)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                room_for(self.room, f"build {order.build_id}", shape, say)
            )
            template = await self.workshop.template(shape)
            self.workshop.discard_surplus()
            machine = await Machine.restore(self.host, template, root)
            stack.push_async_callback(machine.release)
            await self._give_disk(machine, disk_mb)
            names = self.networks.names_for(machine.namespace.fd, order.owner)
            await stack.enter_async_context(names)
            step(Step.NODE_BUILDER_LEASED)
            yield machine

    async def _give_disk(self, machine: Machine, disk_mb: int) -> None:
        disk = machine.folder / "volume"
        size_gb = math.ceil(disk_mb / 1024)
        await unbroken(asyncio.to_thread(partial(make_ext4, disk, size_gb, journal=False)))
        await machine.give_volume(disk)
        # The machine's own name for it is the only one: so it counts as its disk.
        disk.unlink()


@asynccontextmanager
async def room_for(room: Room, name: str, shape: Shape, say: Say) -> AsyncGenerator[None]:
    """Hold what a machine of ``shape`` needs; wait until it is there, and tell ``say`` so.

    Raises:
        BuildError: the host is too small, or its disk is full.
    """
    footprint_mb = room.footprint.mb(shape)
    if footprint_mb > room.memory_mb:
        raise BuildError(
            f"a build takes {footprint_mb} MB of memory, and this host may promise "
            f"{room.memory_mb}: CAKEWORK_BUILD_MEMORY_MB has to be lower"
        )
    try:
        room.check_disk()
    except NoRoom as error:
        raise BuildError("the disk for builds is full") from error
    told = False
    while not _take(room, name, shape):  # Room tells nobody of itself.
        if not told:
            say("waiting until the host has memory for a machine")
        told = True
        await asyncio.sleep(ROOM_RETRY_S)
    try:
        yield
    finally:
        room.give_back(name)


def _take(room: Room, name: str, shape: Shape) -> bool:
    try:
        room.take(name, shape)
    except NoRoom:
        return False
    return True


def builder_yard(
    settings: Settings, host: Host, accelerator: str, room: Room, networks: BuildNetworks
) -> BuilderYard | None:
    """Return where builder machines come from, or None where builds run in containers."""
    fits = room.footprint.mb(builder_shape(settings.build_memory_mb)) <= room.memory_mb
    isolation = choose_isolation(settings.build_isolation, accelerator, fits=fits)
    log.info("builds.isolation", isolation=isolation, setting=settings.build_isolation)
    if isolation == "container":
        return None
    host = replace(host, group=group_of_builds(settings.node_dir))
    folder = settings.node_dir / "builder-templates"
    workshop = Workshop(folder, host, accelerator, disk_gb=DISK_GB, most=1, role=ROLE)
    workshop.in_use = lambda: (builder_shape(settings.build_memory_mb),)
    return BuilderYard(host, workshop, room, networks)


def choose_isolation(wanted: Isolation, accelerator: str, *, fits: bool) -> Isolation:
    """Return ``vm`` or ``container``: what is ``wanted``, or for ``auto`` a machine where one is
    quick and ``fits`` into the memory that the host may promise."""
    if wanted != "auto":
        return wanted
    return "vm" if accelerator == "kvm" and fits else "container"


def builder_shape(memory_mb: int) -> Shape:
    """Return what a machine is given, for a build that may use so much memory."""
    return Shape(min(os.cpu_count() or 1, CPU_MAX), memory_mb + SYSTEM_MB)


def run_builder() -> Run:
    """Return what tells a builder machine's guest to run its program."""
    identity = Identity(
        clock_ns=time.time_ns(),
        seed=os.urandom(32),
        hostname="build",
        dns=(GATEWAY,),
        vm_id="build",
        domain="build",
    )
    argv = (PROGRAM, str(PORT))
    return Run(identity, argv, (PATH,), "/", "", volume=True, watch=True, port=PORT)
