"""A comparison: something of ours and the like of a peer, measured in turns in one run.

These machines are noisy, and what makes one slow makes the other slow as well: so each value
of ours is held against the peer's of the same turn, and both wait until nothing is at work.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from benchmarks.series import Summary, ratios, summarise
from benchmarks.site import Site, say

WARM_UPS = 2


@dataclass(frozen=True)
class Taken:
    """What one turn took, in milliseconds; ``parts`` says where they went, as far as is told."""

    ms: float
    parts: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Comparison:
    """``ours`` against ``peer``. ``goal`` is the ratio that is wanted at the most, if any.

    ``share`` is what the peer's time is multiplied by before it is compared: 1 but where a goal
    is given in those terms.
    """

    ours_name: str
    ours: Callable[[], Taken]
    peer_name: str
    peer: Callable[[], float]
    goal: float | None = None
    share: float = 1.0
    turns: int | None = None


Case = Callable[[Site], AbstractContextManager[Comparison]]


@dataclass(frozen=True)
class Result:
    """What came of a comparison, turn by turn, in milliseconds."""

    case: str
    ours_name: str
    peer_name: str
    goal: float | None
    share: float
    ours: list[Taken]
    peer: list[float]

    @property
    def ratio(self) -> Summary:
        """Ours over the peer's share, turn by turn."""
        return summarise(
            ratios([taken.ms for taken in self.ours], [self.share * ms for ms in self.peer])
        )

    @property
    def parts(self) -> dict[str, Summary]:
        """Where the time of ours went; parts that not every turn told are left out."""
        told = [set(taken.parts) for taken in self.ours]
        names = [name for name in self.ours[0].parts if all(name in turn for turn in told)]
        return {name: summarise([taken.parts[name] for taken in self.ours]) for name in names}


def compare(name: str, case: Case, site: Site, turns: int) -> Result:
    """Measure one case, after some turns that do not count."""
    ours: list[Taken] = []
    peer: list[float] = []
    with case(site) as comparison:
        for turn in range(-WARM_UPS, comparison.turns or turns):
            site.rest()
            taken = comparison.ours()
            site.rest()
            peer_ms = comparison.peer()
            if turn < 0:
                continue
            ours.append(taken)
            peer.append(peer_ms)
            say(
                f"{name} {turn + 1:3}: {taken.ms:6.0f} ms, {comparison.peer_name} {peer_ms:6.0f} ms"
            )
    return Result(
        name,
        comparison.ours_name,
        comparison.peer_name,
        comparison.goal,
        comparison.share,
        ours,
        peer,
    )
