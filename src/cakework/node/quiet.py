"""Knowing when no start is under way, so that what is made ahead of demand costs none."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


class Quiet:
    """Counts the starts that are under way."""

    def __init__(self) -> None:
        self._starts = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def disturbed(self) -> Generator[None]:
        """While a start is under way."""
        self._starts += 1
        self._none.clear()
        try:
            yield
        finally:
            self._starts -= 1
            if not self._starts:
                self._none.set()

    async def wait(self) -> None:
        """Return when no start is under way."""
        await self._none.wait()
