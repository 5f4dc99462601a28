"""Snapshots of programs: made when they are wanted, found for starts, kept by stops."""

import asyncio
import hashlib
import time
from collections.abc import Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    InvalidRequest,
    NoRoom,
    NotFound,
    Unavailable,
)
from cakework.domain.facts import SnapshotFailed, SnapshotMade
from cakework.domain.orders import SnapshotReport, VmOrder
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.images import Image, ImageStore
from cakework.node.journal import Journal
from cakework.node.vms.host import Host
from cakework.node.vms.machines import Machine
from cakework.node.vms.making import Making, Patience
from cakework.node.vms.manifest import Kind, Needs, Seal, stamp
from cakework.node.vms.pool import Pool
from cakework.node.vms.room import Room
from cakework.node.vms.runs import environment
from cakework.node.vms.saved import Saved
from cakework.node.vms.shelf import Shelf, Snapshot
from cakework.node.vms.volumes import Volumes
from cakework.node.vms.workshop import Workshop
from cakework.unbroken import unbroken

CPUINFO = Path("/proc/cpuinfo")
log = structlog.get_logger("cakework.node.snapshots")


class KeptMemory:
    """The memory that was kept of all VMs, for whoever makes room on the disk."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def sizes(self) -> Mapping[str, int]:
        """Return the bytes that it takes of each account that has any."""
        return await asyncio.to_thread(self._shelf.kept_sizes)

    async def drop_oldest(self, account: str) -> None:
        """Forget what was kept first of an account's."""
        await asyncio.to_thread(self._shelf.drop_oldest, account)


