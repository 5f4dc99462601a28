"""Networks of VMs made ahead of demand: so a start beyond the pool does not wait for one.

To make one takes 9 ms, most of it in the kernel; half of what the node spends on a fork. No process
is in a spare one: it lives by the node's descriptor alone, and is gone with the node.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from cakework.domain.errors import NoRoom
from cakework.node.network.namespaces import Namespace
from cakework.node.network.slots import Slots
from cakework.node.quiet import Quiet
from cakework.unbroken import unbroken

RETRY_S = 10.0
log = structlog.get_logger("cakework.node.network")


class Spares:
    """Namespaces that wait for a machine, at most ``size``, each with the slot that it is for.

    ``make`` makes that of a slot, in a thread. They are made while no start is under way.
    """

    def __init__(
        self, make: Callable[[int], Namespace], slots: Slots, quiet: Quiet, size: int = 0
    ) -> None:
        self.make = make
        self._slots = slots
        self._quiet = quiet
        self._size = size
        self._ready: deque[Namespace] = deque()
        self._wanted = asyncio.Event()
        self._wanted.set()
        slots.when_short = self._give_up_one

    @property
    def ready(self) -> int:
        """How many wait."""
        return len(self._ready)

    def take(self) -> Namespace | None:
        """Take one, the longest waiting first, and with it its slot; None if there is none."""
        if not self._ready:
            return None
        self._wanted.set()
        return self._ready.popleft()

    async def fill(self) -> None:
        """Keep as many as there are to be, for ever."""
        while True:
            await self._wanted.wait()
            await self._quiet.wait()
            if len(self._ready) >= self._size:
                self._wanted.clear()
                continue
            try:
                await unbroken(self._add())
            except (NoRoom, OSError) as error:
                log.warning("network.not_made_ahead", reason=str(error))
                await asyncio.sleep(RETRY_S)
            except Exception:
                log.exception("network.fault")
                await asyncio.sleep(RETRY_S)

    def close(self) -> None:
        """Let go of all; the kernel takes them."""
        while self._ready:
            self._give_up_one()

    def _give_up_one(self) -> None:
        if self._ready:
            spare = self._ready.popleft()
            spare.close()
            self._slots.give_back(spare.slot)

    async def _add(self) -> None:
        slot = self._slots.take_free()
        try:
            spare = await asyncio.to_thread(self.make, slot)
        except BaseException:
            self._slots.give_back(slot)
            raise
        self._ready.append(spare)
