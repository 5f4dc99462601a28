"""Which VM a hostname leads to: a map in memory, kept as the store is.

Routers are told of all of it, and of each change (``server/routers``).
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select

from cakework.domain.ids import VmId
from cakework.domain.vms import VmRole, VmState
from cakework.server.store.database import Database
from cakework.server.store.models import VmRow


@dataclass(frozen=True, slots=True)
class Route:
    """The VM behind a hostname, the port it listens on, its state, and when it
    is to be woken and put to rest.
    """

    vm_id: VmId
    account_id: str
    port: int
    state: VmState
    run: int
    auto_start: bool
    idle_timeout_s: int | None


class Routes:
    """Hostname to VM, for VMs that declared a port and are not destroyed."""

    def __init__(self) -> None:
        """Begin with no route; ``load()`` brings in those of the store."""
        self._by_host: dict[str, Route] = {}
        self._watcher: Callable[[str, Route | None], None] | None = None

    def watch(self, watcher: Callable[[str, Route | None], None] | None) -> None:
        """Have ``watcher`` called with each change from now on: a hostname and its new route."""
        self._watcher = watcher

    def hosts(self) -> list[str]:
        """Return every hostname."""
        return list(self._by_host)

    async def load(self, database: Database) -> None:
        """Bring in every VM of the store."""
        async with database.reading() as session:
            rows = await session.scalars(
                select(VmRow).where(VmRow.port.is_not(None), VmRow.state != VmState.DESTROYED)
            )
            for row in rows:
                self.show(row)

    def find(self, host: str) -> Route | None:
        """Return the route for a Host header (``name`` or ``name:port``); None when unknown."""
        return self._by_host.get(host.partition(":")[0].rstrip(".").lower())

    def idling(self) -> list[Route]:
        """Return the routes of started VMs that are to be put to rest when idle."""
        return [
            route
            for route in self._by_host.values()
            if route.idle_timeout_s is not None and route.state is VmState.STARTED
        ]

    def show(self, row: VmRow) -> None:
        """Take in how a VM now is; to those of functions no hostname leads."""
        if row.role != VmRole.OWN:
            return
        if row.port is None:
            return
        if row.state == VmState.DESTROYED:
            self.remove(row.hostname)
        else:
            route = Route(
                vm_id=VmId(row.id),
                account_id=row.account_id,
                port=row.port,
                state=VmState(row.state),
                run=row.run,
                auto_start=row.auto_start,
                idle_timeout_s=row.idle_timeout_s,
            )
            if self._by_host.get(row.hostname) != route:
                self._by_host[row.hostname] = route
                self._changed(row.hostname, route)

    def remove(self, hostname: str) -> None:
        """Forget a hostname."""
        if self._by_host.pop(hostname, None) is not None:
            self._changed(hostname, None)

    def _changed(self, hostname: str, route: Route | None) -> None:
        if self._watcher is not None:
            self._watcher(hostname, route)
