"""Every change of a VM's state, in one place: rows change here, and who watches is told after.

A change applies only where the life of a VM allows it (see domain/vms.py), so an answer that
comes late, or twice, changes nothing.
"""

from collections.abc import Iterable

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.ids import VmId
from cakework.domain.vms import TRANSITIONS, VmState
from cakework.server.clock import Clock
from cakework.server.logs.followers import Followers
from cakework.server.logs.lines import vm_source
from cakework.server.services.routes import Routes
from cakework.server.store.models import VmRow
from cakework.server.store.values import not_before, storable


class VmStates:
    """Changes the state of VMs within a caller's transaction; ``tell()`` after it committed."""

    def __init__(self, routes: Routes, followers: Followers, clock: Clock) -> None:
        """Tell ``routes`` and ``followers`` of changes."""
        self._routes = routes
        self._followers = followers
        self._clock = clock

    async def started(self, session: AsyncSession, vm_id: VmId) -> VmRow | None:
        """Note that the program was started; returns the row, None when there is none."""
        return await self._move(session, vm_id, VmState.STARTED, {})

    async def stopped(
        self,
        session: AsyncSession,
        vm_id: VmId,
        *,
        reason: str,
        exit_code: int | None = None,
        log_complete: bool = False,
    ) -> VmRow | None:
        """Note that the VM is gone, as far as is known; ``ended`` is to follow with the facts.

        ``log_complete`` says that nothing more is to come for its log. Returns the row.
        """
        ending: dict[str, object] = {"reason": storable(reason), "exit_code": exit_code}
        if log_complete:
            ending["log_complete"] = True
        return await self._move(session, vm_id, VmState.STOPPED, ending)

    async def ended(
        self, session: AsyncSession, vm_id: VmId, *, reason: str, exit_code: int | None
    ) -> VmRow | None:
        """Note how the VM ended, by its node's own account, and that its log is whole.

        That replaces what was noted before, whatever state the VM is in by now. Returns the row.
        """
        row = await self.stopped(session, vm_id, reason=reason, exit_code=exit_code)
        if row is not None:
            row.log_complete = True
            row.reason = storable(reason)
            row.exit_code = exit_code
        return row

    async def destroyed(self, session: AsyncSession, vm_id: VmId) -> VmRow | None:
        """Note that the VM is ended for good; its environment is forgotten."""
        gone: dict[str, object] = {"wanted": VmState.DESTROYED, "env": {}}
        return await self._move(session, vm_id, VmState.DESTROYED, gone)

    def tell(self, rows: Iterable[VmRow | None]) -> None:
        """Show rows, as they were committed, to everyone who watches."""
        for row in rows:
            if row is not None:
                self._routes.show(row)
                self._followers.wake([vm_source(row.id)])

    async def _move(
        self, session: AsyncSession, vm_id: VmId, target: VmState, values: dict[str, object]
    ) -> VmRow | None:
        sources = [state for state, targets in TRANSITIONS.items() if target in targets]
        row = await session.scalar(
            update(VmRow)
            .where(VmRow.id == vm_id, VmRow.state.in_(sources))
            .values(state=target, updated_ms=not_before(VmRow.updated_ms, self._clock()), **values)
            .returning(VmRow)
            .execution_options(populate_existing=True)
        )
        return row if row is not None else await session.get(VmRow, vm_id)
