"""A host's machines under a test's control: everything of the node but its API."""

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cakework.domain.facts import AnyFact, VmLine, VmStopped
from cakework.domain.ids import new_vm_id
from cakework.domain.orders import VmOrder
from cakework.domain.vms import Shape
from cakework.node.cgroups import Cgroup
from cakework.node.images import ImageStore
from cakework.node.images.store import RunConfig
from cakework.node.journal import Journal
from cakework.node.network.rules import Egress
from cakework.node.network.spares import Spares
from cakework.node.territory import SLOTS, Territory
from cakework.node.vms.artifacts import Artifacts
from cakework.node.vms.host import Host
from cakework.node.vms.machines import Machine
from cakework.node.vms.making import Patience
from cakework.node.vms.pool import Pool
from cakework.node.vms.registry import Vms
from cakework.node.vms.room import Room
from cakework.node.vms.snapshots import Snapshots
from cakework.node.vms.template import Template
from cakework.node.vms.volumes import Volumes
from cakework.node.vms.workshop import Workshop
from tests.integration.node.guest.materials import REPOSITORY, make_image
from tests.integration.node.told import facts_in

DEADLINE_S = 60.0
DISK_GB = 1
PATIENCE = Patience(ready_s=60, hook_s=60)
ARTIFACTS = Artifacts(REPOSITORY / ".build")


@dataclass(frozen=True, slots=True)
class Yard:
    """What all sites of a run share: a territory, templates, an image of busybox."""

    folder: Path
    territory: Territory

    @property
    def templates(self) -> Path:
        return self.folder / "templates"

    @property
    def rootfs(self) -> Path:
        return self.folder / "busybox"

    def host(
        self,
        folder: Path,
        artifacts: Artifacts = ARTIFACTS,
        networks: int = 0,
        egress: Egress = Egress(),  # noqa: B008 - it is frozen
    ) -> Host:
        """Return a host whose machines lie in ``folder``."""
        machines = folder / "machines"
        machines.mkdir(parents=True, exist_ok=True)
        return Host.assemble(machines, artifacts, self.territory, egress, ("192.0.2.1",), networks)

    def workshop(self, host: Host) -> Workshop:
        return Workshop(self.templates, host, "tcg", disk_gb=DISK_GB, most=8)

    async def put_image(self, images: ImageStore, script: str) -> str:
        """Make an image of busybox that runs a shell script; return its id."""
        rootfs = images.folder / f"rootfs-{secrets.token_hex(4)}"
        rootfs.write_bytes(self.rootfs.read_bytes())
        argv = ("/bin/sh", "-c", script)
        image = await images.put(secrets.token_hex(8), rootfs, RunConfig(argv=argv))
        return image.image_id


@dataclass(slots=True)
class Site:
    """One node's parts, in a folder of their own."""

    yard: Yard
    folder: Path
    host: Host
    workshop: Workshop
    pool: Pool
    images: ImageStore
    journal: Journal
    vms: Vms
    snapshots: Snapshots

    async def template(self) -> Template:
        return await self.workshop.template(Shape())

    async def order(self, script: str, **more: object) -> VmOrder:
        """Return an order for a VM that runs a shell script."""
        image_id = await self.yard.put_image(self.images, script)
        fields: dict[str, object] = {
            "vm_id": new_vm_id(),
            "image_id": image_id,
            "hostname": "vm.localhost",
        }
        return VmOrder.model_validate(fields | more)

    def facts(self) -> list[AnyFact]:
        return facts_in(self.folder / "journal")

    async def stopped(self, vm_id: str) -> VmStopped:
        """Wait for the fact that a VM has stopped."""
        await until(lambda: any(_is_end(fact, vm_id) for fact in self.facts()))
        return next(f for f in self.facts() if isinstance(f, VmStopped) and f.vm_id == vm_id)

    def printed(self, vm_id: str) -> list[str]:
        return printed(self.facts(), vm_id)

    def leftovers(self) -> list[str]:
        """Name everything that machines of this site, or of its territory, have left."""
        prefix = self.host.territory.interface_prefix
        links = [name for _, name in socket.if_nameindex() if name.startswith(prefix)]
        cgroups = [group.name for group in Cgroup.existing(f"{self.host.territory.name}-")]
        folders = [path.name for path in self.host.machines_dir.iterdir()]
        slots = ["slots"] * (SLOTS - self.host.slots.free)
        return [*links, *cgroups, *folders, *slots, *map(str, processes_of(self.host.territory))]

    async def clean(self) -> None:
        """Wait until nothing is left: the kernel takes network namespaces a moment later."""
        deadline = time.monotonic() + DEADLINE_S
        while left := self.leftovers():
            assert time.monotonic() < deadline, left
            await asyncio.sleep(0.01)


