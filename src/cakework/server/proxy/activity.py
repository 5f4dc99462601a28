"""Who is busy with which VM: requests at work through the router, and VMs being put to rest.

A VM is put to rest behind a gate: whoever comes meanwhile waits there until it is over, so that
no request goes into a VM that is about to stand still.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager


class Activity:
    """Counts requests under way and remembers when the last ended. Only VMs asked for are in it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Tell time in seconds by ``clock``."""
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._ended: dict[str, float] = {}
        self._resters: Counter[str] = Counter()
        self._rested: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def visit(self, vm_id: str) -> AsyncGenerator[None]:
        """Count a request while the block runs; wait before it while the VM is put to rest."""
        while (over := self._rested.get(vm_id)) is not None:
            await over.wait()
        self._open[vm_id] += 1
        try:
            yield
        finally:
            self._open[vm_id] -= 1
            if not self._open[vm_id]:
                del self._open[vm_id]
            self._ended[vm_id] = self._clock()

    @contextmanager
    def resting(self, vm_id: str) -> Generator[None]:
        """Keep new requests waiting while the block puts the VM to rest."""
        over = self._rested.setdefault(vm_id, asyncio.Event())
        self._resters[vm_id] += 1
        try:
            yield
        finally:
            self._resters[vm_id] -= 1
            if not self._resters[vm_id]:
                del self._resters[vm_id], self._rested[vm_id]
                over.set()

    def count(self, vm_id: str) -> int:
        """Return how many requests are under way."""
        return self._open[vm_id]

    def ended(self, vm_id: str) -> float | None:
        """Return when, by the clock, the last request ended; None when there was none."""
        return self._ended.get(vm_id)

    def forget(self, vm_ids: set[str]) -> None:
        """Forget when the last requests of all but ``vm_ids`` ended."""
        self._ended = {vm_id: at for vm_id, at in self._ended.items() if vm_id in vm_ids}
