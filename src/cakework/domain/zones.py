"""Time zones: their names, and what their wall clocks show when.

Wall time is a number here, the seconds that ``time_t`` would have if the clock on the wall showed
UTC: it leaps forward and back where the zone's offset changes. The zones are those of the package
tzdata, so that a time is the same on every host.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from cakework.nearest import nearest

NAME_CHARS_MAX = 64
OFFSET_S_MAX = 16 * 3600
"""No wall clock was ever further from UTC: Manila and Sitka were 15 to 16 hours, long ago."""


class UnknownZone(ValueError):
    """There is no such time zone; ``str()`` of it says so to people."""


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds ``since_s`` to before ``until_s``, while wall time is ``offset_s`` ahead of UTC."""

    since_s: int
    until_s: int
    offset_s: int

    @property
    def wall_since_s(self) -> int:
        """What the wall clock shows at its beginning."""
        return self.since_s + self.offset_s

    @property
    def wall_until_s(self) -> int:
        """What the wall clock would show at its end, did nothing change."""
        return self.until_s + self.offset_s


def zone_named(name: str) -> ZoneInfo:
    """Return the zone of an IANA name, such as Europe/Berlin.

    Raises:
        UnknownZone: there is none. Nothing but names that are known is ever looked up as a file.
    """
    if len(name) > NAME_CHARS_MAX:
        raise UnknownZone(f"must not be longer than {NAME_CHARS_MAX} characters")
    if name not in _names():
        meant = _meant(name.rpartition("/")[2])
        hint = f"; did you mean {meant}?" if meant else ""
        raise UnknownZone(f"must be the name of a time zone, such as Europe/Berlin or UTC{hint}")
    return _loaded(name)


def offset_s(zone: ZoneInfo, at_s: int) -> int:
    """Return how far the wall clock is ahead of UTC at ``at_s``."""
    offset = datetime.fromtimestamp(at_s, zone).utcoffset() or timedelta()
    return offset.days * 86_400 + offset.seconds


def spans(zone: ZoneInfo, since_s: int, until_s: int) -> Iterator[Span]:
    """Yield the spans between two instants, in order.

    They are to be few days apart: a change that is undone between them is not seen.
    """
    last_s = offset_s(zone, until_s - 1)
    while since_s < until_s:
        here_s = offset_s(zone, since_s)
        end_s = until_s if here_s == last_s else _change(zone, since_s, until_s - 1, here_s)
        yield Span(since_s, end_s, here_s)
        since_s = end_s


def _change(zone: ZoneInfo, before_s: int, after_s: int, offset_before_s: int) -> int:
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        if offset_s(zone, middle_s) == offset_before_s:
            before_s = middle_s
        else:
            after_s = middle_s
    return after_s


@cache
def _names() -> frozenset[str]:
    return frozenset(files("tzdata").joinpath("zones").read_text("ascii").split())


def _meant(place: str) -> str | None:
    """People err in what comes before the place, and in its letters but for the first."""
    known = [each for each in _by_place() if each[0] == place[:1].upper()]
    found = nearest(place, known)
    return _by_place()[found] if found else None


@cache
def _by_place() -> dict[str, str]:
    """The shortest name of each place."""
    ordered = sorted(_names(), key=lambda name: (-len(name), name))
    return {name.rpartition("/")[2]: name for name in ordered}


@cache
def _loaded(name: str) -> ZoneInfo:
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)
