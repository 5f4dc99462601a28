"""What large bodies cost when they are looked into: many times their size, bounded over all.

A body is there as it came, as text, as what becomes of its files, and as the order that is kept and
given on. What that may take is reckoned before it is read, and as much is kept free until the
request is answered; who finds no room waits for it, by account.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cakework.domain.errors import NoRoom
from cakework.domain.ids import AccountId

WAIT_S = 60.0
PLAIN, WIDE = 9, 12
"""Bytes for each byte of a body with files: measured with 48 MiB, 8.3 for ASCII and 11.4 where one
character of another kind makes all characters of its text four bytes long."""
VALUE_BYTES = 250
"""Of an object or a list that is empty, with its place in another: 64 to 232."""


class Reckoning:
    """What a body of JSON may cost, reckoned piece by piece as it comes: to count at once what is
    in a large one holds up everything else for a tenth of a second."""

    def __init__(self) -> None:
        self._size = 0
        self._values = 1
        self._plain = True
        self._last = b""

    def add(self, piece: bytes) -> None:
        """Look at the next bytes of the body."""
        self._size += len(piece)
        self._values += len(piece) - len(piece.translate(None, b",:[{"))
        if self._plain:
            self._plain = piece.isascii() and b"\\u" not in self._last + piece
        self._last = piece[-1:]

    def cost(self, values_max: int) -> int:
        """Return how many bytes of memory it may take, with at most so many values."""
        by_size = self._size * (PLAIN if self._plain else WIDE)
        return by_size + min(self._values, values_max) * VALUE_BYTES


@dataclass(eq=False, slots=True)
class _Waiter:
    account: AccountId
    cost: int
    served: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Costs:
    """The memory that large bodies take together, ``bytes_max`` of it, half of it for one account.

    One that is alone, or the only one of its account, is taken whatever it costs.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: defaultdict[AccountId, int] = defaultdict(int)
        self._waiting: list[_Waiter] = []

    @asynccontextmanager
    async def hold(self, account: AccountId, cost: int) -> AsyncGenerator[None]:
        """Wait for room for one body of ``account``, and keep it while the block runs.

        Raises:
            NoRoom: there was none in time.
        """
        waiter = _Waiter(account, cost)
        self._waiting.append(waiter)
        self._serve()
        try:
            async with asyncio.timeout(WAIT_S):
                await waiter.served
            yield
        except TimeoutError as error:
            if waiter.served.done() and not waiter.served.cancelled():
                raise
            raise NoRoom("Too many large bodies came at once; send this one again.") from error
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:
                self._held[account] -= cost
                if not self._held[account]:
                    del self._held[account]
            self._serve()

    def _serve(self) -> None:
        """Give room to whose turn it is, as long as there is some: never to a later one instead,
        so that a large one comes to its turn."""
        while (waiter := self._next()) is not None and self._fits(waiter):
            self._waiting.remove(waiter)
            self._held[waiter.account] += waiter.cost
            waiter.served.set_result(None)

    def _next(self) -> _Waiter | None:
        """The first of the account that holds least, of those that may have more."""
        may = (each for each in self._waiting if not each.served.done() and self._may_more(each))
        return min(may, key=lambda each: self._held.get(each.account, 0), default=None)

    def _may_more(self, waiter: _Waiter) -> bool:
        held = self._held.get(waiter.account, 0)
        return not held or held + waiter.cost <= self._bytes_max // 2

    def _fits(self, waiter: _Waiter) -> bool:
        return not self._held or sum(self._held.values()) + waiter.cost <= self._bytes_max
