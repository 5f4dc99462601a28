"""Invocations as they change: for whoever follows the list of them.

Followers look at the store, since what changes an invocation may be another process. A look goes
back a little behind the last: what was written later may bear an earlier time. What was given out
is not given out again unless it changed. Whether anything changed is asked once for all followers
of an account, and these look in turns.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from typing import Literal

from sqlalchemy import func, select, tuple_

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
from cakework.turns import Turns

LOOK_S = 0.5
BEHIND_MS = 10_000
"""How late what changed may be seen: a writer waits for its turn, and clocks differ."""
BATCH = 100
LOOKS_AT_ONCE = 4
"""Of all followers; of those of one account half as many."""
KNOWN_MAX = 1_000
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
        self._turns: Turns[AccountId] = Turns(LOOKS_AT_ONCE)
        self._known: OrderedDict[AccountId, tuple[float, _Digest]] = OrderedDict()

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
        known: _Digest | None = None
        with self._followers.follow(Source(f"invocations:{account}")) as changed:
            while not self._followers.closing:
                looked_ms = self._clock()
                if (now := await self._digest(account)) != known:
                    known = now
                    async for rows in self._since(account, wanted, newest - BEHIND_MS):
                        fresh = [row for row in rows if seen.get(row.id) != _mark(row)]
                        if fresh:
                            quiet_s = 0.0
                            yield await self._found(account, fresh, bytes_max)
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

    async def _digest(self, account: AccountId) -> "_Digest":
        """Return what is another when an invocation of an account has changed of late."""
        loop = asyncio.get_running_loop()
        async with self._turns.hold(account):
            known = self._known.get(account)
            if known is not None and known[0] > loop.time() - LOOK_S / 2:
                return known[1]
            changed, now = InvocationRow.updated_ms, loop.time()
            query = select(func.count(), func.sum(changed), func.max(changed)).where(
                InvocationRow.account_id == account, changed > self._clock() - 2 * BEHIND_MS
            )
            async with self._database.reading() as session:
                count, size, last = (await session.execute(query)).one()
            digest = (count, int(size or 0), last or 0)
            self._known[account] = now, digest
            self._known.move_to_end(account)
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
            return digest

    async def _found(
        self, account: AccountId, rows: list[InvocationRow], bytes_max: int
    ) -> list[Found]:
        async with self._turns.hold(account):
            return await self._invocations.found(rows, bytes_max)

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
            async with self._turns.hold(account), self._database.reading() as session:
                rows = list(await session.scalars(query))
            if rows:
                yield rows
                place = rows[-1].updated_ms, rows[-1].id
            if len(rows) < BATCH:
                return


_Digest = tuple[int, int, int]
_Mark = tuple[int, str, int]


def _mark(row: InvocationRow) -> _Mark:
    return row.updated_ms, row.state, row.attempt


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
