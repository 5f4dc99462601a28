"""The snapshot loop: has the node make the snapshots that are on record as being made.

| on record | on the node | done |
|---|---|---|
| making | nothing | order given (again); nothing while the VM runs |
| making | making | nothing: a fact will come, or the next pass will see |
| making | made, or failed | recorded so |

The node's facts say the same, sooner; this loop finds out what facts that are lost would have
said. A VM that is about to be destroyed gets none any more. One that was started before the
order was given has its snapshot made by that start, of which no fact tells.
"""

import structlog
from sqlalchemy import select

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    NoRoom,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from cakework.domain.ids import VmId
from cakework.domain.snapshots import SnapshotState
from cakework.domain.vms import VmRole, VmState
from cakework.server.node.client import NodeClient
from cakework.server.services.snapshot_states import SnapshotStates
from cakework.server.services.vm_orders import VmOrders, refusal
from cakework.server.services.vm_states import VmStates
from cakework.server.store.database import Database
from cakework.server.store.models import VmRow

_log = structlog.stdlib.get_logger(__name__)


class SnapshotLoop:
    """Compares the records of snapshots with the node and has made what is missing."""

    def __init__(
        self,
        database: Database,
        node: NodeClient,
        orders: VmOrders,
        snapshots: SnapshotStates,
        vms: VmStates,
    ) -> None:
        """Compare ``database`` with ``node``; ``vms`` tells who watches."""
        self._database = database
        self._node = node
        self._orders = orders
        self._snapshots = snapshots
        self._vms = vms

    async def one_pass(self) -> None:
        """Compare once. One snapshot that cannot be seen to does not hold up the others."""
        query = select(VmRow).where(
            VmRow.snapshot_state == SnapshotState.MAKING,
            VmRow.wanted != VmState.DESTROYED,
            # That of a version is made of the VM as it runs (functions/deploys.py).
            VmRow.role != VmRole.VERSION,
        )
        async with self._database.reading() as session:
            rows = list(await session.scalars(query))
        for row in rows:
            await self._settle(row)

    async def _settle(self, row: VmRow) -> None:
        vm_id = VmId(row.id)
        try:
            report = await self._node.find_snapshot(vm_id)
        except NotFound:
            await self._order(row)
            return
        if report.state == "made":
            await self._record(vm_id, None)
        elif report.state == "failed":
            await self._record(vm_id, report.error or "The node does not say why.")

    async def _order(self, row: VmRow) -> None:
        try:
            await self._node.make_snapshot(await self._orders.snapshot_order_of(row))
        except (Conflict, NoRoom, QuotaExceeded, Unavailable) as error:
            # A conflict is that the VM runs: the start makes the snapshot, or its end lets us.
            _log.info("snapshot.waits", vm_id=row.id, detail=error.detail)
        except CakeworkError as error:
            await self._record(VmId(row.id), refusal(error).detail)

    async def _record(self, vm_id: VmId, error: str | None) -> None:
        async with self._database.writing() as session:
            if error is None:
                row = await self._snapshots.made(session, vm_id)
            else:
                row = await self._snapshots.failed(session, vm_id, error)
        self._vms.tell([row])
