"""Every change of a build's status, in one place; see domain/builds.py for its life."""

from collections.abc import Iterable

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.builds import BuildStatus
from cakework.domain.ids import BuildId
from cakework.server.clock import Clock
from cakework.server.logs.followers import Followers
from cakework.server.logs.lines import build_source
from cakework.server.services.announcements import Announcements
from cakework.server.store.models import BuildRow, ImageRow
from cakework.server.store.values import not_before, storable


class BuildStates:
    """Ends builds within a caller's transaction; ``tell()`` after it committed."""

    def __init__(self, followers: Followers, announcements: Announcements, clock: Clock) -> None:
        """Tell ``followers`` of changes; announce them to ``announcements``."""
        self._announcements = announcements
        self._followers = followers
        self._clock = clock

    async def succeeded(
        self, session: AsyncSession, build_id: BuildId, size_bytes: int
    ) -> BuildRow | None:
        """Note that the build's image is there; returns the row if that was news."""
        row = await self._end(session, build_id, BuildStatus.SUCCEEDED, None)
        if row is not None:
            session.add(
                ImageRow(
                    id=row.image_id,
                    account_id=row.account_id,
                    source=row.source,
                    build_id=row.id,
                    size_bytes=size_bytes,
                    created_ms=self._clock(),
                )
            )
        return row

    async def failed(self, session: AsyncSession, build_id: BuildId, error: str) -> BuildRow | None:
        """Note that the build ended without an image, and why; returns the row if it was news."""
        return await self._end(session, build_id, BuildStatus.FAILED, storable(error))

    def tell(self, rows: Iterable[BuildRow | None]) -> None:
        """Wake everyone who follows the logs of builds that ended."""
        self._followers.wake(build_source(row.id) for row in rows if row is not None)

    async def _end(
        self, session: AsyncSession, build_id: BuildId, status: BuildStatus, error: str | None
    ) -> BuildRow | None:
        row = await session.scalar(
            update(BuildRow)
            .where(BuildRow.id == build_id, BuildRow.status == BuildStatus.CREATED)
            .values(
                status=status,
                error=error,
                log_complete=True,
                updated_ms=not_before(BuildRow.updated_ms, self._clock()),
            )
            .returning(BuildRow)
            .execution_options(populate_existing=True)
        )
        if row is not None:
            await self._announcements.build_ended(session, row)
        return row
