"""What came in at webhooks, so that what comes again is not done again.

Providers send a delivery again when they were not answered, or not in time. It has the same id
then, or at least the same body; a digest of that is kept for a day, with the invocation that was
made, and is written in the transaction that makes it. Of two at once one is first: the key of the
table says so, whatever servers they came to.

Of one trigger ``PER_TRIGGER`` are kept at most: of more in a day the oldest go before their time.
"""

import hashlib
from collections import Counter

from sqlalchemy import ColumnElement, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from cakework.server.clock import Clock
from cakework.server.store.automation_models import ArrivalRow
from cakework.server.store.database import Database

KEPT_MS = 24 * 3600 * 1000
PER_TRIGGER = 100_000
LOOKED_AFTER = 1_000
"""So many must have come of a trigger, to this server, before it is looked how many there are."""
BATCH = 500


def digest_of_id(delivery_id: str) -> str:
    """Return what is kept of a provider's id of a delivery."""
    return hashlib.sha256(b"id\0" + delivery_id.encode()).hexdigest()


def digest_of_body(body: bytes) -> str:
    """Return what is kept of a delivery that has no id."""
    digest = hashlib.sha256(b"body\0")
    digest.update(body)
    return digest.hexdigest()


class Arrivals:
    """Remembers what came in. ``one_pass`` forgets what is old."""

    def __init__(self, database: Database, clock: Clock, per_trigger: int = PER_TRIGGER) -> None:
        """Remember in ``database``, ``per_trigger`` at most."""
        self._database = database
        self._clock = clock
        self._per_trigger = per_trigger
        self._came: Counter[str] = Counter()

    def find(self, session: Session, trigger_id: str, digest: str) -> ArrivalRow | None:
        """Return what came in before, within a transaction; None if it did not in a day."""
        query = select(ArrivalRow).where(
            ArrivalRow.trigger_id == trigger_id,
            ArrivalRow.digest == digest,
            ArrivalRow.created_ms > self._clock() - KEPT_MS,
        )
        return session.scalar(query.execution_options(populate_existing=True))

    def note(
        self, session: Session, trigger_id: str, digest: str, invocation_id: str | None
    ) -> bool:
        """Write down that it came in; False, and nothing is: another has done so meanwhile."""
        now = self._clock()
        insert = sqlite.insert if _is_sqlite(session) else postgresql.insert
        rows = insert(ArrivalRow).values(
            trigger_id=trigger_id, digest=digest, invocation_id=invocation_id, created_ms=now
        )
        rows = rows.on_conflict_do_update(
            index_elements=[ArrivalRow.trigger_id, ArrivalRow.digest],
            set_={"invocation_id": invocation_id, "created_ms": now},
            where=ArrivalRow.created_ms <= now - KEPT_MS,
        )
        first = session.execute(rows.returning(ArrivalRow.digest)).first() is not None
        if first:
            self._came[trigger_id] += 1
        return first

    async def one_pass(self) -> None:
        """Forget what is over a day old, and of a trigger what is more than it may have."""
        old = ArrivalRow.created_ms <= self._clock() - KEPT_MS
        while await self._database.together(lambda session: _remove(session, old)) == BATCH:
            pass
        for trigger_id, count in list(self._came.items()):
            if count >= LOOKED_AFTER:
                del self._came[trigger_id]
                await self._cut(trigger_id)

    async def _cut(self, trigger_id: str) -> None:
        of = ArrivalRow.trigger_id == trigger_id
        newest = select(ArrivalRow.created_ms).where(of).order_by(ArrivalRow.created_ms.desc())
        beyond = newest.offset(self._per_trigger).limit(1)
        last = await self._database.look(lambda session: session.scalar(beyond))
        if last is None:
            return
        over = of & (ArrivalRow.created_ms < last)
        while await self._database.together(lambda session: _remove(session, over)) == BATCH:
            pass


def _remove(session: Session, which: ColumnElement[bool]) -> int:
    """Remove some of those, the oldest first; returns how many."""
    key = tuple_(ArrivalRow.trigger_id, ArrivalRow.digest)
    some = select(ArrivalRow.trigger_id, ArrivalRow.digest).where(which)
    some = some.order_by(ArrivalRow.created_ms).limit(BATCH)
    gone = session.execute(
        delete(ArrivalRow)
        .where(key.in_(some))
        .returning(ArrivalRow.digest)
        .execution_options(synchronize_session=False)
    )
    return len(gone.all())


def _is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"
