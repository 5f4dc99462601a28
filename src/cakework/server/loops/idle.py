"""The idle loop: puts VMs to rest whose idleTimeout has passed without a request.

Their memory is kept, so that the next start goes on where they were. A VM is idle since the last
of: its last request through a router ended, it was first seen started, this server or a router
was started. One that cannot be put to rest goes on, and is looked at again after as long. While
there is no router, nobody can say, and nothing is put to rest.

A VM may take as long as its hook may, and of one account there may be hundreds: so accounts take
turns, and a pass that has gone on for a while leaves what it has not begun with to the next, which
looks anew at who is idle.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from cakework.domain.errors import CakeworkError
from cakework.domain.ids import AccountId
from cakework.server.routers.gates import Gates
from cakework.server.services.cached_vms import CachedVms
from cakework.server.services.routes import Route, Routes
from cakework.turns import Turns

AT_ONCE = 4
PASS_S = 2.0
_log = structlog.stdlib.get_logger(__name__)


class IdleLoop:
    """Looks at who is started, and asks the routers who is busy."""

    def __init__(
        self,
        routes: Routes,
        gates: Gates,
        cached_vms: CachedVms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at ``routes``, ask through ``gates``; ``clock`` tells seconds."""
        self._routes = routes
        self._gates = gates
        self._cached_vms = cached_vms
        self._clock = clock
        self._since: dict[tuple[str, int], float] = {}

    async def one_pass(self) -> None:
        """Put to rest whoever is idle by now."""
        now = self._clock()
        routes = self._routes.idling()
        seen = {(route.vm_id, route.run) for route in routes}
        self._since = {key: self._since.get(key, now) for key in seen}
        turns: Turns[str] = Turns(AT_ONCE)

        async def rest(route: Route, idle_timeout_s: int) -> None:
            async with turns.hold(route.account_id):
                if self._clock() < now + PASS_S:
                    await self._rest(route, idle_timeout_s)

        await asyncio.gather(
            *(
                rest(route, route.idle_timeout_s)
                for route in routes
                if route.idle_timeout_s is not None and self._may_be_idle(route)
            )
        )

    def _may_be_idle(self, route: Route) -> bool:
        """Whether it may be by now, by what is known here: the routers know more."""
        since = self._since[route.vm_id, route.run]
        return self._clock() - since >= (route.idle_timeout_s or 0)

    async def _rest(self, route: Route, idle_timeout_s: int) -> None:
        key = (route.vm_id, route.run)
        async with self._gates.shut_if_idle(route.vm_id, idle_timeout_s) as idle_s:
            if idle_s is not None:
                self._since[key] = max(self._since[key], self._clock() - idle_s)
                return
            reason = f"Idle: no request for {idle_timeout_s} s. Its memory is kept."
            try:
                await self._cached_vms.suspend(AccountId(route.account_id), route.vm_id, reason)
            except CakeworkError as error:
                self._since[key] = self._clock()
                _log.warning("vm.not_rested", vm_id=route.vm_id, detail=error.detail)
            else:
                _log.info("vm.rested", vm_id=route.vm_id)
