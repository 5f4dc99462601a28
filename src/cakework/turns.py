"""Turns: so many at once, by account, so that one who hangs or asks much holds up no other.

    hold ──▶ waiting ──▶ holding ──▶ given back
                └──────▶ gone, without a turn: cancelled, or its time is over

Who waits is served by account: first the account that holds the fewest, and among those the one
for which nothing happened longest: no turn given or given back, no first asking. So accounts that
ask for more than there is take turns, one each, however many wait of one of them.

What is held may be held long, and nobody's turn is taken away; so no account ever holds more than
its share, which by default is half, rounded up. Half and not all but one, because the others then
have as much together as the one has, and whatever they do takes at most twice as long as alone. Of
one there are no halves: there, who hangs has to be ended by a time-out.

State is in memory alone: it is of work that ends with the process.
"""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncGenerator, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Crowded(Exception):
    """As many of one account wait already as may."""


class Turns(Generic[Key]):
    """Gives turns to accounts, or whatever else ``Key`` names, within one event loop.

    Nothing is kept of an account that neither holds a turn nor waits for one.
    """

    def __init__(
        self, at_once: int, *, each: int | None = None, waiting: int | None = None
    ) -> None:
        """Have ``at_once`` turns, of which one account holds ``each`` at most (None: half, rounded
        up) and waits for ``waiting`` at most (None: any number).
        """
        share = (at_once + 1) // 2 if each is None else min(each, at_once)
        if share < 1:
            raise ValueError("there must be a turn for everybody")
        self._free = at_once
        self._each = share
        self._may_wait = waiting
        self._held: Counter[Key] = Counter()
        self._waiting: dict[Key, deque[asyncio.Future[None]]] = {}
        self._since: dict[Key, int] = {}
        self._count = itertools.count()

    @asynccontextmanager
    async def hold(self, key: Key) -> AsyncGenerator[None]:
        """Wait for a turn, and hold it while the block runs.

        Raises:
            Crowded: too many of ``key`` wait.
        """
        await self.wait(key)
        try:
            yield
        finally:
            self.give_back(key)

    async def wait(self, key: Key) -> None:
        """Wait for a turn, to be given back, for work that does not end with a block.

        Raises:
            Crowded: too many of ``key`` wait.
        """
        if not self.take(key):
            await self._wait(key)

    def take(self, key: Key) -> bool:
        """Take a turn that is to be had now, to be given back; say whether there was one."""
        # Where a turn is free, nobody waits who may have it: it was passed on.
        if not self._free or self._held[key] >= self._each:
            return False
        self._give(key)
        return True

    def give_back(self, key: Key) -> None:
        """Give a turn back, and pass it on to whose turn it is."""
        if not self._held[key]:
            raise RuntimeError(f"{key} holds no turn")
        self._held[key] -= 1
        self._free += 1
        self._since[key] = next(self._count)
        self._pass_on()
        self._forget(key)

    def whose(self, wanting: Iterable[Key]) -> Key | None:
        """Return whose turn it is of those; None when none of them may have one now.

        Of those that are alike, and of those that neither hold nor wait, the first.
        """
        if not self._free:
            return None
        may = (key for key in wanting if self._held[key] < self._each)
        return min(may, key=lambda key: (self._held[key], self._since.get(key, -1)), default=None)

    @property
    def free(self) -> int:
        """How many turns nobody holds."""
        return self._free

    async def _wait(self, key: Key) -> None:
        queue = self._waiting.setdefault(key, deque())
        if self._may_wait is not None and len(queue) >= self._may_wait:
            self._forget(key)
            raise Crowded(f"{len(queue)} wait already")
        self._since.setdefault(key, next(self._count))
        waiter = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                # The turn came, and its owner is cancelled before it knows.
                self.give_back(key)
            else:
                queue.remove(waiter)
                self._forget(key)
            raise

    def _pass_on(self) -> None:
        # Who is cancelled stays in the queue until it runs again, and is no one to serve.
        while (key := self.whose(self._that_wait())) is not None:
            waiter = next(each for each in self._waiting[key] if not each.done())
            self._waiting[key].remove(waiter)
            self._give(key)
            waiter.set_result(None)

    def _that_wait(self) -> Iterable[Key]:
        return (
            key
            for key, queue in self._waiting.items()
            if any(not waiter.done() for waiter in queue)
        )

    def _give(self, key: Key) -> None:
        self._free -= 1
        self._held[key] += 1
        self._since[key] = next(self._count)

    def _forget(self, key: Key) -> None:
        """Keep nothing of who neither holds nor waits."""
        if not self._waiting.get(key):
            self._waiting.pop(key, None)
            if not self._held[key]:
                self._held.pop(key, None)
                self._since.pop(key, None)
