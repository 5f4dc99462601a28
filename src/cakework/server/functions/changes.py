"""Invocations as they change: for whoever follows the list of them.

Followers look at the store, since what changes an invocation may be another process. A look goes
back a little behind the last: what was written later may bear an earlier time. What was given out
is not given out again unless it changed.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Literal

from sqlalchemy import select, tuple_

from cakework.domain.ids import AccountId
from cakework.server.clock import Clock
from cakework.server.functions.invocations import (
    WITHOUT_BYTES,
    Found,
    InvocationFilter,
    Invocations,
)
from cakework.server.logs.followers import Followers
from cakework.server.logs.lines import Source
from cakework.server.store.database import Database
from cakework.server.store.function_models import InvocationRow

LOOK_S = 0.5
BEHIND_MS = 10_000
"""How late what changed may be seen: a writer waits for its turn, and clocks differ."""
BATCH = 100
HEARTBEAT_S = 15.0
Quiet = Literal["quiet"]
"""Nothing changed for a while."""


class Changes:
    """What changes among the invocations of accounts."""

    def __init__(
        self, database: Database, invocations: Invocations, followers: Followers, clock: Clock
    ) -> None:
        """Look into ``database``; ``followers`` says when the server is going away."""
        self._database = database
        self._invocations = invocations
        self._followers = followers
        self._clock = clock

    @property
    def closing(self) -> bool:
        """Whether following ends because the server is going away."""
        return self._followers.closing

    async def follow(
        self,
        account: AccountId,
        wanted: InvocationFilter,
        after_ms: int | None,
        bytes_max: int,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> AsyncGenerator[list[Found] | Quiet | int]:
        """Yield the time from which on changes are given out, then invocations each time they have
        changed since ``after_ms`` (None: from now on), until the server is going away. One batch
        at a time is in memory.

        Events and results come with those of at most ``bytes_max`` bytes.
        """
        seen: dict[str, _Mark] = {}
        newest = self._clock() if after_ms is None else after_ms
        if after_ms is None:
            async for rows in self._since(account, wanted, newest - BEHIND_MS):
                seen |= {row.id: _mark(row) for row in rows}
        yield newest
        quiet_s = 0.0
        with self._followers.follow(Source(f"invocations:{account}")) as changed:
            while not self._followers.closing:
                looked_ms = self._clock()
                async for rows in self._since(account, wanted, newest - BEHIND_MS):
                    fresh = [row for row in rows if seen.get(row.id) != _mark(row)]
                    if fresh:
                        quiet_s = 0.0
                        yield await self._invocations.found(fresh, bytes_max)
                    # What is older does not come up again.
                    kept = (row for row in fresh if row.updated_ms >= looked_ms - BEHIND_MS)
                    seen |= {row.id: _mark(row) for row in kept}
                newest = max(newest, looked_ms)
                seen = {each: mark for each, mark in seen.items() if mark[0] >= newest - BEHIND_MS}
                if quiet_s >= heartbeat_s:
                    quiet_s = 0.0
                    yield "quiet"
                quiet_s += LOOK_S
                await _within(changed, LOOK_S)

    async def _since(
        self, account: AccountId, wanted: InvocationFilter, since_ms: int
    ) -> AsyncGenerator[list[InvocationRow]]:
        """Yield what changed since then, oldest first, a batch at a time."""
        place = (since_ms, "")
        while True:
            query = (
                select(InvocationRow)
                .where(
                    *wanted.of(account),
                    tuple_(InvocationRow.updated_ms, InvocationRow.id) > place,
                )
                .order_by(InvocationRow.updated_ms, InvocationRow.id)
                .limit(BATCH)
                .options(*WITHOUT_BYTES)
            )
            async with self._database.reading() as session:
                rows = list(await session.scalars(query))
            if rows:
                yield rows
                place = rows[-1].updated_ms, rows[-1].id
            if len(rows) < BATCH:
                return


_Mark = tuple[int, str, int]


def _mark(row: InvocationRow) -> _Mark:
    return row.updated_ms, row.state, row.attempt


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
