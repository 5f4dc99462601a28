"""The idle loop: puts VMs to rest whose idleTimeout has passed without a request.

Their memory is kept, so that the next start goes on where they were. A VM is idle since the last
of: its last request through the router ended, it was first seen started, this server was
started. One that cannot be put to rest goes on, and is looked at again after as long.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from cakework.domain.errors import CakeworkError
from cakework.domain.ids import AccountId
from cakework.server.proxy.activity import Activity
from cakework.server.services.cached_vms import CachedVms
from cakework.server.services.routes import Route, Routes

AT_ONCE = 4
_log = structlog.stdlib.get_logger(__name__)


class IdleLoop:
    """Looks at who is started and who is busy, both in memory."""

    def __init__(
        self,
        routes: Routes,
        activity: Activity,
        cached_vms: CachedVms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at ``routes`` and ``activity``; ``clock`` is that of ``activity``."""
        self._routes = routes
        self._activity = activity
        self._cached_vms = cached_vms
        self._clock = clock
        self._since: dict[tuple[str, int], float] = {}

    async def one_pass(self) -> None:
        """Put to rest whoever is idle by now."""
        now = self._clock()
        routes = self._routes.idling()
        seen = {(route.vm_id, route.run) for route in routes}
        self._since = {key: self._since.get(key, now) for key in seen}
        self._activity.forget({route.vm_id for route in routes})
        turns = asyncio.Semaphore(AT_ONCE)

        async def rest(route: Route) -> None:
            async with turns:
                await self._rest(route)

        await asyncio.gather(*(rest(route) for route in routes if self._is_idle(route)))

    def _is_idle(self, route: Route) -> bool:
        if route.idle_timeout_s is None or self._activity.count(route.vm_id):
            return False
        since = max(
            self._since[route.vm_id, route.run], self._activity.ended(route.vm_id) or -float("inf")
        )
        return self._clock() - since >= route.idle_timeout_s

    async def _rest(self, route: Route) -> None:
        if not self._is_idle(route):
            return
        reason = f"Idle: no request for {route.idle_timeout_s} s. Its memory is kept."
        with self._activity.resting(route.vm_id):
            try:
                await self._cached_vms.suspend(AccountId(route.account_id), route.vm_id, reason)
            except CakeworkError as error:
                self._since[route.vm_id, route.run] = self._clock()
                _log.warning("vm.not_rested", vm_id=route.vm_id, detail=error.detail)
            else:
                _log.info("vm.rested", vm_id=route.vm_id)
