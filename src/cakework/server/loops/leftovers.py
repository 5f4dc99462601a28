"""The leftover loop: removes from the node what the records say is gone for good.

| on the node | on record | done |
|---|---|---|
| image file | image deleted; or its build failed or was cancelled; or its import failed | removed |
| kept volume | its VM destroyed | removed |
| snapshot, kept memory | its VM destroyed, and no fork being started from it | removed |
| either | nothing | left, and told of in the log |
| either | anything else | left |

Only what is on record as gone goes, never what is merely not on record: a server whose store is
new, or an older one put back, knows nothing of what is somebody's. What is
on record as gone stays so, and its id is never used again; so there is nothing to wait for.
Retention keeps such records until the node has nothing of theirs any more.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.builds import BuildStatus
from cakework.domain.errors import CakeworkError, Unavailable
from cakework.domain.ids import ImageId, VmId
from cakework.domain.imports import ImportStatus
from cakework.domain.vms import VmState
from cakework.server.node.client import NodeClient
from cakework.server.services.forked import forked_from
from cakework.server.store.database import Database
from cakework.server.store.models import BuildRow, ImageRow, ImportRow, VmRow

ASKED_AT_ONCE = 500
Id = TypeVar("Id", bound=str)
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Of some ids: which are on record at all, and which of them as gone for good."""

    known: Collection[str]
    gone: Collection[str]


class LeftoverLoop:
    """Compares the image files, kept volumes and snapshots of the node with the records."""

    def __init__(self, database: Database, node: NodeClient) -> None:
        """Compare ``database`` with ``node``."""
        self._database = database
        self._node = node
        self._told: set[str] = set()

    async def one_pass(self) -> None:
        """Compare once. One thing that cannot be removed does not hold up the others."""
        await self._clear("image", await self._node.images(), images, self._node.delete_image)
        await self._clear("volume", await self._node.volumes(), volumes, self._node.delete_volume)
        there, remove = await self._node.snapshots(), self._node.delete_snapshot
        await self._clear("snapshot", there, snapshots, remove)

    async def _clear(
        self,
        kind: str,
        there: Sequence[Id],
        look_up: Callable[[AsyncSession, Sequence[str]], Awaitable[Recorded]],
        remove: Callable[[Id], Awaitable[None]],
    ) -> None:
        for some in _in_parts(there):
            async with self._database.reading() as session:
                recorded = await look_up(session, some)
            self._tell_unknown(kind, set(some) - set(recorded.known))
            for each in some:
                if each in recorded.gone:
                    await self._remove(kind, each, remove)

    async def _remove(self, kind: str, each: Id, remove: Callable[[Id], Awaitable[None]]) -> None:
        try:
            await remove(each)
        except Unavailable:
            raise
        except CakeworkError as error:
            _log.warning("leftover.stays", kind=kind, id=each, detail=error.detail)
        else:
            _log.info("leftover.removed", kind=kind, id=each)

    def _tell_unknown(self, kind: str, unknown: Collection[str]) -> None:
        if fresh := sorted(set(unknown) - self._told):
            self._told.update(fresh)
            _log.warning("leftover.unknown", kind=kind, ids=fresh, effect="it is left there")


async def images(session: AsyncSession, ids: Sequence[str]) -> Recorded:
    """Look up what the records say of images."""
    own = await session.execute(
        select(ImageRow.id, ImageRow.deleted_ms).where(ImageRow.id.in_(ids))
    )
    deleted = {ImageId(key): deleted_ms is not None for key, deleted_ms in own}
    built = await session.execute(
        select(BuildRow.image_id, BuildRow.status).where(BuildRow.image_id.in_(ids))
    )
    imported = await session.execute(
        select(ImportRow.id, ImportRow.status).where(ImportRow.id.in_(ids))
    )
    failed = {key: status == BuildStatus.FAILED for key, status in built}
    failed |= {key: status == ImportStatus.FAILED for key, status in imported}
    recorded = failed | deleted
    return Recorded(recorded.keys(), {key for key, gone in recorded.items() if gone})


async def volumes(session: AsyncSession, ids: Sequence[str]) -> Recorded:
    """Look up what the records say of the VMs that volumes belong to."""
    rows = await session.execute(select(VmRow.id, VmRow.state).where(VmRow.id.in_(ids)))
    states = {VmId(key): state for key, state in rows}
    return Recorded(
        states.keys(), {key for key, state in states.items() if state == VmState.DESTROYED}
    )


async def snapshots(session: AsyncSession, ids: Sequence[str]) -> Recorded:
    """Look up what the records say of the VMs that snapshots and memory belong to."""
    recorded = await volumes(session, ids)
    return Recorded(recorded.known, set(recorded.gone) - await forked_from(session, ids))


def _in_parts(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    for start in range(0, len(ids), ASKED_AT_ONCE):
        yield ids[start : start + ASKED_AT_ONCE]
