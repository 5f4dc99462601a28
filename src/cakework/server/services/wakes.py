"""Wakes: cached VMs with autoStart, started because a request came for them.

However many requests wait, a VM is started once. A program that keeps ending is started again
later and later; a VM that was stopped because somebody wanted that is always woken at once.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import structlog

from cakework.domain.errors import Conflict, NoRoom, NotFound, QuotaExceeded, Unavailable
from cakework.domain.ids import AccountId, VmId
from cakework.domain.vms import STOPPED_ON_REQUEST, VmState
from cakework.server.services.cached_vms import CachedVms
from cakework.server.store.database import Database
from cakework.server.store.free_space import FreeSpace
from cakework.server.store.models import VmRow

WAIT_LAST_S = 60.0
SETTLED_S = 10.0
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a VM was woken in a row without going on for long; ``at`` is the last time."""

    at: float
    failures: int = 0

    @property
    def wait_s(self) -> float:
        """How long after ``at`` it may be woken again."""
        return min(2.0**self.failures, WAIT_LAST_S)

    def has_settled(self, now: float) -> bool:
        """Say whether the VM went on for long enough for all to be forgotten."""
        return now - self.at > self.wait_s + SETTLED_S

    def next(self, now: float) -> "Pace":
        """Return the pace after one more wake."""
        return Pace(now) if self.has_settled(now) else Pace(now, min(self.failures + 1, 10))


class Wakes:
    """Starts VMs for the router. ``close()`` when done."""

    def __init__(
        self,
        database: Database,
        cached_vms: CachedVms,
        space: FreeSpace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start VMs on record in ``database`` through ``cached_vms``, while there is ``space`` for
        what they print; ``clock`` in seconds."""
        self._database = database
        self._cached_vms = cached_vms
        self._space = space
        self._clock = clock
        self._under_way: dict[VmId, asyncio.Task[None]] = {}
        self._paces: dict[VmId, Pace] = {}

    async def wake(self, vm_id: str) -> None:
        """Have a VM started, or wait until it is; whoever waits may leave, the start goes on.

        Raises:
            NotFound: it is destroyed.
            QuotaExceeded, NoRoom: it cannot be started now.
            Unavailable: the node does not answer, or the program has ended too often.
            Conflict: its program ended at once, or the node refused it.
        """
        key = VmId(vm_id)
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._start(key))
            task.add_done_callback(lambda done: self._over(key, done))
        await asyncio.shield(task)

    async def close(self) -> None:
        """End what is under way; what the node has begun is carried on with at the next start."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, vm_id: VmId) -> None:
        async with self._database.reading() as session:
            row = await session.get(VmRow, vm_id)
        if row is None or row.state == VmState.DESTROYED:
            raise NotFound(f"There is no VM {vm_id}.")
        self._space.check()
        if row.memory_kept or row.reason == STOPPED_ON_REQUEST:
            self._paces.pop(vm_id, None)
        self._keep_pace(vm_id)
        began = self._clock()
        try:
            started = await self._cached_vms.start(AccountId(row.account_id), vm_id)
        except (QuotaExceeded, NoRoom, Unavailable):
            raise
        except Exception:
            self._note(vm_id, began)
            raise
        self._note(vm_id, began)
        _log.info("vm.woken", vm_id=vm_id, state=started.row.state)
        if started.row.state == VmState.STOPPED:
            raise Conflict(f"Its program ended at once. {started.row.reason}")

    def _keep_pace(self, vm_id: VmId) -> None:
        now = self._clock()
        self._paces = {key: pace for key, pace in self._paces.items() if not pace.has_settled(now)}
        pace = self._paces.get(vm_id)
        if pace is not None and (left := pace.at + pace.wait_s - now) > 0:
            raise Unavailable(
                "The VM's program ended soon after it was started; it is started again later.",
                retry_after_s=ceil(left),
            )

    def _note(self, vm_id: VmId, now: float) -> None:
        pace = self._paces.get(vm_id)
        self._paces[vm_id] = pace.next(now) if pace else Pace(now)

    def _over(self, vm_id: VmId, task: asyncio.Task[None]) -> None:
        del self._under_way[vm_id]
        if not task.cancelled():
            # Looked at, since everyone who waited may have left.
            task.exception()
