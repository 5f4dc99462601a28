"""Every change of an import's status, in one place; see domain/imports.py for its life."""

from collections.abc import Iterable

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.facts import ImportFailed, ImportSucceeded
from cakework.domain.ids import ImageId
from cakework.domain.images import ImageSource
from cakework.domain.imports import ImportStatus
from cakework.server.clock import Clock
from cakework.server.logs.followers import Followers
from cakework.server.logs.lines import Source
from cakework.server.store.models import ImageRow, ImportRow
from cakework.server.store.values import not_before, storable


def import_source(image_id: str) -> Source:
    """Return what those wait on who wait for an import."""
    return Source(f"import:{image_id}")


class ImportStates:
    """Ends imports within a caller's transaction; ``tell()`` after it committed."""

    def __init__(self, followers: Followers, clock: Clock) -> None:
        """Tell ``followers`` of changes."""
        self.followers = followers
        self._clock = clock

    async def apply(
        self, session: AsyncSession, fact: ImportSucceeded | ImportFailed
    ) -> ImportRow | None:
        """Note what the node says of an import's end; returns the row if that was news."""
        image_id = ImageId(fact.image_id)
        if isinstance(fact, ImportFailed):
            return await self.failed(session, image_id, fact.error)
        row = await self._end(session, image_id, ImportStatus.SUCCEEDED, None)
        if row is not None:
            session.add(
                ImageRow(
                    id=row.id,
                    account_id=row.account_id,
                    source=ImageSource.IMPORT,
                    build_id=None,
                    size_bytes=fact.size_bytes,
                    created_ms=self._clock(),
                )
            )
        return row

    async def failed(
        self, session: AsyncSession, image_id: ImageId, error: str
    ) -> ImportRow | None:
        """Note that the import ended without an image; returns the row if that was news.

        A request that was not answered yet asks for a new one when it is repeated.
        """
        row = await self._end(session, image_id, ImportStatus.FAILED, storable(error))
        if row is not None:
            row.request_token = None
        return row

    def tell(self, rows: Iterable[ImportRow | None]) -> None:
        """Wake everyone who waits for imports that ended."""
        self.followers.wake(import_source(row.id) for row in rows if row is not None)

    async def _end(
        self, session: AsyncSession, image_id: ImageId, status: ImportStatus, error: str | None
    ) -> ImportRow | None:
        return await session.scalar(
            update(ImportRow)
            .where(ImportRow.id == image_id, ImportRow.status == ImportStatus.IMPORTING)
            .values(
                status=status,
                error=error,
                updated_ms=not_before(ImportRow.updated_ms, self._clock()),
            )
            .returning(ImportRow)
            .execution_options(populate_existing=True)
        )