@asynccontextmanager
async def site(
    yard: Yard,
    folder: Path,
    *,
    memory_mb: int = 4096,
    pool: int = 0,
    pool_snapshots: int = 0,
    networks: int = 0,
    patience: Patience = PATIENCE,
    kept_bytes: int = 1 << 40,
) -> AsyncGenerator[Site]:
    """Open a site; at the end everything in it is stopped."""
    host = yard.host(folder, networks=networks)
    workshop = yard.workshop(host)
    journal = Journal.open(folder / "journal")
    async with AsyncExitStack() as stack:
        stack.callback(journal.close)
        ready = Pool(host, workshop, {Shape(): pool}, pool_snapshots)
        stack.push_async_callback(ready.close)
        images = ImageStore(folder / "images")
        volumes = Volumes(folder / "volumes")
        room = Room(folder, memory_mb, 0)
        shelf = folder / "snapshots"
        snapshots = Snapshots(
            shelf, host, workshop, ready, images, volumes, journal, room, patience, kept_bytes
        )
        vms = Vms(host, workshop, ready, images, volumes, journal, room, snapshots)
        stack.push_async_callback(snapshots.close)
        stack.push_async_callback(vms.close)
        made = Site(yard, folder, host, workshop, ready, images, journal, vms, snapshots)
        yield made
        await asyncio.gather(*(vms.stop(report.vm_id, 0) for report in vms.reports()))


@asynccontextmanager
async def kept_full(stock: Pool | Spares) -> AsyncGenerator[None]:
    """Have it filled meanwhile."""
    task = asyncio.create_task(stock.fill())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def filling(pool: Pool) -> AsyncGenerator[None]:
    """Have the pool filled; it is full when this begins."""
    async with kept_full(pool):
        await until(lambda: pool.full and pool.ready > 0)
        yield


async def until(reached: Callable[[], object], timeout_s: float = DEADLINE_S) -> None:
    """Wait for a level, looked at again and again."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        await asyncio.sleep(0.005)


def printed(facts: list[AnyFact], vm_id: str) -> list[str]:
    return [fact.text for fact in facts if isinstance(fact, VmLine) and fact.vm_id == vm_id]


def processes_of(territory: Territory) -> list[int]:
    """Return the processes that run as a user of the territory; dead ones do not count."""
    first, last = territory.uid(0), territory.uid(1023)
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(
                line.split(":\t", 1)
                for line in (folder / "status").read_text().splitlines()
                if ":\t" in line
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
        if first <= int(status["Uid"].split()[0]) <= last and not status["State"].startswith("Z"):
            found.append(int(folder.name))
    return found


def make_yard(folder: Path, territory: Territory) -> Yard:
    """Make the image and the template that every site uses."""
    yard = Yard(folder, territory)
    make_image(yard.rootfs, {})
    asyncio.run(yard.workshop(yard.host(folder)).template(Shape()))
    return yard


def _is_end(fact: AnyFact, vm_id: str) -> bool:
    return isinstance(fact, VmStopped) and fact.vm_id == vm_id


def machine_of(site: Site, vm_id: str) -> Machine:
    return site.vms.machine(vm_id)
