"""A background loop: a pass over what is there, again and again.

A pass takes no input; a hint or the timer only says "look now". The next pass is the retry of
one that failed, so what is done after a crash is what is always done.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cakework.domain.errors import Unavailable

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 10.0
_log = structlog.stdlib.get_logger(__name__)


class Loop:
    """Runs a pass when hinted and every ``period_s``; soon again, later and later, on failure."""

    def __init__(
        self,
        name: str,
        one_pass: Callable[[], Awaitable[None]],
        period_s: float,
        hinted: asyncio.Event | None = None,
        *,
        first_after_s: float = 0.0,
    ) -> None:
        """Give a name for the log, the pass, and the time between passes without a hint.

        Whoever sets ``hinted`` has a pass run soon. The first is run ``first_after_s`` after the
        start, for what need not be done while everything else is taken up.
        """
        self._name = name
        self._pass = one_pass
        self._period_s = period_s
        self._hinted = hinted or asyncio.Event()
        self._first_after_s = first_after_s
        self._failures = 0

    async def run(self) -> None:
        """Run passes until cancelled."""
        await asyncio.sleep(self._first_after_s)
        while True:
            self._hinted.clear()
            wait_s = await self._run_pass()
            try:
                async with asyncio.timeout(wait_s):
                    await self._hinted.wait()
            except TimeoutError:
                continue

    async def _run_pass(self) -> float:
        """Run one pass; returns how long to wait for the next, in seconds."""
        try:
            await self._pass()
        except Unavailable as error:
            self._failures += 1
            _log.info("loop.waits", loop=self._name, detail=error.detail, failures=self._failures)
        except Exception:
            self._failures += 1
            _log.exception("loop.failed", loop=self._name, failures=self._failures)
        else:
            self._failures = 0
            return self._period_s
        return retry_wait_s(self._failures)


def retry_wait_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row, in seconds."""
    return min(RETRY_FIRST_S * 2 ** min(failures - 1, 10), RETRY_LAST_S)
