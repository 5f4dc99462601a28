"""Claims: one at a time, or so many, may be at work on a thing, within this process."""

import asyncio
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Claims(Generic[Key]):
    """Locks by key that exist only while somebody holds one or waits for it."""

    def __init__(self, at_once: int = 1) -> None:
        """Begin with nothing claimed; ``at_once`` is how many may hold a key."""
        self._at_once = at_once
        self._locks: dict[Key, asyncio.Semaphore] = {}
        self._users: dict[Key, int] = {}

    @asynccontextmanager
    async def hold(self, key: Key) -> AsyncGenerator[None]:
        """Wait for the claim on ``key`` and hold it."""
        lock = self._locks.setdefault(key, asyncio.Semaphore(self._at_once))
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]

    def held(self, key: Key) -> bool:
        """Say whether somebody holds the claim on ``key`` or waits for it."""
        return key in self._locks
