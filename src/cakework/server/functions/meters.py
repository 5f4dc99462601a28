"""How fast things of a key go: what is kept of rules that spread starts, or skip what is too much.

A key is whatever a stranger's event says, so of an account there are only so many at a time; what
comes beyond goes by one that its rule has for all of them. Keys that say nothing any more are
forgotten by the flow loop.
"""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cakework.domain.flow import Meter
from cakework.server.clock import Clock
from cakework.server.services.rooms import Rooms
from cakework.server.store.flow_models import MeterRow

KEYS_PER_ACCOUNT = 100_000
US_PER_MS = 1_000


@dataclass(frozen=True, slots=True)
class Key:
    """What is measured: of an account, by its own name, or by the one that is for all others."""

    account_id: str
    own: str
    others: str


class Meters:
    """Measures, within transactions that have locked the flow."""

    def __init__(self, clock: Clock, keys_per_account: int = KEYS_PER_ACCOUNT) -> None:
        self._rooms = Rooms(clock)
        self._most = keys_per_account

    def next_start(self, session: Session, key: Key, meter: Meter, now_ms: int) -> int:
        """Return when what comes now may start, in unix milliseconds, and count it."""
        row = self._row(session, key)
        start_us, row.until_us = meter.next_start(row.until_us, now_ms * US_PER_MS)
        session.flush()
        return -(-start_us // US_PER_MS)

    def admit(self, session: Session, key: Key, meter: Meter, now_ms: int) -> bool:
        """Say whether what comes now is not too much, and count it if so."""
        row = self._row(session, key)
        until_us = meter.admit(row.until_us, now_ms * US_PER_MS)
        if until_us is None:
            return False
        row.until_us = until_us
        session.flush()
        return True

    def _row(self, session: Session, key: Key) -> MeterRow:
        if (row := session.get(MeterRow, key.own)) is not None:
            return row
        name = key.own
        if not self._rooms.take(key.account_id, lambda: self._left(session, key.account_id)):
            name = key.others
            if (row := session.get(MeterRow, name)) is not None:
                return row
        row = MeterRow(key=name, account_id=key.account_id, until_us=0)
        session.add(row)
        return row

    def _left(self, session: Session, account_id: str) -> int:
        some = select(1).where(MeterRow.account_id == account_id).limit(self._most).subquery()
        return self._most - (session.scalar(select(func.count()).select_from(some)) or 0)
