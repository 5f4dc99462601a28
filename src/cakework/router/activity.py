"""Who is busy with which VM: requests at work through this router, and VMs being put to rest.

A VM is put to rest behind a gate: whoever comes meanwhile waits there until it is over, so that
no request goes into a VM that is about to stand still.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager


class Activity:
    """Counts requests under way and remembers when the last ended. Only VMs asked for are in it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Tell time in seconds by ``clock``."""
        self._clock = clock
        self._began = clock()
        self._open: Counter[str] = Counter()
        self._ended: dict[str, float] = {}
        self._gates: dict[str, set[Hashable]] = {}
        self._opened: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def visit(self, vm_id: str, deadline: float) -> AsyncGenerator[None]:
        """Count a request while the block runs; wait before it while a gate is shut.

        Raises:
            TimeoutError: it was at ``deadline`` of the event loop, still.
        """
        while (opened := self._opened.get(vm_id)) is not None:
            async with asyncio.timeout_at(deadline):
                await opened.wait()
        self._open[vm_id] += 1
        try:
            yield
        finally:
            self._open[vm_id] -= 1
            if not self._open[vm_id]:
                del self._open[vm_id]
            self._ended[vm_id] = self._clock()

    def shut(self, vm_id: str, gate: Hashable) -> None:
        """Keep new requests to a VM waiting until ``gate`` is opened, and all others of it."""
        self._gates.setdefault(vm_id, set()).add(gate)
        self._opened.setdefault(vm_id, asyncio.Event())

    def open(self, vm_id: str, gate: Hashable) -> None:
        """Open one gate."""
        gates = self._gates.get(vm_id, set[Hashable]())
        gates.discard(gate)
        if not gates and (opened := self._opened.pop(vm_id, None)) is not None:
            self._gates.pop(vm_id, None)
            opened.set()

    def count(self, vm_id: str) -> int:
        """Return how many requests are under way."""
        return self._open[vm_id]

    def idle_s(self, vm_id: str) -> float:
        """Return for how long none was, as far as is known: at most since this began."""
        if self._open[vm_id]:
            return 0.0
        return self._clock() - self._ended.get(vm_id, self._began)

    def forget(self, vm_id: str) -> None:
        """Forget when the last request to a VM ended: it does not run any more."""
        self._ended.pop(vm_id, None)
