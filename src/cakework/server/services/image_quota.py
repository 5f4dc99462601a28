"""How many images an account may have, and how large they may be together."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.builds import BuildStatus
from cakework.domain.errors import QuotaExceeded
from cakework.domain.ids import AccountId
from cakework.domain.imports import ImportStatus
from cakework.server.store.models import BuildRow, ImageRow, ImportRow

RETRY_AFTER_S = 30


@dataclass(frozen=True, slots=True)
class ImageQuota:
    """At most ``count`` images, with those that are being made, and no more made of whoever has
    ``size_mb`` of them, in MiB."""

    count: int
    size_mb: int

    async def check(self, session: AsyncSession, account: AccountId) -> None:
        """Raise QuotaExceeded unless the account, which is locked, may have one more."""
        there = (ImageRow.account_id == account) & ImageRow.deleted_ms.is_(None)
        query = select(func.count(), func.coalesce(func.sum(ImageRow.size_bytes), 0)).where(there)
        count, size_bytes = (await session.execute(query)).one()
        size_mb = int(size_bytes) >> 20
        for row, unfinished in (
            (BuildRow, BuildRow.status == BuildStatus.CREATED),
            (ImportRow, ImportRow.status == ImportStatus.IMPORTING),
        ):
            making = select(func.count()).select_from(row)
            count += await session.scalar(making.where(row.account_id == account, unfinished)) or 0
        if count >= self.count:
            raise QuotaExceeded(
                f"The account has {count} images, with those that are being made, which is as many "
                "as it may: delete some.",
                retry_after_s=RETRY_AFTER_S,
            )
        if size_mb >= self.size_mb:
            raise QuotaExceeded(
                f"The account's images have {size_mb} MiB and may have {self.size_mb}: delete "
                "some.",
                retry_after_s=RETRY_AFTER_S,
            )
