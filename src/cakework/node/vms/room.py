"""Room on the host: what may be promised to VMs, and what is done when a disk fills after all.

Memory and processors are promised when a VM is admitted, or the making of a snapshot. Disks are
sparse and promise more than there is, so free space is watched: short of it, no VM is admitted;
when it runs out, the account gives way that has taken most, kept volumes included, so that host and
neighbours can go on: memory that was kept of its VMs goes, without which they can start, and if
there is none its largest VM is ended. A kept volume stays, so that this may free little; others are
then ended only if it gets worse still.

Of what others have not been promised, one account gets at most its share, so that there is always
something for who comes next; and one machine, if there is room for it at all.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from cakework.domain.errors import NoRoom, QuotaExceeded
from cakework.domain.vms import Shape
from cakework.node.cleanup import cleanup
from cakework.node.free_space import least_for_vms_mb
from cakework.node.listing import entries, if_there

RETRY_AFTER_S = 5
WATCH_EVERY_S = 2.0
VOLUME = "volume"
"""Name that a VM's volume has in the folder of its disks."""
QEMU_MB = {"kvm": 64, "tcg": 160}
"""What a QEMU may come to take for itself, beside its guest's memory: under emulation most of it is
what it has translated, for which qemu.TRANSLATION_CACHE_MB is the bound."""
WAITING_MB = 32
"""What a machine that waits, paused, takes: it grows no more. Measured under emulation: 2 MB for
one that was forked, 16 for one that was restored."""
log = structlog.get_logger("cakework.node.room")


@dataclass(slots=True)
class Footprint:
    """What machines may come to take of a host's memory.

    As long as nobody knows how it runs guests, that is what they take under emulation: more.
    """

    accelerator: str = "tcg"

    def mb(self, shape: Shape) -> int:
        """Return what a machine of ``shape`` may come to take."""
        return shape.memory_mb + QEMU_MB[self.accelerator]


class KeptMemory(Protocol):
    """Memory that was kept of VMs, for their next start: see :mod:`.shelf`."""

    async def sizes(self) -> Mapping[str, int]:
        """Return the bytes that it takes of each account that has any."""
        ...

    async def drop_oldest(self, account: str) -> None:
        """Forget what was kept first of an account's."""
        ...


@dataclass(frozen=True, slots=True)
class _Promise:
    shape: Shape
    account: str


