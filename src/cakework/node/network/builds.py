"""Networks that builds run on: the public internet at most, never the host or its neighbours."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from cakework.node.network.namespaces import make_build_namespace
from cakework.node.network.rules import Egress
from cakework.node.network.slots import Slots
from cakework.node.territory import Territory


class BuildNetworks:
    """Leases network namespaces to builds."""

    def __init__(self, territory: Territory, slots: Slots, egress: Egress) -> None:
        self._territory = territory
        self._slots = slots
        self._egress = egress

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[str]:
        """Give the path of a network namespace; it goes when the lease ends."""
        slot = self._slots.take()
        try:
            make = partial(make_build_namespace, self._territory, slot, self._egress)
            namespace = await asyncio.to_thread(make)
            try:
                yield namespace.path
            finally:
                namespace.close()
        finally:
            self._slots.give_back(slot)
