"""Room that is given out: what there is of something is counted, but not for each that comes.

Of the room that a count has found, a part is given out before the next count, for a moment. So a
count of ten thousand is paid for by a hundred, and several servers together give out hardly more
than there is.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cakework.server.clock import Clock

SERVERS_MOST = 10
"""As many may give out of the same room."""
COUNTED_MS = 1_000
FULL_MS = 100
"""How long a count holds, and one that found no room, unless it is said."""
KNOWN_MOST = 10_000


@dataclass(slots=True)
class _Room:
    """What may be given out until a time; ``full``: there was nothing."""

    left: int
    until_ms: int
    full: bool


class Rooms:
    """Rooms by name, each as large as its last count said."""

    def __init__(self, clock: Clock, counted_ms: int = COUNTED_MS, full_ms: int = FULL_MS) -> None:
        """Have a count hold for ``counted_ms``, one that found no room for ``full_ms``."""
        self._clock = clock
        self._counted_ms = counted_ms
        self._full_ms = full_ms
        self._known: OrderedDict[str, _Room] = OrderedDict()

    def take(self, key: str, count: Callable[[], int], amount: int = 1) -> bool:
        """Take ``amount`` of the room ``key``, of which ``count`` returns what is left; say whether
        there was as much."""
        now = self._clock()
        room = self._known.get(key)
        if room is None or room.until_ms <= now or not (room.left >= amount or room.full):
            left = count()
            share = max(left // SERVERS_MOST, min(left, amount))
            full = share < amount
            room = _Room(share, now + (self._full_ms if full else self._counted_ms), full)
            self._known[key] = room
            self._known.move_to_end(key)
            if len(self._known) > KNOWN_MOST:
                self._known.popitem(last=False)
        if room.full:
            return False
        room.left -= amount
        return True
