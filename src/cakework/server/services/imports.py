"""Imports: ask for one, wait for one.

Asking writes the row first, then orders the node, which asks the registry before it answers. A
refusal removes the row again. No answer leaves it failed and deleted, so that what the node may
have begun is known to be nobody's. A crash in between leaves a row that the node does not know:
the same request carries on with it, and the reconciling loop ends it when none comes.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    InvalidRequest,
    NoRoom,
    QuotaExceeded,
    RegistryDenied,
    Unavailable,
)
from cakework.domain.ids import AccountId, ImageId, new_image_id
from cakework.domain.imports import ImportStatus
from cakework.domain.orders import ImportOrder
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.node.client import NodeClient
from cakework.server.services.claims import Claims
from cakework.server.services.image_quota import ImageQuota
from cakework.server.services.import_states import ImportStates, import_source
from cakework.server.store.accounts import lock_account
from cakework.server.store.database import Database
from cakework.server.store.models import ImportRow

MOST_UNFINISHED = 20
UNANSWERED = "the host did not answer; import the image again"
RETRY_AFTER_S = 30
ASKED_AT_ONCE = 2
"""Imports of one account whose registries are asked at once: a quarter of what the node does."""
TURN_S = 5.0
"""Longest that one more waits for an answer to those."""
TURN_RETRY_S = 10
WAIT_S = 50.0
"""Longest that a start waits for an image; its caller goes away after a minute."""
WAIT_RETRY_S = 10
"""More than is left of that minute: whoever waits no longer is told why."""


@dataclass(frozen=True, slots=True)
class NewImport:
    """An import that is asked for; ``image_uri`` has a registry, and a tag or a digest."""

    image_uri: str
    username: str
    password: str = field(repr=False)


class Imports:
    """Takes the imports of accounts, and has starts wait for them."""

    def __init__(
        self,
        database: Database,
        node: NodeClient,
        states: ImportStates,
        images: ImageQuota,
        clock: Clock,
    ) -> None:
        """Keep records in ``database``, have ``node`` do the work, hold accounts to ``images``."""
        self._images = images
        self._database = database
        self._node = node
        self._states = states
        self._clock = clock
        self.claims: Claims[ImageId] = Claims()
        self._turns: Claims[AccountId] = Claims(ASKED_AT_ONCE)

    async def create(self, account: AccountId, new: NewImport, token: str | None = None) -> ImageId:
        """Take an import; returns the id of its image once the registry agreed to give it.

        ``token`` names an idempotent request: what it made before is taken up again.

        Raises:
            QuotaExceeded: the account has as many unfinished imports, or images, as it may, or as
                many imports whose registries have not answered.
            RegistryDenied, RegistryUnreachable, WrongPlatform, ImageNotInRegistry: no image
                comes of it; nothing is left of it.
            NoRoom, Unavailable: the node cannot take it now.
        """
        image_id = await self._made_by(token) or new_image_id()
        async with self._turn(account), self.claims.hold(image_id):
            row = await self._record(account, image_id, new, token)
            step(Step.IMPORT_RECORDED)
            if row.status == ImportStatus.IMPORTING:
                await self._give_order(row, new)
        return image_id

    async def ready(self, account: AccountId, image_id: ImageId) -> None:
        """Return when the image is there, if it is one that is imported.

        Raises:
            Conflict: it could not be imported.
            Unavailable: it is still being imported after a while.
        """
        try:
            async with asyncio.timeout(WAIT_S):
                await self._ended(account, image_id)
        except TimeoutError as error:
            raise Unavailable(
                f"Image {image_id} is still being imported. Ask again: the call waits for it.",
                retry_after_s=WAIT_RETRY_S,
            ) from error

    @contextlib.asynccontextmanager
    async def _turn(self, account: AccountId) -> AsyncGenerator[None]:
        """Wait for a turn of the account to have a registry asked, and hold it.

        Raises:
            QuotaExceeded: none came in time.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(TURN_S):
                    await stack.enter_async_context(self._turns.hold(account))
            except TimeoutError as error:
                raise QuotaExceeded(
                    f"The account has {ASKED_AT_ONCE} imports whose registries have not answered "
                    "yet, which is as many as it may.",
                    retry_after_s=TURN_RETRY_S,
                ) from error
            yield

    async def _ended(self, account: AccountId, image_id: ImageId) -> None:
        with self._states.followers.follow(import_source(image_id)) as changed:
            while row := await self._find(account, image_id):
                if row.status == ImportStatus.FAILED:
                    raise Conflict(f"Image {image_id} could not be imported: {row.error}.")
                if row.status == ImportStatus.SUCCEEDED:
                    return
                if self._states.followers.closing:
                    raise Unavailable("The server is shutting down.")
                await changed.wait()
                changed.clear()

    async def _give_order(self, row: ImportRow, new: NewImport) -> None:
        order = ImportOrder(
            image_id=row.id,
            account_id=row.account_id,
            image_uri=new.image_uri,
            username=new.username,
            password=new.password,
        )
        try:
            await self._node.import_image(order)
        except Unavailable:
            await self._abandon(ImageId(row.id))
            raise
        except CakeworkError as error:
            step(Step.IMPORT_REFUSED)
            await self._forget(row)
            raise _refusal(error) from error

    async def _find(self, account: AccountId, image_id: ImageId) -> ImportRow | None:
        async with self._database.reading() as session:
            row = await session.get(ImportRow, image_id)
        is_theirs = row is not None and row.account_id == account and row.deleted_ms is None
        return row if is_theirs else None

    async def _made_by(self, token: str | None) -> ImageId | None:
        if token is None:
            return None
        async with self._database.reading() as session:
            query = select(ImportRow.id).where(ImportRow.request_token == token)
            found = await session.scalar(query)
        return ImageId(found) if found is not None else None

    async def _record(
        self, account: AccountId, image_id: ImageId, new: NewImport, token: str | None
    ) -> ImportRow:
        now = self._clock()
        async with self._database.writing() as session:
            if token is not None and (made := await session.get(ImportRow, image_id)) is not None:
                return made
            await _check_quota(session, account)
            await self._images.check(session, account)
            row = ImportRow(
                id=image_id,
                account_id=account,
                image_uri=new.image_uri,
                status=ImportStatus.IMPORTING,
                request_token=token,
                created_ms=now,
                updated_ms=now,
            )
            session.add(row)
        return row

    async def _abandon(self, image_id: ImageId) -> None:
        """End an import that the node may have taken: nobody was given its id."""
        async with self._database.writing() as session:
            row = await self._states.failed(session, image_id, UNANSWERED)
            if row is not None:
                row.deleted_ms = row.updated_ms
        self._states.tell([row])

    async def _forget(self, row: ImportRow) -> None:
        async with self._database.writing() as session:
            await session.execute(
                delete(ImportRow).where(
                    ImportRow.id == row.id, ImportRow.status == ImportStatus.IMPORTING
                )
            )


async def _check_quota(session: AsyncSession, account: AccountId) -> None:
    await lock_account(session, account)
    unfinished = await session.scalar(
        select(func.count())
        .select_from(ImportRow)
        .where(ImportRow.account_id == account, ImportRow.status == ImportStatus.IMPORTING)
    )
    if (unfinished or 0) >= MOST_UNFINISHED:
        raise QuotaExceeded(
            f"The account has {unfinished} unfinished imports, which is as many as it may.",
            retry_after_s=RETRY_AFTER_S,
        )


def _refusal(error: CakeworkError) -> CakeworkError:
    """Return what the caller is told of the node's refusal."""
    match error:
        case NoRoom():
            return NoRoom(error.detail, retry_after_s=error.retry_after_s or RETRY_AFTER_S)
        case RegistryDenied():
            fields = [FieldError(field, "is not taken by the registry") for field in _CREDENTIALS]
            return RegistryDenied(error.detail, fields)
        case InvalidRequest():
            return type(error)(error.detail, [FieldError("imageUri", "cannot be imported")])
        case _:
            return error


_CREDENTIALS = ("username", "password")
