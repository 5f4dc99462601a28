"""Every change of a snapshot's state, in one place; see domain/snapshots.py for its life."""

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.facts import SnapshotFailed, SnapshotMade
from cakework.domain.ids import VmId
from cakework.domain.snapshots import SnapshotKind, SnapshotState
from cakework.domain.vms import VmState
from cakework.server.clock import Clock
from cakework.server.store.models import VmRow
from cakework.server.store.values import not_before, storable


class SnapshotStates:
    """Changes what is known of snapshots within a caller's transaction.

    Each returns the VM's row, None when it has no snapshot any more; ``VmStates.tell()`` shows
    it to who watches, after the commit.
    """

    def __init__(self, clock: Clock) -> None:
        """Stamp changes by ``clock``."""
        self._clock = clock

    async def apply(
        self, session: AsyncSession, fact: SnapshotMade | SnapshotFailed
    ) -> VmRow | None:
        """Note what the node says of a snapshot; said again it changes nothing."""
        if isinstance(fact, SnapshotFailed):
            return await self.failed(session, VmId(fact.vm_id), fact.error)
        return await self.made(session, VmId(fact.vm_id))

    async def made(self, session: AsyncSession, vm_id: VmId) -> VmRow | None:
        """Note that the snapshot is there."""
        return await self._set(session, vm_id, SnapshotState.MADE, None)

    async def failed(self, session: AsyncSession, vm_id: VmId, error: str) -> VmRow | None:
        """Note that the snapshot could not be made, and why."""
        return await self._set(session, vm_id, SnapshotState.FAILED, storable(error))

    async def lost(self, session: AsyncSession, vm_id: VmId) -> VmRow | None:
        """Note that the host has the snapshot no more: it is to be made anew."""
        return await self._set(session, vm_id, SnapshotState.MAKING, None)

    async def _set(
        self, session: AsyncSession, vm_id: VmId, state: SnapshotState, error: str | None
    ) -> VmRow | None:
        has_one = (VmRow.snapshot == SnapshotKind.READY) & (VmRow.state != VmState.DESTROYED)
        return await session.scalar(
            update(VmRow)
            .where(VmRow.id == vm_id, has_one)
            .values(
                snapshot_state=state,
                snapshot_error=error,
                updated_ms=not_before(VmRow.updated_ms, self._clock()),
            )
            .returning(VmRow)
            .execution_options(populate_existing=True)
        )