class Snapshots:
    """The snapshots of this node's VMs."""

    def __init__(
        self,
        folder: Path,
        host: Host,
        workshop: Workshop,
        pool: Pool,
        images: ImageStore,
        volumes: Volumes,
        journal: Journal,
        room: Room,
        patience: Patience,
        most_bytes: int,
    ) -> None:
        self._seal = Seal(folder.parent / "snapshots.key")
        self._shelf = Shelf(folder, self._seal, most_bytes)
        self.kept = KeptMemory(self._shelf)
        self._host = host
        self._workshop = workshop
        self._pool = pool
        self._images = images
        self._volumes = volumes
        self._journal = journal
        self._room = room
        self.patience = patience
        self._makings: dict[str, asyncio.Task[int]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failures: dict[str, str] = {}

    def ids(self) -> list[str]:
        """Return the ids of the VMs that have a snapshot, or memory that was kept."""
        return self._shelf.ids()

    def makes(self, vm_id: str) -> bool:
        """Whether a snapshot of ``vm_id`` is being made."""
        return vm_id in self._makings

    async def report(self, vm_id: str) -> SnapshotReport:
        """Say how the "ready" snapshot of ``vm_id`` is. Raises NotFound."""
        if vm_id in self._makings:
            return SnapshotReport(vm_id=vm_id, state="making")
        size = await asyncio.to_thread(self._shelf.size, vm_id, "ready")
        if size is not None:
            return SnapshotReport(vm_id=vm_id, state="made", size_bytes=size)
        if vm_id in self._failures:
            return SnapshotReport(vm_id=vm_id, state="failed", error=self._failures[vm_id])
        raise NotFound(f"no snapshot of VM {vm_id} on this host")

    def order(self, order: VmOrder) -> None:
        """Have a "ready" snapshot made; facts tell how it went.

        Raises:
            InvalidRequest: there can be none of such a VM.
            NotFound: the image is not here.
        """
        image = self._check(order)
        self._spawn(self._tell(order, image))

    async def ready(self, order: VmOrder, image: Image) -> Snapshot:
        """Return the "ready" snapshot for a start of ``order``, made first if need be.

        For one that is ``fork_of`` another VM, that VM's, which must be there.

        Raises:
            InvalidRequest, NotFound, Conflict: there is none that fits.
            CakeworkError: it could not be made.
        """
        self._check(order)
        if order.fork_of is not None:
            making = self._makings.get(order.fork_of)
            if making is not None:
                await asyncio.wait({making})
            return await self._of_another(order, order.fork_of, image)
        found = await self._find("ready", order, image)
        if found is None:
            await self._made(order, image)
            found = await self._find("ready", order, image)
        if found is None:
            raise Unavailable("the snapshot was gone before it was used")
        return found

    async def take_kept(self, order: VmOrder, image: Image) -> Snapshot | None:
        """Return the memory that a stop of this VM kept, if it fits; no other start will get it."""
        if not self._shelf.has(order.vm_id, "kept"):
            return None
        found = await self._find("kept", order, image)
        if found is None:
            return None
        try:
            return await unbroken(asyncio.to_thread(self._shelf.use_up, found))
        except FileNotFoundError:
            # It gave way to what its account keeps besides, just now.
            return None

    async def used(self, kept: Snapshot) -> None:
        """The machine has what it needs of kept memory."""
        await asyncio.to_thread(self._shelf.clear, kept)

    def environment(self, order: VmOrder, image: Image) -> str:
        """Return a digest of what a program of ``order`` is started with."""
        return self._seal.digest(environment(order, image))

    async def taken(self, vm_id: str, snapshot_id: str) -> int | None:
        """Return the bytes of the snapshot that was taken of ``vm_id`` by the order of that id;
        None if the VM has none, or another."""
        return await asyncio.to_thread(self._shelf.taken, vm_id, snapshot_id)

    async def check_taking(self, order: VmOrder, machine: Machine) -> None:
        """Raise if no "ready" snapshot can be taken of a VM that runs.

        Raises:
            InvalidRequest: it has a volume.
            Conflict: nobody knows what it could be restored with.
            NotFound: its image is gone.
            NoRoom: the disk is short of space.
            QuotaExceeded: the account has as many snapshots as it may.
        """
        self._check(order)
        self._room.check_disk()
        await asyncio.to_thread(self._shelf.check, order.owner)
        if not machine.record.environment:
            raise Conflict("it began with memory that was kept, or with an earlier node")
        if machine.record.template != self._workshop.fingerprint(order.shape):
            raise Conflict("it was started with another kernel, guest or QEMU than are here now")

    async def take(self, order: VmOrder, machine: Machine, lines: int, snapshot_id: str) -> Saved:
        """Take a machine whose program is frozen as its VM's "ready" snapshot, in place of one that
        is there; a fact tells it. Return it as what machines are restored from.

        Raises CakeworkError.
        """
        taking = self._spawn(self._take(order, machine, lines, snapshot_id))
        self._makings[order.vm_id] = taking
        taking.add_done_callback(lambda _: self._makings.pop(order.vm_id, None))
        try:
            await asyncio.wait({taking})
        finally:
            # What is half saved of a machine must not be looked at when that goes on.
            taking.cancel()
            await asyncio.wait({taking})
        if taking.cancelled():
            raise Unavailable("the snapshot was given up")
        taking.result()
        spec = self._workshop.spec(order.shape)
        folder = self._shelf.folder_of(order.vm_id, "ready")
        return Saved(folder, spec, lines, self._image(order.image_id).rootfs)

    async def keep(self, machine: Machine, order: VmOrder, lines: int) -> None:
        """Keep the memory of a machine whose program is frozen. Raises CakeworkError."""
        self._room.check_disk()
        await asyncio.to_thread(self._shelf.check, order.owner)
        image = self._image(order.image_id)
        template = await self._workshop.template(order.shape)
        try:
            with self._shelf.making(template.spec, lines) as target:
                await machine.save(target)
                step(Step.NODE_SNAPSHOT_SAVED)
                # The environment is in the memory, and the node has forgotten it.
                needs = self._needs(order, image, kept=True)
                put = partial(self._shelf.put, "kept", order.vm_id, order.owner, needs, target)
                await asyncio.to_thread(put)
        except OSError as error:
            raise Unavailable(f"the memory could not be kept: {error}") from error

    async def drop_kept(self, vm_id: str) -> None:
        """Forget memory that was kept of a VM that goes on, or whose volume went."""
        await asyncio.to_thread(self._shelf.remove, vm_id, "kept")

    async def drop_ready(self, snapshot: Snapshot, why: str) -> None:
        """Remove a snapshot that no machine can be restored from."""
        log.warning("snapshot.not_used", vm_id=snapshot.vm_id, snapshot="ready", reason=why)
        self._pool.forget(snapshot.folder)
        await asyncio.to_thread(self._shelf.remove, snapshot.vm_id, "ready")

    async def remove(self, vm_id: str) -> None:
        """Remove all that there is of ``vm_id``; one being made is given up."""
        if (making := self._makings.get(vm_id)) is not None:
            making.cancel()
            await asyncio.wait({making})
        self._failures.pop(vm_id, None)
        for folder in await asyncio.to_thread(self._shelf.remove_all, vm_id):
            self._pool.forget(folder)

    async def made_or_given_up(self, vm_id: str) -> None:
        """Return when no snapshot of ``vm_id`` is being made."""
        if (making := self._makings.get(vm_id)) is not None:
            await asyncio.wait({making})

    async def close(self) -> None:
        """Give up what is being made."""
        while self._tasks:
            for task in self._tasks:
                task.cancel("closing")
            await asyncio.wait(set(self._tasks))

    async def _tell(self, order: VmOrder, image: Image) -> None:
        vm_id = order.vm_id
        try:
            found = await self._find("ready", order, image)
            size = found.size_bytes if found else await self._made(order, image)
        except NoRoom as error:
            # Whoever ordered it finds none, and orders it again.
            log.info("snapshot.no_room", vm_id=vm_id, reason=error.detail)
        except CakeworkError as error:
            self._failures[vm_id] = error.detail
            self._journal.append(SnapshotFailed(at_ms=_now_ms(), vm_id=vm_id, error=error.detail))
        except Exception:
            log.exception("snapshot.fault", vm_id=vm_id)
            why = "a fault of the platform"
            self._failures[vm_id] = why
            self._journal.append(SnapshotFailed(at_ms=_now_ms(), vm_id=vm_id, error=why))
        else:
            self._journal.append(SnapshotMade(at_ms=_now_ms(), vm_id=vm_id, size_bytes=size))

    async def _made(self, order: VmOrder, image: Image) -> int:
        """Make the snapshot, or wait for it to be made; return its size in bytes."""
        making = self._makings.get(order.vm_id)
        if making is None:
            making = self._spawn(self._make(order, image))
            self._makings[order.vm_id] = making
            making.add_done_callback(lambda _: self._makings.pop(order.vm_id, None))
        await asyncio.wait({making})
        if making.cancelled():
            raise Unavailable("the snapshot was given up")
        return making.result()

    async def _make(self, order: VmOrder, image: Image) -> int:
        name = f"snapshot of {order.vm_id}"
        begun = time.perf_counter()
        self._room.take(name, order.shape, order.owner)
        try:
            log.info("snapshot.making", vm_id=order.vm_id)
            self._failures.pop(order.vm_id, None)
            await asyncio.to_thread(self._shelf.check, order.owner)
            template = await self._workshop.template(order.shape)
            needs = self._needs(order, image)
            making = Making(self._host, self._pool, self._journal, self.patience, order, image)
            size = await making.make(template, self._shelf, needs)
        except CakeworkError as error:
            log.warning("snapshot.not_made", vm_id=order.vm_id, reason=error.detail)
            self._failures[order.vm_id] = error.detail
            raise
        finally:
            self._room.give_back(name)
        log.info(
            "snapshot.made",
            vm_id=order.vm_id,
            size_mb=size >> 20,
            seconds=round(time.perf_counter() - begun, 1),
        )
        return size

    async def _take(self, order: VmOrder, machine: Machine, lines: int, snapshot_id: str) -> int:
        vm_id = order.vm_id
        needs = self._needs(order, self._image(order.image_id))
        needs = needs.model_copy(update={"environment": machine.record.environment})
        folder = self._shelf.folder_of(vm_id, "ready")
        # Machines of one that was there are not what starts are about to find.
        self._pool.forget(folder)
        try:
            with self._shelf.making(self._workshop.spec(order.shape), lines) as target:
                await machine.save(target)
                step(Step.NODE_SNAPSHOT_SAVED)
                owner = order.owner
                put = partial(self._shelf.put, "ready", vm_id, owner, needs, target, snapshot_id)
                size = await unbroken(asyncio.to_thread(put))
        except OSError as error:
            raise Unavailable(f"the snapshot could not be written: {error}") from error
        finally:
            self._pool.forget(folder)
        self._failures.pop(vm_id, None)
        self.tell_taken(vm_id, size)
        return size

    def tell_taken(self, vm_id: str, size: int) -> None:
        """Tell that a snapshot was taken of a VM as it ran."""
        made = SnapshotMade(at_ms=_now_ms(), vm_id=vm_id, size_bytes=size, vm_runs=True)
        self._journal.append(made)
        step(Step.NODE_SNAPSHOT_TOLD)

    async def _of_another(self, order: VmOrder, source: str, image: Image) -> Snapshot:
        if not self._shelf.has(source, "ready"):
            raise NotFound(f"no snapshot of VM {source} on this host")
        own = order.model_copy(update={"vm_id": source})
        found = await self._get("ready", own, image)
        if found is None:
            raise Conflict(f"the snapshot of VM {source} does not fit the order, or this host")
        if order.account_id and found.account not in ("", source, order.account_id):
            # Memory of one account's is never another's to begin with, whoever orders it. One of
            # an order of an earlier version, which does not say whose it is, is the VM's own.
            raise NotFound(f"no snapshot of VM {source} on this host")
        return found

    async def _find(self, kind: Kind, order: VmOrder, image: Image) -> Snapshot | None:
        """Return the VM's own snapshot; one that does not fit is removed."""
        found = await self._get(kind, order, image)
        if found is None:
            self._pool.forget(self._shelf.folder_of(order.vm_id, kind))
            await asyncio.to_thread(self._shelf.remove, order.vm_id, kind)
        return found

    async def _get(self, kind: Kind, order: VmOrder, image: Image) -> Snapshot | None:
        template = await self._workshop.template(order.shape)
        needs = self._needs(order, image, kept=kind == "kept")
        get = partial(self._shelf.get, kind, order.vm_id, needs, template.spec, image.rootfs)
        return await asyncio.to_thread(get)

    def _needs(self, order: VmOrder, image: Image, *, kept: bool = False) -> Needs:
        env = {} if kept else environment(order, image)
        spec = self._workshop.spec(order.shape)
        volume = self._volumes.path(order.vm_id) if order.volume_gb else None
        return Needs(
            software=self._host.artifacts.digest,
            arguments=tuple(spec.common()),
            template=self._workshop.fingerprint(order.shape),
            processor=_processor() if spec.accelerator == "kvm" else "",
            image_id=order.image_id,
            image=stamp(image.rootfs),
            shape=order.shape,
            port=order.port,
            environment=self._seal.digest(env),
            volume_gb=order.volume_gb,
            volume=stamp(volume) if volume else "",
        )

    def _check(self, order: VmOrder) -> Image:
        if order.volume_gb:
            raise InvalidRequest("a VM with a volume has no snapshot of its program")
        return self._image(order.image_id)

    def _image(self, image_id: str) -> Image:
        try:
            image = self._images.get(image_id)
        except ValueError:
            image = None
        if image is None:
            raise NotFound(f"no image {image_id} on this host")
        return image

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _processor() -> str:
    """Return what tells this host's processor from others that guests could be restored on."""
    lines = CPUINFO.read_text().partition("\n\n")[0].splitlines()
    telling = [
        line
        for line in lines
        if line.startswith(("vendor_id", "cpu family", "model", "stepping", "flags"))
    ]
    return hashlib.sha256("\n".join(telling).encode()).hexdigest()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
