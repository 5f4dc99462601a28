"""Forks on record: which were made together, and whose snapshots they are being started from."""

from collections.abc import Collection

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.vms import VmState
from cakework.server.store.models import VmRow


async def forked_from(session: AsyncSession, ids: Collection[str]) -> set[str]:
    """Return which of some VMs have forks that are being started from their snapshot."""
    query = select(VmRow.fork_of).where(VmRow.fork_of.in_(ids), VmRow.state == VmState.CREATED)
    return {fork_of for fork_of in await session.scalars(query) if fork_of is not None}


async def made_together(session: AsyncSession, batch: str) -> list[VmRow]:
    """Return the forks of one request that are on record, by id."""
    query = select(VmRow).where(VmRow.fork_batch == batch).order_by(VmRow.id)
    return list(await session.scalars(query))


async def condemn(session: AsyncSession, batch: str | None) -> None:
    """Note that the forks of one request are to be ended: one of them cannot be had."""
    if batch is not None:
        await session.execute(
            update(VmRow).where(VmRow.fork_batch == batch).values(wanted=VmState.DESTROYED)
        )
