"""Dead letters, many at once: replayed at a rate, or discarded.

A replay is asked for by writing down when each is due, and is done by a loop: so it goes on after
a crash, and no caller waits for it. Each is settled in the transaction that takes it again: it is
replayed once, whoever else replays or discards it meanwhile.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

import structlog
from sqlalchemy import BigInteger, ColumnElement, CursorResult, Update, exists, func, select, update
from sqlalchemy import cast as cast_to
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import CakeworkError, Conflict, QueueFull
from cakework.domain.functions import RetryPolicy, policy_of
from cakework.domain.ids import AccountId, FunctionId, InvocationId, UserId
from cakework.domain.invocations import handler_of
from cakework.server.clock import Clock
from cakework.server.functions.invocations import (
    WITHOUT_BYTES,
    InvocationFilter,
    Invocations,
    NewInvocation,
    is_dead_letter,
)
from cakework.server.store.database import Database
from cakework.server.store.function_models import BY_REPLAY, FunctionRow, InvocationRow

AT_ONCE = 50
"""In one pass, of all accounts together."""
PUT_OFF_MS = 60_000
LATER_MS = 5_000
"""Until one for which the queue has no room is looked at again."""
Which = InvocationFilter | Sequence[InvocationId]
_log = structlog.stdlib.get_logger(__name__)


class DeadLetters:
    """The dead letters of accounts."""

    def __init__(
        self, database: Database, invocations: Invocations, clock: Clock, hint: Callable[[], None]
    ) -> None:
        """Replay through ``invocations``; ``hint`` has a pass run soon."""
        self._database = database
        self._invocations = invocations
        self._clock = clock
        self._hint = hint

    async def replay(self, account: AccountId, which: Which, per_second: float | None) -> int:
        """Have dead letters replayed, the oldest first, on what is live; return how many they are.

        ``per_second``: so many of them a second, None for all at once. They are on the list until
        it is their turn. One that was asked for before is due as was said last. Those whose
        function is deleted are left as they are, and not counted.
        """
        gap_ms = 0.0 if per_second is None else 1000 / per_second
        oldest = func.row_number().over(order_by=(InvocationRow.created_ms, InvocationRow.id))
        has_function = exists().where(FunctionRow.id == InvocationRow.function_id)
        chosen = select(InvocationRow.id, (oldest - 1).label("place")).where(
            *_of(account, which), *is_dead_letter(), has_function
        )
        found = chosen.subquery()
        async with self._database.writing() as session:
            due = await _counted(
                session,
                update(InvocationRow)
                .where(InvocationRow.id == found.c.id)
                .values(replay_ms=self._clock() + cast_to(found.c.place * gap_ms, BigInteger)),
            )
        self._hint()
        return due

    async def discard(self, account: AccountId, which: Which) -> int:
        """Take dead letters off their list, and out of any replay; return how many they were."""
        async with self._database.writing() as session:
            return await _counted(
                session,
                update(InvocationRow)
                .where(*_of(account, which), *is_dead_letter())
                .values(settled_ms=self._clock(), replay_ms=None),
            )

    async def one_pass(self) -> None:
        """Replay what is due, of each account as many."""
        is_due, rows = InvocationRow.replay_ms <= self._clock(), list[InvocationRow]()
        async with self._database.reading() as session:
            of = select(InvocationRow.account_id).where(is_due).distinct()
            of = of.with_hint(InvocationRow, BY_REPLAY, "sqlite")
            accounts = list(await session.scalars(of))
            random.shuffle(accounts)
            share = max(1, AT_ONCE // max(1, len(accounts)))
            for account in accounts[:AT_ONCE]:
                due = (
                    select(InvocationRow)
                    .where(is_due, InvocationRow.account_id == account)
                    .order_by(InvocationRow.replay_ms, InvocationRow.id)
                    .limit(share)
                    .options(*WITHOUT_BYTES)
                    .with_hint(InvocationRow, BY_REPLAY, "sqlite")
                )
                rows += await session.scalars(due)
        for row in rows:
            try:
                await self._replay(row)
            except Exception:
                # One that cannot be replayed, for a fault of ours, holds up nobody else's.
                _log.exception("dead_letter.not_replayed", invocation_id=row.id)
                await self._due(row, self._clock() + PUT_OFF_MS)
        if len(rows) >= share:
            self._hint()

    async def _replay(self, row: InvocationRow) -> None:
        (found,) = await self._invocations.found([row])
        again = NewInvocation(
            json.loads(found.event or b"{}"),
            UserId(row.user_id),
            "replay",
            depth=row.depth,
            replay_of=row.id,
            if_dead=True,
            retry=None if row.retry is None else policy_of(row.retry, RetryPolicy()),
            handler=handler_of(row.trigger, row.handler),
        )
        try:
            await self._invocations.take(
                AccountId(row.account_id), FunctionId(row.function_id), again
            )
        except QueueFull:
            await self._due(row, self._clock() + LATER_MS)
        except Conflict:
            # Somebody settled it, or nothing of its function is live.
            await self._due(row, None)
        except CakeworkError as error:
            _log.info("dead_letter.stays", invocation_id=row.id, detail=error.detail)
            await self._due(row, None)

    async def _due(self, row: InvocationRow, at_ms: int | None) -> None:
        async with self._database.writing() as session:
            await session.execute(
                update(InvocationRow)
                .where(InvocationRow.id == row.id, InvocationRow.replay_ms == row.replay_ms)
                .values(replay_ms=at_ms)
            )


def _of(account: AccountId, which: Which) -> list[ColumnElement[bool]]:
    if isinstance(which, InvocationFilter):
        return which.of(account)
    return [InvocationRow.account_id == account, InvocationRow.id.in_(which)]


async def _counted(session: AsyncSession, change: Update) -> int:
    """Make a change; return in how many rows."""
    made = await session.execute(change.execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", made).rowcount
