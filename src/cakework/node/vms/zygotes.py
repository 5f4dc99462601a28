"""Zygotes: paused machines that others are forked from, where guests are emulated.

A machine that is restored has a QEMU of its own, which has translated nothing yet: under emulation
that is most of a start. A fork has what its zygote has translated, and shares its memory until it
writes. There is at most one zygote of each template and snapshot:

    of a template    restored, rehearsed; has run nothing of a stranger's, so its forks can each
                     become a user of their own
    of a snapshot    the machine that the snapshot was made of, or one that was restored from it;
                     its forks share its user, as they share their program and their account

With KVM there are none: nothing is translated, and a process that has a virtual machine of KVM's
cannot be forked with it.
"""

import asyncio
import time
from pathlib import Path

import structlog

from cakework.domain.errors import CakeworkError, NoRoom
from cakework.node.vms.host import Host, Network
from cakework.node.vms.machines import Machine, Resting
from cakework.node.vms.releases import Releases
from cakework.node.vms.saved import Saved

RETRY_S = 60.0
log = structlog.get_logger("cakework.node.zygotes")


class Zygotes:
    """The zygotes of a node: of templates as many as are asked for, of snapshots the ``most`` that
    were used last."""

    def __init__(self, host: Host, most: int) -> None:
        self._host = host
        self._most = most
        self._resting: dict[Path, Resting] = {}
        self._locks: dict[Path, asyncio.Lock] = {}
        self._failed: dict[Path, float] = {}
        self._releases = Releases()

    @property
    def memory_mb(self) -> int:
        """What they may come to use."""
        shapes = (zygote.machine.record.shape for zygote in self._resting.values())
        return sum(map(self._host.footprint.mb, shapes))

    def has(self, saved: Saved) -> bool:
        """Whether there is one of ``saved``."""
        return saved.folder in self._resting

    async def fork(
        self,
        saved: Saved,
        image: Path | None = None,
        *,
        forkable: bool = False,
        network: Network = "internet",
    ) -> Machine | None:
        """Return a machine forked from the zygote of ``saved``; None if there is none that can be.

        ``image`` is put behind its image disk if it waits for a program; ``forkable`` it can become
        a zygote itself.

        Raises:
            NoRoom: this host has no room for a machine.
        """
        zygote = self._resting.get(saved.folder)
        if zygote is None:
            return None
        self._resting[saved.folder] = self._resting.pop(saved.folder)
        try:
            return await Machine.fork(self._host, zygote, image, forkable=forkable, network=network)
        except NoRoom:
            raise
        except CakeworkError as error:
            log.warning("zygote.not_forked", reason=error.detail)
            if self._resting.get(saved.folder) is zygote:
                self.forget(saved.folder)
            return None

    async def make(self, saved: Saved) -> None:
        """Make the zygote of ``saved``, unless there is one, or none can be.

        One that could not be made is not tried again for a while.
        """
        if saved.spec.accelerator != "tcg" or (saved.image is not None and not self._most):
            return
        lock = self._locks.setdefault(saved.folder, asyncio.Lock())
        async with lock:
            failed_s = time.monotonic() - self._failed.get(saved.folder, -RETRY_S)
            if saved.folder in self._resting or failed_s < RETRY_S:
                return
            try:
                resting = await self._made(saved)
            except CakeworkError as error:
                log.warning("zygote.not_made", reason=error.detail)
                self._failed[saved.folder] = time.monotonic()
                return
            if self._locks.get(saved.folder) is lock:
                self._keep(saved, resting)
            else:
                # What it was made of was forgotten meanwhile.
                self._releases.begin(resting.machine)

    async def offer(self, saved: Saved, machine: Machine) -> None:
        """Take a machine that is just what ``saved`` is, or release it."""
        try:
            self._keep(saved, await machine.rest(saved.lines))
        except CakeworkError as error:
            log.warning("zygote.not_made", reason=error.detail)
            await machine.release()

    def forget(self, folder: Path) -> None:
        """Release the zygote of what is, or was, in ``folder``, if there is one."""
        self._locks.pop(folder, None)
        self._failed.pop(folder, None)
        zygote = self._resting.pop(folder, None)
        if zygote is not None:
            self._releases.begin(zygote.machine)

    def shrink(self) -> bool:
        """Release the one that is missed least; say whether there was one."""
        of_snapshots = [folder for folder, one in self._resting.items() if not one.as_others]
        for folder in of_snapshots or list(self._resting):
            self.forget(folder)
            return True
        return False

    async def close(self) -> None:
        """Release all."""
        for folder in list(self._resting):
            self.forget(folder)
        await self._releases.finish()

    async def _made(self, saved: Saved) -> Resting:
        of_template = saved.image is None
        forkable = "as others" if of_template else "itself"
        # It runs for a moment, and what is in it may be a stranger's: it reaches nothing.
        machine = await Machine.restore(self._host, saved, forkable=forkable, network="bare")
        try:
            if of_template:
                await machine.rehearse()
            resting = await machine.rest(saved.lines)
        except BaseException:
            await machine.release()
            raise
        return resting

    def _keep(self, saved: Saved, resting: Resting) -> None:
        self.forget(saved.folder)
        self._resting[saved.folder] = resting
        resting.machine.process.when_ended(lambda: self._lost(saved.folder, resting))
        of_snapshots = [folder for folder, one in self._resting.items() if not one.as_others]
        for folder in of_snapshots[: -self._most or None]:
            self.forget(folder)

    def _lost(self, folder: Path, resting: Resting) -> None:
        if self._resting.get(folder) is resting:
            log.warning("zygote.lost", machine=resting.machine.machine_id)
            self.forget(folder)
