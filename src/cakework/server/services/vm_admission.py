"""Who may have one more VM: the image is the account's, and its quotas hold."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import NotFound, QuotaExceeded
from cakework.domain.ids import AccountId, ImageId
from cakework.domain.vms import VmState
from cakework.server.services.vm_orders import RETRY_AFTER_S
from cakework.server.store.accounts import lock_account
from cakework.server.store.models import ImageRow, VmRow


@dataclass(frozen=True, slots=True)
class VmLimits:
    """How many VMs one account may have started, how many cached, running or not, and how large
    the volumes of all may be together, in GB."""

    started: int
    cached: int
    volumes_gb: int


class VmAdmission:
    """Checks within the transaction that then makes or starts a VM, so that no two slip by."""

    def __init__(self, limits: VmLimits) -> None:
        """Hold every account to ``limits``."""
        self._limits = limits

    async def check_image(self, session: AsyncSession, account: AccountId, image: ImageId) -> None:
        """Raise NotFound unless the account has the image.

        It is not deleted before this transaction has ended, and after it not if a VM uses it.
        """
        there = (ImageRow.account_id == account) & ImageRow.deleted_ms.is_(None)
        query = select(ImageRow.id).where(ImageRow.id == image, there)
        if await session.scalar(query.with_for_update(read=True)) is None:
            raise NotFound(f"There is no image {image}.")

    async def check_started(self, session: AsyncSession, account: AccountId, more: int = 1) -> None:
        """Raise QuotaExceeded if the account may not start so many more VMs."""
        live = VmRow.state.in_((VmState.CREATED, VmState.STARTED))
        count = await _count(session, account, live)
        if count + more > self._limits.started:
            raise QuotaExceeded(
                f"The account has {count} VMs running and may have {self._limits.started}.",
                retry_after_s=RETRY_AFTER_S,
            )

    async def check_cached(self, session: AsyncSession, account: AccountId) -> None:
        """Raise QuotaExceeded if the account may not have one more cached VM."""
        there = VmRow.cached & (VmRow.state != VmState.DESTROYED)
        if (count := await _count(session, account, there)) >= self._limits.cached:
            raise QuotaExceeded(
                f"The account has {count} cached VMs, which is as many as it may.",
                retry_after_s=RETRY_AFTER_S,
            )

    async def check_volume(self, session: AsyncSession, account: AccountId, size_gb: int) -> None:
        """Raise QuotaExceeded if the account may not have one more volume of ``size_gb``.

        It counts with its whole size from the time that it is asked for until it is freed.
        """
        if not size_gb:
            return
        await lock_account(session, account)
        theirs = (VmRow.account_id == account) & (VmRow.state != VmState.DESTROYED)
        query = select(func.coalesce(func.sum(VmRow.volume_gb), 0)).where(theirs)
        total_gb = await session.scalar(query) or 0
        if total_gb + size_gb > self._limits.volumes_gb:
            raise QuotaExceeded(
                f"The account has volumes of {total_gb} GB and may have {self._limits.volumes_gb}: "
                "destroy VMs that are not needed.",
                retry_after_s=RETRY_AFTER_S,
            )


async def _count(session: AsyncSession, account: AccountId, which: ColumnElement[bool]) -> int:
    await lock_account(session, account)
    query = select(func.count()).select_from(VmRow).where(VmRow.account_id == account, which)
    return await session.scalar(query) or 0
