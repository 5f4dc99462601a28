"""How much of events is kept of an account's, and for how long.

| What | Stays | Then |
|---|---|---|
| events | 24 hours; fewer where an account's take three quarters of what they may | removed |
| events that are still to be given to triggers | until they are | |

An account that emits more than fits loses the oldest of what was done long ago, and goes on; it
would stand still for the rest of a day if it were refused instead. For what is gone early, a
repetition is not known as one. It is refused only while events come faster than the oldest go.
"""

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from cakework.domain.errors import QueueFull
from cakework.domain.ids import AccountId
from cakework.server.clock import Clock
from cakework.server.services.rooms import Rooms
from cakework.server.store.automation_models import EventRow
from cakework.server.store.database import Database

ROW_BYTES = 512
"""That an event takes beside what it says."""
HOUR_MS = 3_600_000
RETRY_AFTER_S = 5
REMOVED_AT_ONCE = 500
ROUNDS = 100
"""So often as many in one pass: more than can come between two."""


class EventRoom:
    """Counts what is kept of accounts' events, and removes what is over."""

    def __init__(self, database: Database, mb_per_account: int, hours: int, clock: Clock) -> None:
        """Keep events in ``database`` for ``hours``, of an account at most so many MiB."""
        self._database = database
        self._most = mb_per_account << 20
        self._kept_ms = hours * HOUR_MS
        self._clock = clock
        self._rooms = Rooms(clock)

    def check(self, session: Session, account: AccountId, amount: int) -> None:
        """Count ``amount`` bytes of events that are about to be kept; none are always taken.

        Raises QueueFull.
        """
        most = self._most
        if not amount:
            return
        if not self._rooms.take(account, lambda: max(0, most - _kept(session, account)), amount):
            raise QueueFull(
                f"The account's events take {most >> 20} MiB, as much as they may; the "
                "oldest go soon.",
                retry_after_s=RETRY_AFTER_S,
            )

    async def one_pass(self) -> None:
        """Remove what is over now."""
        row = EventRow
        await self._remove(row.created_ms < self._clock() - self._kept_ms)
        most, size = self._most * 3 // 4, func.sum(row.bytes)
        heavy = select(row.account_id, size).group_by(row.account_id).having(size > most)
        async with self._database.reading() as session:
            found = [(each[0], int(each[1])) for each in await session.execute(heavy)]
        for account, kept in found:
            await self._remove_oldest(AccountId(account), kept - most)

    async def _remove_oldest(self, account: AccountId, over: int) -> None:
        row = EventRow
        oldest = select(row.id, row.bytes).where(row.account_id == account, row.after.is_(None))
        oldest = oldest.order_by(row.created_ms, row.id).limit(REMOVED_AT_ONCE)
        for _ in range(ROUNDS):
            async with self._database.reading() as session:
                rows = (await session.execute(oldest)).all()
            ids: list[str] = []
            for event_id, size in rows:
                if over <= 0:
                    break
                ids.append(event_id)
                over -= size
            await self._remove(row.id.in_(ids))
            if over <= 0 or not rows:
                return

    async def _remove(self, which: ColumnElement[bool]) -> None:
        """Remove events that nothing is to be made of any more, in pieces."""
        row = EventRow
        some = select(row.id).where(which, row.after.is_(None)).limit(REMOVED_AT_ONCE)
        for _ in range(ROUNDS):
            async with self._database.writing() as session:
                gone = await session.execute(
                    delete(row)
                    .where(row.id.in_(some), row.after.is_(None))
                    .returning(row.id)
                    .execution_options(synchronize_session=False)
                )
                if len(gone.all()) < REMOVED_AT_ONCE:
                    return


def _kept(session: Session, account: AccountId) -> int:
    query = select(func.coalesce(func.sum(EventRow.bytes), 0))
    return int(session.scalar(query.where(EventRow.account_id == account)) or 0)
