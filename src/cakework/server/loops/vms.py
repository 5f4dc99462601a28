"""The VM loop: makes the node's VMs those of the records.

| on record | on the node | done |
|---|---|---|
| wanted gone, not yet destroyed | any | ended, its volume freed, then recorded destroyed |
| wanted stopped, created or started | any | ended, then recorded stopped |
| created, nobody at work on it | any | order given (again); its answer recorded |
| created or started | stopped | recorded stopped |
| started | unknown in two passes running | recorded stopped: the node lost it |
| none, or destroyed | starting or started | ended: nothing claims it |

What the node has is asked for before the records are read, so every VM it can name was on
record by then. What it runs to make a snapshot (run 0) is not the business of this loop.
"""

import structlog
from sqlalchemy import select

from cakework.domain.errors import CakeworkError, Unavailable
from cakework.domain.ids import VmId
from cakework.domain.orders import VmReport
from cakework.domain.vms import EndCause, Ending, VmState
from cakework.server.node.client import NodeClient
from cakework.server.services.cached_vms import LOST, CachedVms
from cakework.server.services.vm_states import VmStates
from cakework.server.services.vms import Vms
from cakework.server.store.database import Database
from cakework.server.store.models import VmRow

_log = structlog.stdlib.get_logger(__name__)
_LIVE = (VmState.CREATED, VmState.STARTED)


_Run = tuple[str, int]


class VmLoop:
    """Compares the records of VMs with the node and does what is missing."""

    def __init__(
        self,
        database: Database,
        node: NodeClient,
        states: VmStates,
        vms: Vms,
        cached_vms: CachedVms,
    ) -> None:
        """Compare ``database`` with ``node``."""
        self._database = database
        self._node = node
        self._states = states
        self._vms = vms
        self._cached_vms = cached_vms
        self._missing: set[_Run] = set()

    async def one_pass(self) -> None:
        """Compare once. One VM that cannot be seen to does not hold up the others."""
        reports = {VmId(report.vm_id): report for report in await self._node.vms() if report.run}
        rows = await self._unsettled()
        missing = {
            _run(row) for row in rows if row.state == VmState.STARTED and row.id not in reports
        }
        twice_missing = missing & self._missing
        self._missing = missing
        for row in rows:
            await self._guarded(row, reports.get(VmId(row.id)), _run(row) in twice_missing)
        await self._reap(reports, {VmId(row.id) for row in rows})

    async def _unsettled(self) -> list[VmRow]:
        ending = (VmRow.wanted == VmState.DESTROYED) & (VmRow.state != VmState.DESTROYED)
        query = select(VmRow).where(VmRow.state.in_(_LIVE) | ending)
        async with self._database.reading() as session:
            return list(await session.scalars(query))

    async def _guarded(self, row: VmRow, report: VmReport | None, lost: bool) -> None:
        vm_id = VmId(row.id)
        if self._vms.claims.held(vm_id):
            return
        try:
            async with self._vms.claims.hold(vm_id):
                if await self._is_current(row):
                    await self._settle(row, report, lost)
        except Unavailable:
            raise
        except CakeworkError as error:
            _log.warning("vm.not_settled", vm_id=vm_id, code=error.code, detail=error.detail)

    async def _is_current(self, row: VmRow) -> bool:
        """Say whether the record is still as it was read, before others were seen to."""
        if row.state == row.wanted == VmState.STARTED:
            return True
        async with self._database.reading() as session:
            now = await session.get(VmRow, row.id)
        return now is not None and _version(now) == _version(row)

    async def _settle(self, row: VmRow, report: VmReport | None, lost: bool) -> None:
        live = row.state in _LIVE
        if row.wanted == VmState.DESTROYED:
            await self._vms.destroy(row)
        elif row.wanted == VmState.STOPPED and live:
            await self._cached_vms.end_run(row)
        elif row.state == VmState.CREATED:
            _log.info("vm.taken_up", vm_id=row.id)
            await self._vms.give_order(row)
        elif report is not None and report.state == "stopped":
            await self._vms.record_report(report)
        elif lost:
            _log.warning("vm.lost_by_node", vm_id=row.id)
            await self._record_lost(row)

    async def _record_lost(self, lost: VmRow) -> None:
        async with self._database.writing() as session:
            row = await self._states.stopped(
                session,
                VmId(lost.id),
                lost.run,
                Ending(LOST, cause=EndCause.LOST),
                log_complete=True,
            )
        self._states.tell([row])

    async def _reap(self, reports: dict[VmId, VmReport], unsettled: set[VmId]) -> None:
        live = {vm_id for vm_id, report in reports.items() if report.state != "stopped"}
        suspects = {vm_id for vm_id in live - unsettled if not self._vms.claims.held(vm_id)}
        if not suspects:
            return
        query = select(VmRow.id).where(VmRow.id.in_(suspects), VmRow.state.in_(_LIVE))
        async with self._database.reading() as session:
            claimed = {VmId(vm_id) for vm_id in await session.scalars(query)}
        for vm_id in suspects - claimed:
            _log.warning("vm.reaped", vm_id=vm_id)
            await self._vms.end_on_node(vm_id)


def _run(row: VmRow) -> _Run:
    return row.id, row.run


def _version(row: VmRow) -> tuple[str, str, int]:
    return row.state, row.wanted, row.run
