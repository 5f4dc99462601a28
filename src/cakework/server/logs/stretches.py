"""Stretches of a log: of each only the first lines are kept, then one says that there were more.

A stretch begins where an attempt does, and where it has ended. It is told before the attempt can
print, and held in memory alone: after a start of the server it is told again of attempts that go
on, and what is not known is kept.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from cakework.server.logs.lines import Source

SOURCES_MAX = 10_000
"""Logs whose stretches are held; those that had none for longest are let go of."""
BOUNDS_MAX = 64
"""Of one log; lines of more attempts than that are hardly under way at once."""


def notice(most: int) -> str:
    """Return the line that stands for those that are not kept."""
    return f"[cakework: more than {most:,} lines were printed: the others are left out]"


@dataclass(frozen=True, slots=True)
class Begun:
    """Where the stretches of one log begin, in order; of each ``most`` lines are kept."""

    behind: Sequence[int]
    most: int

    def over(self, seq: int) -> int:
        """Return by how many a line is beyond those that its stretch keeps; 0 for none."""
        place = bisect_left(self.behind, seq)
        return max(0, seq - self.behind[place - 1] - self.most) if place else 0


class Stretches:
    """Where stretches of logs begin; of each ``most`` lines are kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: OrderedDict[Source, tuple[int, ...]] = OrderedDict()

    def begin(self, source: Source, last: int) -> None:
        """A stretch begins behind line ``last`` of a log."""
        known = self._begun.get(source, ())
        if last not in known:
            # In one step: a thread that stores lines looks at it.
            self._begun[source] = tuple(sorted((*known, last)))[-BOUNDS_MAX:]
        self._begun.move_to_end(source)
        while len(self._begun) > SOURCES_MAX:
            self._begun.popitem(last=False)

    def of(self, source: Source) -> Begun:
        """Return the stretches of a log."""
        return Begun(self._begun.get(source, ()), self._most)


NO_STRETCHES = Stretches(0)
"""Every line is kept."""
