"""How much work may wait, of a function's and of an account's, and how much of it is kept.

What waits is counted in the store, but not for each that comes: of the room that a count has found,
a part is given out before the next count, for a moment. So a count of ten thousand is paid for by a
hundred, and several servers together give out hardly more than there is.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from cakework.domain.errors import QueueFull
from cakework.server.clock import Clock
from cakework.server.store.function_models import BY_ACCOUNT, BY_TURN, WAITS, InvocationRow

PER_FUNCTION = 10_000
PER_ACCOUNT = 100_000
MB_PER_ACCOUNT = 2_048
"""With what is kept of work that has ended, of which the oldest goes before (keeping.py)."""
RETRY_AFTER_S = 5
SERVERS_MOST = 10
"""As many may give out of the same room."""
COUNTED_MS = 1_000
FULL_MS = 100
"""How long a count holds, and one that found no room."""
KNOWN_MOST = 10_000


@dataclass(slots=True)
class _Room:
    """What may be given out until a time; ``full``: there was nothing."""

    left: int
    until_ms: int
    full: bool


class Rooms:
    """Gives out of what was counted, by names of what that is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: OrderedDict[str, _Room] = OrderedDict()

    def has(self, key: str, count: Callable[[], int], amount: int = 1) -> bool:
        """Take ``amount`` of what ``count`` finds to be left, if that is there."""
        now = self._clock()
        room = self._known.get(key)
        if room is None or room.until_ms <= now or not (room.left >= amount or room.full):
            left = count()
            share = max(left // SERVERS_MOST, min(left, amount))
            full = share < amount
            room = _Room(share, now + (FULL_MS if full else COUNTED_MS), full)
            self._known[key] = room
            self._known.move_to_end(key)
            if len(self._known) > KNOWN_MOST:
                self._known.popitem(last=False)
        if room.full:
            return False
        room.left -= amount
        return True


class WaitingLimits:
    """Refuses work when as much waits as may."""

    def __init__(
        self,
        clock: Clock,
        per_function: int = PER_FUNCTION,
        per_account: int = PER_ACCOUNT,
        mb_per_account: int = MB_PER_ACCOUNT,
    ) -> None:
        self._rooms = Rooms(clock)
        self._per_function = per_function
        self._per_account = per_account
        self._bytes_per_account = mb_per_account << 20

    def check(self, session: Session, row: InvocationRow) -> None:
        """Count an invocation that is about to wait, and what is kept of it. Raises QueueFull."""
        self.check_waiting(session, row)
        self.check_bytes(session, row)

    def check_waiting(self, session: Session, row: InvocationRow) -> None:
        """Count an invocation that is about to wait. Raises QueueFull."""
        of_function = InvocationRow.function_id == row.function_id
        of_account = InvocationRow.account_id == row.account_id
        for whose, key, which, index, most in (
            ("function", row.function_id, of_function, BY_TURN, self._per_function),
            ("account", row.account_id, of_account, BY_ACCOUNT, self._per_account),
        ):
            if not self._has_room(key, lambda w=which, i=index, m=most: _left(session, w, i, m)):
                raise QueueFull(
                    f"The {whose} has {most} invocations waiting, as many as it may.",
                    retry_after_s=RETRY_AFTER_S,
                )

    def check_bytes(self, session: Session, row: InvocationRow) -> None:
        """Count what is kept of an invocation, whether or not it waits. Raises QueueFull."""
        most = self._bytes_per_account
        key, weight = f"bytes of {row.account_id}", row.weight()
        if not self._has_room(key, lambda: _bytes_left(session, row.account_id, most), weight):
            raise QueueFull(
                f"The account's invocations take {most >> 20} MiB with their results, as much as "
                "they may; the oldest that have ended go soon.",
                retry_after_s=RETRY_AFTER_S,
            )

    def _has_room(self, key: str, count: Callable[[], int], amount: int = 1) -> bool:
        return self._rooms.has(key, count, amount)


def _left(session: Session, which: ColumnElement[bool], index: str, most: int) -> int:
    """Return how much more may wait; no more is counted than may."""
    some = select(1).select_from(InvocationRow).where(WAITS, which).limit(most)
    some = some.with_hint(InvocationRow, index, "sqlite").subquery()
    return most - (session.scalar(select(func.count()).select_from(some)) or 0)


def _bytes_left(session: Session, account_id: str, most: int) -> int:
    kept = select(func.coalesce(func.sum(InvocationRow.kept_bytes), 0))
    kept = kept.where(InvocationRow.account_id == account_id)
    return max(0, most - int(session.scalar(kept) or 0))
