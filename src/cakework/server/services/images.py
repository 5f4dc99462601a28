"""Images: listed, looked at, deleted; made by builds and imports.

An image has an id before it is there: an import's from the beginning. So what is known of one
is a record of its import, a record of itself, or both.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import select, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import Conflict, NotFound
from cakework.domain.ids import AccountId, ImageId
from cakework.domain.images import ImageSource, ImageState
from cakework.domain.imports import ImportStatus
from cakework.domain.steps import Step
from cakework.domain.vms import VmState
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.store.database import Database
from cakework.server.store.models import ImageRow, ImportRow, VmRow
from cakework.server.store.pages import Place, cut, newest_first


@dataclass(frozen=True, slots=True)
class KnownImage:
    """An image as it is on record: ``own`` once it is there, ``imported`` if it was or is to be."""

    own: ImageRow | None
    imported: ImportRow | None

    @property
    def state(self) -> ImageState:
        """Where the image is in its life."""
        if any(row is not None and row.deleted_ms is not None for row in (self.own, self.imported)):
            return ImageState.DELETED
        if self.own is not None:
            return ImageState.READY
        failed = self.imported is not None and self.imported.status == ImportStatus.FAILED
        return ImageState.FAILED if failed else ImageState.IMPORTING

    @property
    def first(self) -> ImageRow | ImportRow:
        """The record that was there first: the id and the time it was made are its."""
        found = self.imported or self.own
        if found is None:
            raise LookupError("nothing is known of the image")
        return found

    @property
    def updated_ms(self) -> int:
        """When it last changed."""
        times = [self.first.created_ms]
        if self.imported is not None:
            times += [self.imported.updated_ms, self.imported.deleted_ms or 0]
        if self.own is not None:
            times += [self.own.created_ms, self.own.deleted_ms or 0]
        return max(times)


class Images:
    """Finds and deletes the images of accounts."""

    def __init__(self, database: Database, clock: Clock, hint: Callable[[], None]) -> None:
        """Keep records in ``database``; ``hint`` says that a file is to go from the node."""
        self._database = database
        self._clock = clock
        self._hint = hint

    async def page(
        self, account: AccountId, after: Place | None
    ) -> tuple[list[KnownImage], Place | None]:
        """Return up to 100 images that are not deleted, newest first, and where to go on."""
        listed = union_all(
            select(ImportRow.id, ImportRow.created_ms)
            .outerjoin(ImageRow, ImageRow.id == ImportRow.id)
            .where(
                ImportRow.account_id == account,
                ImportRow.deleted_ms.is_(None),
                ImageRow.deleted_ms.is_(None),
            ),
            select(ImageRow.id, ImageRow.created_ms).where(
                ImageRow.account_id == account,
                ImageRow.source != ImageSource.IMPORT,
                ImageRow.deleted_ms.is_(None),
            ),
        ).subquery()
        query = select(listed.c.id, listed.c.created_ms)
        query = newest_first(query, listed.c.created_ms, listed.c.id, after)
        async with self._database.reading() as session:
            places = [Place(created_ms, key) for key, created_ms in await session.execute(query)]
            places, rest = cut(places, lambda place: place)
            return await _known(session, [place.id for place in places]), rest

    async def get(self, account: AccountId, image_id: ImageId) -> KnownImage:
        """Return an image of the account, also one that is deleted but still on record.

        Raises:
            NotFound: there is none with this id.
        """
        async with self._database.reading() as session:
            return await _owned(session, account, image_id, lock=False)

    async def delete(self, account: AccountId, image_id: ImageId) -> KnownImage:
        """Delete an image; its file goes soon after. One that is deleted stays as it is.

        That no VM uses it, and that none does from now on, is decided in one transaction.

        Raises:
            NotFound: the account has no such image.
            Conflict: a VM that is not destroyed uses it, or it is still being imported.
        """
        async with self._database.writing() as session:
            image = await _owned(session, account, image_id, lock=True)
            if image.state is ImageState.DELETED:
                return image
            if image.state is ImageState.IMPORTING:
                raise Conflict(f"Image {image_id} is still being imported; delete it in a while.")
            await _check_unused(session, image_id)
            gone = image.own or image.first
            gone.deleted_ms = max(gone.created_ms, self._clock())
        step(Step.IMAGE_DELETED)
        self._hint()
        return image


async def _owned(
    session: AsyncSession, account: AccountId, image_id: ImageId, *, lock: bool
) -> KnownImage:
    own = await session.get(ImageRow, image_id, with_for_update=lock or None)
    imported = await session.get(ImportRow, image_id, with_for_update=lock or None)
    if account not in {row.account_id for row in (own, imported) if row is not None}:
        raise NotFound(f"There is no image {image_id}.")
    return KnownImage(own, imported)


async def _check_unused(session: AsyncSession, image_id: ImageId) -> None:
    uses = (VmRow.image_id == image_id) & (VmRow.state != VmState.DESTROYED)
    user = await session.scalar(select(VmRow.id).where(uses).order_by(VmRow.id).limit(1))
    if user is not None:
        raise Conflict(f"VM {user} uses image {image_id}: destroy it first.")


async def _known(session: AsyncSession, ids: Iterable[str]) -> list[KnownImage]:
    wanted = list(ids)
    own = await session.scalars(select(ImageRow).where(ImageRow.id.in_(wanted)))
    imported = await session.scalars(select(ImportRow).where(ImportRow.id.in_(wanted)))
    owns, imports = {row.id: row for row in own}, {row.id: row for row in imported}
    found = (KnownImage(owns.get(key), imports.get(key)) for key in wanted)
    return [image for image in found if image.own or image.imported]
