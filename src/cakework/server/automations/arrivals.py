"""What came in at webhooks, so that what comes again is not done again.

Providers send a delivery again when they were not answered, or not in time. It has the same id
then, or at least the same body; a digest of that is kept for a day, with the invocation that was
made, and is written in the transaction that makes it. Of two at once one is first: the key of the
table says so, whatever servers they came to.

Of one trigger ``PER_TRIGGER`` are kept at most: of more in a day the oldest go before their time.
Of all triggers of an account ``PER_ACCOUNT`` are: what would be more is refused.
"""

import hashlib
from collections import Counter

from sqlalchemy import ColumnElement, delete, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from cakework.domain.errors import QuotaExceeded
from cakework.domain.ids import AccountId
from cakework.server.clock import Clock
from cakework.server.services.rooms import Rooms
from cakework.server.store.automation_models import ArrivalRow, TriggerRow
from cakework.server.store.database import Database

KEPT_MS = 24 * 3600 * 1000
PER_TRIGGER = 100_000
PER_ACCOUNT = 1_000_000
COUNTED_MS = 60_000
FULL_MS = 30_000
"""How long it is gone by how many an account has, and by that it has too many: counting takes
long."""
FULL_RETRY_S = 60
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

    def __init__(
        self,
        database: Database,
        clock: Clock,
        per_trigger: int = PER_TRIGGER,
        per_account: int = PER_ACCOUNT,
    ) -> None:
        """Remember in ``database``, ``per_trigger`` and ``per_account`` at most."""
        self._database = database
        self._clock = clock
        self._per_trigger = per_trigger
        self._per_account = per_account
        self._rooms = Rooms(clock, COUNTED_MS, FULL_MS)
        self._came: Counter[str] = Counter()
        self._came_since_ms = clock()

    def find(self, session: Session, trigger_id: str, digest: str) -> ArrivalRow | None:
        """Return what came in before, within a transaction; None if it did not in a day."""
        query = select(ArrivalRow).where(
            ArrivalRow.trigger_id == trigger_id,
            ArrivalRow.digest == digest,
            ArrivalRow.created_ms > self._clock() - KEPT_MS,
        )
        return session.scalar(query.execution_options(populate_existing=True))

    def check(self, session: Session, account: AccountId) -> None:
        """Count one more of an account's, which is about to be noted. Raises QuotaExceeded."""
        most = self._per_account
        if not self._rooms.take(account, lambda: max(0, most - _count(session, account, most))):
            raise QuotaExceeded(
                f"{most} deliveries to the account's webhooks are remembered, as many as may be; "
                "the oldest are forgotten after a day.",
                retry_after_s=FULL_RETRY_S,
            )

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
        if self._clock() - self._came_since_ms > KEPT_MS:
            # What came of the others is over.
            self._came.clear()
            self._came_since_ms = self._clock()

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


def _count(session: Session, account: AccountId, most: int) -> int:
    """Return how many an account has; of more than ``most``, that."""
    of = select(TriggerRow.id).where(TriggerRow.account_id == account)
    some = select(ArrivalRow.trigger_id).where(ArrivalRow.trigger_id.in_(of)).limit(most)
    return session.scalar(select(func.count()).select_from(some.subquery())) or 0


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
