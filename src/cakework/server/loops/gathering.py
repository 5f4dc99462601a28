"""Gathering: what comes while the last of it is being dealt with is taken together."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

BATCH_BYTES = 256 * 1024
"""What is read ahead, and a chunk more."""
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


class _Inflow:
    """What has come and was not taken yet. Reading waits while that is a batch already."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._change = asyncio.Condition()

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        """Read all of ``chunks``."""
        try:
            async for chunk in chunks:
                async with self._change:
                    self._held += chunk
                    self._change.notify_all()
                    await self._change.wait_for(lambda: len(self._held) < BATCH_BYTES)
        except Exception as error:
            self._error = error
        async with self._change:
            self._ended = True
            self._change.notify_all()

    async def batches(self) -> AsyncIterator[bytes]:
        """Give all that has come, again and again."""
        pace = Pace()
        while True:
            async with self._change:
                await self._change.wait_for(lambda: self._held or self._ended)
            if not self._held:
                break
            await pace.wait()
            async with self._change:
                batch = bytes(self._held)
                self._held.clear()
                self._change.notify_all()
            yield batch
        if self._error is not None:
            raise self._error


@asynccontextmanager
async def gathered(chunks: AsyncIterator[bytes]) -> AsyncGenerator[AsyncIterator[bytes]]:
    """Give what ``chunks`` gives in fewer and larger ones, each all that has come by then.

    The first ones of a while come at once, so that nothing is late when little happens; when much
    does, each has more in it. What ``chunks`` raises is raised when all before it was given.
    """
    inflow = _Inflow()
    reading = asyncio.create_task(inflow.read(chunks))
    try:
        yield inflow.batches()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
