"""How much work may wait, of a function's and of an account's, and how much of it is kept.

What waits is counted in the store, but not for each that comes: see ``services/rooms.py``.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from cakework.domain.errors import QueueFull
from cakework.server.clock import Clock
from cakework.server.services.rooms import Rooms
from cakework.server.store.function_models import BY_ACCOUNT, BY_TURN, WAITS, InvocationRow

PER_FUNCTION = 10_000
PER_ACCOUNT = 100_000
MB_PER_ACCOUNT = 2_048
"""With what is kept of work that has ended, of which the oldest goes before (keeping.py)."""
RETRY_AFTER_S = 5


class WaitingLimits:
    """Refuses work when as much waits as may."""

    def __init__(
        self,
        clock: Clock,
        per_function: int = PER_FUNCTION,
        per_account: int = PER_ACCOUNT,
        mb_per_account: int = MB_PER_ACCOUNT,
    ) -> None:
        self._per_function = per_function
        self._per_account = per_account
        self._bytes_per_account = mb_per_account << 20
        self._rooms = Rooms(clock)

    def check(self, session: Session, row: InvocationRow) -> None:
        """Count an invocation that is about to wait, and what is kept of it. Raises QueueFull."""
        self.check_waiting(session, row)
        self.check_bytes(session, row)

    def check_all(
        self, session: Session, account: str, counts: Mapping[str, int], size: int
    ) -> None:
        """Count invocations of an account that are about to wait, so many of each function and
        ``size`` bytes together. Raises QueueFull where there is no room for all."""
        if not counts:
            return
        waiting: dict[str, int] = {}

        def left(function_id: str) -> int:
            # One count for all of them.
            if not waiting:
                waiting.update(dict.fromkeys(counts, 0) | _waiting(session, list(counts)))
            return max(0, self._per_function - waiting[function_id])

        for function_id, count in counts.items():
            if not self._rooms.take(function_id, partial(left, function_id), count):
                raise self._full("function", self._per_function)
        of_account = InvocationRow.account_id == account
        self._check(session, "account", account, of_account, sum(counts.values()))
        self._check_bytes(session, account, size)

    def check_waiting(self, session: Session, row: InvocationRow) -> None:
        """Count an invocation that is about to wait. Raises QueueFull."""
        of_function = InvocationRow.function_id == row.function_id
        self._check(session, "function", row.function_id, of_function, 1)
        of_account = InvocationRow.account_id == row.account_id
        self._check(session, "account", row.account_id, of_account, 1)

    def check_bytes(self, session: Session, row: InvocationRow) -> None:
        """Count what is kept of an invocation, whether or not it waits. Raises QueueFull."""
        self._check_bytes(session, row.account_id, row.weight())

    def _check(
        self, session: Session, whose: str, key: str, which: ColumnElement[bool], amount: int
    ) -> None:
        of_function = whose == "function"
        most = self._per_function if of_function else self._per_account
        index = BY_TURN if of_function else BY_ACCOUNT
        if not self._rooms.take(key, lambda: _left(session, which, index, most), amount):
            raise self._full(whose, most)

    def _full(self, whose: str, most: int) -> QueueFull:
        return QueueFull(
            f"The {whose} has {most} invocations waiting, as many as it may.",
            retry_after_s=RETRY_AFTER_S,
        )

    def _check_bytes(self, session: Session, account: str, amount: int) -> None:
        most = self._bytes_per_account
        key = f"bytes of {account}"
        if not self._rooms.take(key, lambda: _bytes_left(session, account, most), amount):
            raise QueueFull(
                f"The account's invocations take {most >> 20} MiB with their results, as much as "
                "they may; the oldest that have ended go soon.",
                retry_after_s=RETRY_AFTER_S,
            )


def _left(session: Session, which: ColumnElement[bool], index: str, most: int) -> int:
    """Return how much more may wait; no more is counted than may."""
    some = select(1).select_from(InvocationRow).where(WAITS, which).limit(most)
    some = some.with_hint(InvocationRow, index, "sqlite").subquery()
    return most - (session.scalar(select(func.count()).select_from(some)) or 0)


def _waiting(session: Session, function_ids: Sequence[str]) -> dict[str, int]:
    """Return how much waits of some functions, where there is any."""
    of = InvocationRow.function_id
    query = select(of, func.count()).where(WAITS, of.in_(function_ids)).group_by(of)
    query = query.with_hint(InvocationRow, BY_TURN, "sqlite")
    return {each[0]: each[1] for each in session.execute(query)}


def _bytes_left(session: Session, account_id: str, most: int) -> int:
    kept = select(func.coalesce(func.sum(InvocationRow.kept_bytes), 0))
    kept = kept.where(InvocationRow.account_id == account_id)
    return max(0, most - int(session.scalar(kept) or 0))