@dataclass(slots=True)
class Room:
    """The bounds of one host: ``memory_mb`` and ``cpus`` that may be promised, free space that is
    kept on ``folder``, and the ``share`` that one account may have."""

    folder: Path
    memory_mb: int
    min_free_disk_mb: int
    cpus: float = float("inf")
    footprint: Footprint = field(default_factory=Footprint)
    share: float = 1.0
    when_changed: Callable[[int], None] = lambda _: None
    """Told how much memory is not promised to anybody, whenever that changes."""
    _promised: dict[str, _Promise] = field(default_factory=dict[str, _Promise])

    @property
    def promised_mb(self) -> int:
        """The memory that is promised."""
        return sum(self.footprint.mb(each.shape) for each in self._promised.values())

    @property
    def free_mb(self) -> int:
        """The memory that is promised to nobody."""
        return self.memory_mb - self.promised_mb

    def take(self, name: str, shape: Shape, account: str = "") -> None:
        """Promise ``name`` what a machine of ``shape`` needs, which is ``account``'s: no tenant's
        if empty.

        Raises:
            NoRoom: there is not as much.
            QuotaExceeded: it would be more than one account may have.
        """
        wanted_mb = self.footprint.mb(shape)
        promised_mb = self.promised_mb
        if promised_mb + wanted_mb > self.memory_mb:
            raise NoRoom(
                f"the host's memory is promised to other VMs ({promised_mb} of "
                f"{self.memory_mb} MB)",
                retry_after_s=RETRY_AFTER_S,
            )
        promised = sum(each.shape.cpu for each in self._promised.values())
        if promised + shape.cpu > self.cpus:
            raise NoRoom(
                "the host's processors are promised to other VMs", retry_after_s=RETRY_AFTER_S
            )
        own = [
            each.shape for each in self._promised.values() if account and each.account == account
        ]
        if own:
            own_mb, own_cpus = sum(map(self.footprint.mb, own)), sum(each.cpu for each in own)
            for what, has, wants, bound in (
                ("memory", own_mb, wanted_mb, self.memory_mb - promised_mb + own_mb),
                ("processors", own_cpus, shape.cpu, self.cpus - promised + own_cpus),
            ):
                if has + wants > self.share * bound:
                    raise QuotaExceeded(
                        f"the account's VMs have as much of the host's {what} as one account's may",
                        retry_after_s=RETRY_AFTER_S,
                    )
        self.check_disk()
        self.hold(name, shape, account)

    def check_disk(self) -> None:
        """Raise NoRoom if the disk is short of the space that is to be kept."""
        if self.free_disk_mb() < self.min_free_disk_mb:
            raise NoRoom("the host's disk is full", retry_after_s=RETRY_AFTER_S)

    def hold(self, name: str, shape: Shape, account: str = "") -> None:
        """Promise what is used already, whether it fits or not."""
        self._promised[name] = _Promise(shape, account)
        self.when_changed(self.free_mb)

    def give_back(self, name: str) -> None:
        """What was promised to ``name`` is free again."""
        self._promised.pop(name, None)
        self.when_changed(self.free_mb)

    def free_disk_mb(self) -> int:
        """Return the free space of the disk that VMs write to."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize >> 20

    async def watch_disk(
        self,
        disks: Callable[[], Mapping[str, Path]],
        end: Callable[[str, str], Awaitable[None]],
        kept: KeptMemory,
    ) -> None:
        """For ever: while less is free than VMs may go on with, have the account give way that has
        taken most: forget memory that was ``kept`` of its VMs, or else end its largest.

        ``disks`` gives the folder that holds each VM's disks; ``end`` takes a VM's id and why.
        """
        shortage = Shortage(least_for_vms_mb(self.min_free_disk_mb))
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            if not shortage.asks_for_one(self.free_disk_mb()):
                continue
            with cleanup("full disk"), shortage.met():
                await self._make_room(disks(), end, kept, shortage)

    async def _make_room(
        self,
        disks: Mapping[str, Path],
        end: Callable[[str, str], Awaitable[None]],
        kept: KeptMemory,
        shortage: "Shortage",
    ) -> None:
        sizes = {vm_id: taken(folder) for vm_id, folder in disks.items()}
        by_account = Counter(await kept.sizes())
        has_kept = set(by_account)
        for vm_id, size in sizes.items():
            by_account[self._whose(vm_id)] += size
        if not by_account:
            log.warning("disk.full", effect="no VM runs that could be ended")
            return
        account = max(by_account, key=lambda account: by_account[account])
        if account in has_kept:
            await kept.drop_oldest(account)
            # No VM was ended for it, so that the next look asks for more if it was too little.
            shortage.worst_mb = None
            return
        own = [vm_id for vm_id in sizes if self._whose(vm_id) == account]
        largest = max(own, key=lambda vm_id: sizes[vm_id])
        log.warning("disk.full", vm_id=largest, taken_mb=sizes[largest] >> 20)
        await end(largest, "the host's disk was full, and this VM's account had taken most of it")

    def _whose(self, vm_id: str) -> str:
        promise = self._promised.get(vm_id)
        return promise.account if promise else vm_id


@dataclass(slots=True)
class Shortage:
    """Says when a VM is to be ended for the disk: ``enough_mb`` of free space is enough.

    Ending one may free little. Another is asked for only when half of what was free then is
    gone too, or all of it: else one volume that stays would end every VM of the host.
    """

    enough_mb: int
    worst_mb: int | None = None

    @contextmanager
    def met(self) -> Generator[None]:
        """Within, one is ended; if that fails, the next look asks for one again."""
        try:
            yield
        except BaseException:
            self.worst_mb = None
            raise

    def asks_for_one(self, free_mb: int) -> bool:
        """Take in how much is free now; say whether a VM is to be ended for it."""
        if free_mb >= self.enough_mb:
            self.worst_mb = None
            return False
        if self.worst_mb is not None and free_mb > self.worst_mb:
            return False
        self.worst_mb = free_mb // 2
        return True


def taken(folder: Path) -> int:
    """Return the bytes that a VM's disks in ``folder`` take on the host's, holes left out.

    Its image is many VMs', known by its links; a kept volume has two names and is its own.
    """
    return sum(map(_taken_by, entries(folder)))


def _taken_by(file: Path) -> int:
    with if_there():
        info = file.stat()
        return info.st_blocks * 512 if info.st_nlink == 1 or file.name == VOLUME else 0
    return 0
