"""Gathering: what comes while the last of it is being dealt with is taken together."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

MOST_WAITING = 16
"""Chunks that are read ahead."""
BATCH_BYTES = 256 * 1024
AT_ONCE = 4
EVERY_S = 0.05


class Pace:
    """Lets ``at_once`` go by without delay, and more one in ``every_s``: the generic cell rate
    algorithm of ITU-T I.371."""

    def __init__(self, at_once: int = AT_ONCE, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._early_s = (at_once - 1) * every_s
        self._due = 0.0

    async def wait(self) -> None:
        """Return when the next may go by."""
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now)
        wait_s = self._due - self._early_s - now
        self._due += self._every_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)


@asynccontextmanager
async def gathered(chunks: AsyncIterator[bytes]) -> AsyncGenerator[AsyncIterator[bytes]]:
    """Give what ``chunks`` gives in fewer and larger ones, each all that has come by then.

    The first ones of a while come at once, so that nothing is late when little happens; when much
    does, each has more in it. What ``chunks`` raises is raised when all before it was given.
    """
    waiting: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(MOST_WAITING)

    async def read() -> None:
        try:
            async for chunk in chunks:
                await waiting.put(chunk)
        except Exception as error:
            await waiting.put(error)
        else:
            await waiting.put(None)

    reading = asyncio.create_task(read())
    try:
        yield _batches(waiting)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _batches(waiting: asyncio.Queue[bytes | Exception | None]) -> AsyncIterator[bytes]:
    pace = Pace()
    while True:
        last = await waiting.get()
        await pace.wait()
        batch = bytearray()
        while isinstance(last, bytes):
            batch += last
            if len(batch) >= BATCH_BYTES or waiting.empty():
                break
            last = waiting.get_nowait()
        if batch:
            yield bytes(batch)
        if isinstance(last, Exception):
            raise last
        if last is None:
            return
