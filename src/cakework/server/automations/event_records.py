"""Events that are kept, to be looked at."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import defer

from cakework.domain.errors import NotFound
from cakework.domain.ids import AccountId, EventId, UserId
from cakework.server.store.automation_models import EventRow
from cakework.server.store.database import Database
from cakework.server.store.function_models import InvocationRow
from cakework.server.store.pages import Place, cut, newest_first
from cakework.server.store.sealing import SEAL_BYTES, Sealer
from cakework.server.store.values import storable

SHOWN_MOST = 100
"""Invocations that are told of one event."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to list; None takes all. Times are unix milliseconds."""

    type: str | None = None
    subject: str | None = None
    user_id: UserId | None = None
    from_ms: int | None = None
    to_ms: int | None = None

    def of(self, account: AccountId) -> list[ColumnElement[bool]]:
        """Return what is true of those of ``account``."""
        row = EventRow
        given = [row.account_id == account]
        for column, value in (
            (row.type, self.type),
            (row.subject, self.subject),
            (row.user_id, self.user_id),
        ):
            if value is not None:
                given.append(column == storable(value))
        if self.from_ms is not None:
            given.append(row.created_ms >= self.from_ms)
        if self.to_ms is not None:
            given.append(row.created_ms < self.to_ms)
        return given


@dataclass(frozen=True, slots=True)
class KeptEvent:
    """An event as it is kept. ``event`` is it as JSON, None where that is larger than asked for."""

    row: EventRow
    event: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Led:
    """An invocation that an event has led to."""

    id: str
    function_id: str
    trigger_id: str | None
    state: str


class EventRecords:
    """The events of accounts, as they are kept."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        """Read them from ``database``."""
        self._database = database
        self._sealer = sealer

    async def page(
        self, account: AccountId, wanted: EventFilter, after: Place | None, bytes_max: int
    ) -> tuple[list[KeptEvent], Place | None]:
        """Return up to 100 events, newest first, and the place where the next page goes on; whole
        are those of at most ``bytes_max`` bytes."""
        row = EventRow
        is_short = func.length(row.event_sealed) <= bytes_max + SEAL_BYTES
        query = select(row, case((is_short, row.event_sealed), else_=None))
        query = query.options(defer(row.event_sealed, raiseload=True)).where(*wanted.of(account))
        query = newest_first(query, row.created_ms, row.id, after)
        async with self._database.reading() as session:
            found = [(each[0], each[1]) for each in await session.execute(query)]
        found, place = cut(found, lambda each: Place(each[0].created_ms, each[0].id))
        return await asyncio.to_thread(self._opened, found), place

    async def get(self, account: AccountId, event_id: EventId) -> tuple[KeptEvent, list[Led]]:
        """Return an event, whole, with the first hundred invocations it has led to.

        Raises:
            NotFound: the account has no such event, or not any more.
        """
        made = InvocationRow
        query = select(made.id, made.function_id, made.trigger_id, made.state)
        query = query.where(made.event_id == event_id, made.account_id == account)
        query = query.order_by(made.created_ms, made.id).limit(SHOWN_MOST)
        async with self._database.reading() as session:
            row = await session.get(EventRow, event_id)
            if row is None or row.account_id != account:
                raise NotFound(f"There is no event {event_id}; they are kept for a day.")
            led = [Led(*each) for each in (await session.execute(query)).all()]
        (event,) = await asyncio.to_thread(self._opened, [(row, row.event_sealed)])
        return event, led

    def _opened(self, found: Sequence[tuple[EventRow, bytes | None]]) -> list[KeptEvent]:
        return [
            KeptEvent(
                row, None if sealed is None else self._sealer.unseal(sealed, f"event:{row.id}")
            )
            for row, sealed in found
        ]
