"""Builds: ask for one, look at one.

Asking spools the order, records the build and answers; handing it to the node is the work of
the dispatching loop, which is woken by a hint.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.builds import BuildStatus
from cakework.domain.errors import NotFound, QuotaExceeded
from cakework.domain.ids import AccountId, BuildId, new_build_id, new_image_id
from cakework.domain.orders import BuildOrder, BuildSource
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.services.image_quota import ImageQuota
from cakework.server.services.spool import Spool
from cakework.server.store.accounts import lock_account
from cakework.server.store.database import Database
from cakework.server.store.models import BuildRow

RETRY_AFTER_S = 30


@dataclass(frozen=True, slots=True)
class NewBuild:
    """A build that is asked for: a Dockerfile that parses, a source that was checked."""

    dockerfile: str
    source: BuildSource = field(repr=False)
    dockerignore: str | None = None


class Builds:
    """Takes and finds the builds of accounts."""

    def __init__(
        self,
        database: Database,
        spool: Spool,
        per_account: int,
        images: ImageQuota,
        hint: Callable[[], None],
        clock: Clock,
    ) -> None:
        """Keep records in ``database``, orders in ``spool``; ``hint`` says there is one more."""
        self._database = database
        self._spool = spool
        self._per_account = per_account
        self._images = images
        self._hint = hint
        self._clock = clock
        self.arriving: set[BuildId] = set()

    async def create(
        self,
        account: AccountId,
        new: NewBuild,
        token: str | None = None,
        *,
        build_id: BuildId | None = None,
    ) -> BuildRow:
        """Take a build; it is durable when this returns its record.

        ``token`` names an idempotent request: what it made before is returned again. ``build_id``
        is one that was chosen before, and that no build has.

        Raises:
            QuotaExceeded: the account has as many unfinished builds, or images, as it may.
        """
        build_id = build_id or new_build_id()
        order = BuildOrder(
            build_id=build_id,
            image_id=new_image_id(),
            account_id=account,
            dockerfile=new.dockerfile,
            dockerignore=new.dockerignore,
            source=new.source,
        )
        self.arriving.add(build_id)
        try:
            await asyncio.to_thread(self._spool.put, order)
            step(Step.BUILD_SPOOLED)
            row = await self._record(account, order, token)
            step(Step.BUILD_RECORDED)
        except BaseException:
            self._spool.remove(build_id)
            raise
        finally:
            self.arriving.discard(build_id)
        if row.id != build_id:
            self._spool.remove(build_id)
        self._hint()
        return row

    async def get(self, account: AccountId, build_id: BuildId) -> BuildRow:
        """Return a build of the account.

        Raises:
            NotFound: there is none with this id.
        """
        async with self._database.reading() as session:
            row = await session.get(BuildRow, build_id)
        if row is None or row.account_id != account:
            raise NotFound(f"There is no build {build_id}.")
        return row

    async def check_known(
        self, account: AccountId, build_id: BuildId, awaited: Select[str]
    ) -> None:
        """Check that the account has a build, or that ``awaited`` finds the account: it is about to
        have it. Raises NotFound."""
        try:
            await self.get(account, build_id)
        except NotFound:
            async with self._database.reading() as session:
                if await session.scalar(awaited) != account:
                    raise

    async def _record(self, account: AccountId, order: BuildOrder, token: str | None) -> BuildRow:
        now = self._clock()
        async with self._database.writing() as session:
            if token is not None:
                made = await session.scalar(select(BuildRow).where(BuildRow.request_token == token))
                if made is not None:
                    return made
            await self._check_quota(session, account)
            row = BuildRow(
                id=order.build_id,
                account_id=account,
                image_id=order.image_id,
                source=order.source.kind,
                status=BuildStatus.CREATED,
                accepted=False,
                log_complete=False,
                request_token=token,
                created_ms=now,
                updated_ms=now,
            )
            session.add(row)
        return row

    async def _check_quota(self, session: AsyncSession, account: AccountId) -> None:
        await lock_account(session, account)
        unfinished = await session.scalar(
            select(func.count())
            .select_from(BuildRow)
            .where(BuildRow.account_id == account, BuildRow.status == BuildStatus.CREATED)
        )
        if (unfinished or 0) >= self._per_account:
            raise QuotaExceeded(
                f"The account has {unfinished} unfinished builds, which is as many as it may.",
                retry_after_s=RETRY_AFTER_S,
            )
        await self._images.check(session, account)
