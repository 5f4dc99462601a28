"""Bodies of requests: how much of them is held in memory at once, and for how long.

A body is held from its first byte until its request is answered. One account's are half of what may
be held at most, whether they still come or wait to be answered: what would be more is refused. When
those of several accounts are too many together, one that still comes gives way: of the account that
holds most, the largest. So who sends much, or sends without ever coming to an end, takes room from
themselves.
"""

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager

from fastapi import Request

from cakework.domain.errors import NoRoom, TooLarge, TooSlow
from cakework.domain.ids import AccountId
from cakework.server.api.costs import Reckoning
from cakework.turns import Turns

FIRST_S = 30.0
"""For a body to come, and besides so long for each of its bytes as a slow line takes."""
BYTES_PER_S = 64 * 1024
LARGE_BYTES = 1 << 20
PACE_BYTES_PER_S = 48 << 20
"""At which large bodies are taken in, all together: as fast as they can come they would leave the
loop, which serves everybody, no time for anything else."""


class Bodies:
    """The bodies that a server holds, ``bytes_max`` in all; one may have ``one_max``."""

    def __init__(self, bytes_max: int, one_max: int) -> None:
        self._bytes_max = max(bytes_max, 2 * one_max)
        self._share = self._bytes_max // 2
        self._bodies: set[Body] = set()
        self._pace: Turns[AccountId] = Turns(1)

    @contextmanager
    def one(self, account: AccountId) -> Generator["Body"]:
        """Give room for one body of ``account``, until the block ends."""
        body = Body(self, account)
        self._bodies.add(body)
        try:
            yield body
        finally:
            self._bodies.discard(body)

    async def pace(self, account: AccountId, size: int) -> None:
        """Wait as long as ``size`` bytes more of a large body of ``account`` take to come, after
        those of others whose turn it is."""
        async with self._pace.hold(account):
            await asyncio.sleep(size / PACE_BYTES_PER_S)

    def make_room(self, account: AccountId) -> None:
        """Have bodies give way until the others are no more than may be held.

        Raises:
            NoRoom: ``account`` has more than its share.
        """
        if sum(body.size for body in self._bodies if body.account == account) > self._share:
            raise NoRoom("Too many large bodies of the account came at once; send this one later.")
        staying = [body for body in self._bodies if not body.gives_way]
        while sum(body.size for body in staying) > self._bytes_max:
            body = _most_in_the_way(staying)
            body.give_way()
            staying.remove(body)


class Body:
    """One body, from when it begins to come; ``size`` is how much of it is here, in bytes, and
    ``reckoning`` what that may cost."""

    def __init__(self, bodies: Bodies, account: AccountId) -> None:
        self.account = account
        self.size = 0
        self.reckoning = Reckoning()
        self.gives_way = False
        self.comes = True
        self._bodies = bodies
        self._clock: asyncio.Timeout | None = None

    async def read(self, request: Request, bytes_max: int) -> bytes:
        """Return the body once it is here.

        Raises:
            TooLarge: it has over ``bytes_max`` bytes, or says so.
            TooSlow: it does not come in time.
            NoRoom: it would be too many with others of its account, or gave way to another's.
        """
        too_large = TooLarge(f"The body is larger than the {bytes_max >> 20} MiB taken here.")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > bytes_max:
            raise too_large
        chunks: list[bytes] = []
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout_at(began + FIRST_S) as self._clock:
                async for chunk in request.stream():
                    self.size += len(chunk)
                    if self.size > bytes_max:
                        raise too_large
                    chunks.append(chunk)
                    self.reckoning.add(chunk)
                    self._clock.reschedule(began + FIRST_S + self.size / BYTES_PER_S)
                    self._bodies.make_room(self.account)
                    if self.gives_way:
                        raise TimeoutError
                    if self.size > LARGE_BYTES:
                        waits = loop.time()
                        await self._bodies.pace(self.account, len(chunk))
                        # That was not the sender.
                        began += loop.time() - waits
        except TimeoutError as error:
            if self.gives_way:
                raise NoRoom("Too many large bodies came at once; send this one again.") from error
            raise TooSlow(
                f"The body came too slowly: {BYTES_PER_S >> 10} KiB a second are expected."
            ) from error
        finally:
            self.comes = False
        return b"".join(chunks)

    def give_way(self) -> None:
        """Have the reading end as soon as may be."""
        self.gives_way = True
        if self._clock is not None:
            self._clock.reschedule(asyncio.get_running_loop().time())


def _most_in_the_way(bodies: list[Body]) -> Body:
    """Return what gives way: one is always still coming, as that is when it is asked for."""
    held: defaultdict[AccountId, int] = defaultdict(int)
    for body in bodies:
        held[body.account] += body.size
    coming = (body for body in bodies if body.comes)
    return max(coming, key=lambda body: (held[body.account], body.size))
