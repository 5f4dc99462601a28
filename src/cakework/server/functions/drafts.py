"""Drafts: what an editor saves of a function; one each, or none.

    none ──save, If-Match "0" or *──▶ edition 1 ──save, If-Match of 1──▶ edition 2 …

Who saves says what was looked at: what somebody else saved meanwhile is not lost without a word.
"""

import asyncio
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import NotFound, PreconditionFailed
from cakework.domain.ids import AccountId, FunctionId
from cakework.server.clock import Clock
from cakework.server.functions.functions import owned
from cakework.server.functions.sources import Source, Sources
from cakework.server.store.accounts import lock_account
from cakework.server.store.database import Database
from cakework.server.store.function_models import DraftRow

NONE = '"0"'
ANY = "*"


@dataclass(frozen=True, slots=True)
class FoundDraft:
    """A draft, and what tells this saving of it from others (an ETag)."""

    source: Source
    etag: str
    updated_ms: int


class Drafts:
    """The drafts of functions."""

    def __init__(self, database: Database, sources: Sources, clock: Clock) -> None:
        """Keep records in ``database``, and what is in them as ``sources``."""
        self._database = database
        self._sources = sources
        self._clock = clock

    async def get(self, account: AccountId, function_id: FunctionId) -> FoundDraft:
        """Return the draft of a function. Raises NotFound: there is none, or no such function."""
        async with self._database.reading() as session:
            await owned(session, account, function_id)
            row = await session.get(DraftRow, function_id)
            if row is None:
                raise NotFound(f"The function {function_id} has no draft.")
            sealed = await self._sources.sealed(session, account, row.source_digest)
        if sealed is None:
            raise NotFound(f"The draft of {function_id} is not kept any more.")
        source = await asyncio.to_thread(self._sources.open, account, row.source_digest, sealed)
        return FoundDraft(source, etag_of(row), row.updated_ms)

    async def save(
        self, account: AccountId, function_id: FunctionId, source: Source, if_match: str | None
    ) -> DraftRow:
        """Save a draft in the place of the one that ``if_match`` names; returns its record.

        Raises:
            NotFound: there is no such function.
            PreconditionFailed: there is another draft, or ``if_match`` is None.
            QuotaExceeded: the account has as much code as it may.
        """
        sealed = await asyncio.to_thread(self._sources.seal, account, source)
        now = self._clock()
        async with self._database.writing() as session:
            await lock_account(session, account)
            await owned(session, account, function_id, locked=True)
            row = await _checked(session, function_id, if_match)
            await self._sources.keep(session, account, source, sealed)
            if row is None:
                row = DraftRow(function_id=function_id, edition=0, updated_ms=now)
                session.add(row)
            row.edition, row.source_digest = row.edition + 1, source.digest
            row.updated_ms = max(row.updated_ms, now)
        return row

    async def delete(
        self, account: AccountId, function_id: FunctionId, if_match: str | None
    ) -> None:
        """Forget a draft; none is no error.

        Raises:
            NotFound: there is no such function.
            PreconditionFailed: it is another than ``if_match`` names.
        """
        async with self._database.writing() as session:
            await owned(session, account, function_id, locked=True)
            row = await _checked(session, function_id, if_match or ANY)
            if row is not None:
                await session.delete(row)


def etag_of(row: DraftRow) -> str:
    """Return what tells a saving of a draft from others, those of a deleted one as well."""
    return f'"{row.edition}-{row.source_digest[-16:]}"'


async def _checked(
    session: AsyncSession, function_id: FunctionId, if_match: str | None
) -> DraftRow | None:
    row = await session.scalar(
        select(DraftRow).where(DraftRow.function_id == function_id).with_for_update()
    )
    there = NONE if row is None else etag_of(row)
    if if_match is None:
        raise PreconditionFailed(
            'Say what you looked at, by If-Match: the ETag, "0" for no draft, or * for any.', there
        )
    if if_match != ANY and there not in [each.strip() for each in if_match.split(",")]:
        raise PreconditionFailed("The draft was saved by somebody else meanwhile.", there)
    return row
