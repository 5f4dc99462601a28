"""Who waits for a log to grow, or to end. Waking says "look again"; it carries nothing."""

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from cakework.server.logs.lines import Source


class Followers:
    """Wakes those who follow a log. A follower that is behind costs one flag, not a queue."""

    def __init__(self) -> None:
        """Begin with nobody following."""
        self._waiting: dict[Source, set[asyncio.Event]] = {}
        self.closing = False

    @contextmanager
    def follow(self, source: Source) -> Generator[asyncio.Event]:
        """Give an event that is set when ``source`` may have changed; clear it before looking."""
        event = asyncio.Event()
        events = self._waiting.setdefault(source, set())
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events and self._waiting.get(source) is events:
                del self._waiting[source]

    def wake(self, sources: Iterable[Source]) -> None:
        """Have everyone who follows one of ``sources`` look again."""
        for source in sources:
            for event in self._waiting.get(source, ()):
                event.set()

    def close(self) -> None:
        """Have everyone look again and find that the server is going away."""
        self.closing = True
        self.wake(list(self._waiting))
