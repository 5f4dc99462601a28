"""Where the records of a call come from: a body that is read as it comes, or one that is here."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from starlette.types import Receive

from cakework.domain.errors import TooSlow
from cakework.server.transforms.formats import Reader

GROUP_BYTES = 64 * 1024
"""Of records that are taken together, but for the last of them."""
WINDOW_BYTES = 128 * 1024
"""Of records that wait to be taken: while there are more, nothing is read."""
PIECE_BYTES = 32 * 1024
FIRST_S = 30.0
"""For the next record to come, and besides so long for its bytes as a slow line takes."""
BYTES_PER_S = 64 * 1024
"""Both bound, too, how long a sender is waited for in all while nothing is at the handler."""


class Source(Protocol):
    """Gives records."""

    async def take(self, most: int) -> list[bytes]:
        """Return the next records, at least one and at most so many; none at the end.

        Raises:
            BadRecord: the next cannot be read.
            TooSlow: it does not come in time.
        """
        ...


class Given:
    """Records that are here."""

    def __init__(self, records: Sequence[bytes]) -> None:
        self._records = records
        self._at = 0

    async def take(self, most: int) -> list[bytes]:
        """Return the next records; see :class:`Source`."""
        taken: list[bytes] = []
        size = 0
        while self._at < len(self._records) and len(taken) < most and size < GROUP_BYTES:
            taken.append(self._records[self._at])
            size += len(taken[-1])
            self._at += 1
        return taken


class Body:
    """Records of a body, read by ``reader`` as they come; :meth:`run` beside it.

    ``paced`` is asked before so many bytes are looked into; ``idle_since`` says since when nothing
    but the sender is waited for, as the loop's time, infinity if something is. ``gone`` is set when
    the client has left.
    """

    def __init__(
        self,
        receive: Receive,
        reader: Reader,
        paced: Callable[[int], Awaitable[None]],
        idle_since: Callable[[], float],
    ) -> None:
        self._receive = receive
        self._reader = reader
        self._paced = paced
        self._idle_since = idle_since
        self._size = 0
        self._waited_s = 0.0
        self._ended = False
        self._came = asyncio.Event()
        self._taken = asyncio.Event()
        self.gone = asyncio.Event()

    @property
    def waiting_bytes(self) -> int:
        """How much was read and not taken yet."""
        return self._reader.size + self._reader.partial

    async def run(self) -> None:
        """Read the body, no faster than its records are taken; then wait for its client to go."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            await self._feed(message.get("body", b""))
            more = message.get("more_body", False)
        self._reader.end()
        self._ended = True
        self._came.set()
        await self._receive()
        self.gone.set()

    async def take(self, most: int) -> list[bytes]:
        """Return the next records; see :class:`Source`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            if self._reader.is_ready:
                records = self._reader.take(most, GROUP_BYTES)
                self._taken.set()
                if records:
                    return records
            elif self._ended:
                return []
            else:
                self._came.clear()
                due = began + FIRST_S + self._reader.partial / BYTES_PER_S
                await self._wait(due)

    async def _wait(self, due_s: float) -> None:
        began = asyncio.get_running_loop().time()
        left_s = FIRST_S + self._size / BYTES_PER_S - self._waited_s
        idle_s = max(began, self._idle_since())
        try:
            async with asyncio.timeout_at(min(due_s, idle_s + left_s)):
                await self._came.wait()
            self._count(began)
        except TimeoutError as error:
            raise TooSlow(
                f"The next record came too slowly: one within {FIRST_S:.0f} seconds is expected, "
                f"and {BYTES_PER_S >> 10} KiB a second of a long one; nor is a call waited for "
                "longer than that in all."
            ) from error

    def _count(self, began_s: float) -> None:
        """Count how long was waited for the sender alone. Raises TimeoutError: it is too long."""
        now = asyncio.get_running_loop().time()
        self._waited_s += max(0.0, now - max(began_s, self._idle_since()))
        if self._waited_s > FIRST_S + self._size / BYTES_PER_S:
            raise TimeoutError

    async def _feed(self, body: bytes) -> None:
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            waits = asyncio.get_running_loop().time()
            await self._paced(len(piece))
            # That was not the sender.
            self._waited_s -= asyncio.get_running_loop().time() - waits
            self._size += len(piece)
            self._reader.feed(piece)
            self._came.set()
            while self._reader.size > WINDOW_BYTES:
                self._taken.clear()
                await self._taken.wait()
