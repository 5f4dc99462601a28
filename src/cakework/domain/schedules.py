"""When a trigger fires: by a rule of cron, every so many seconds, or once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from cakework.domain import zones
from cakework.domain.cron import COUNT_MAX, BadSchedule, Cron
from cakework.domain.zones import Span

__all__ = ["BadSchedule", "Cron", "Every", "Once", "Schedule", "occurrences", "remarks"]

EVERY_S_MIN = 10
EVERY_S_MAX = 31 * 86_400
AT_MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999."""
AROUND_S = 25 * 3600
"""A change of the wall clock within this of a time concerns it: a leap of a day leads to it."""


@dataclass(frozen=True, slots=True)
class Every:
    """At multiples of ``seconds`` since 1970-01-01 00:00 UTC.

    Raises:
        BadSchedule: ``seconds`` is too small or too large.
    """

    seconds: int

    def __post_init__(self) -> None:
        if not EVERY_S_MIN <= self.seconds <= EVERY_S_MAX:
            raise BadSchedule("every", f"must be from {EVERY_S_MIN} to {EVERY_S_MAX} seconds")

    def after(self, at_ms: int) -> int:
        """Return when it comes first after ``at_ms``, in unix ms."""
        every_ms = self.seconds * 1000
        return (at_ms // every_ms + 1) * every_ms


@dataclass(frozen=True, slots=True)
class Once:
    """At one instant, in unix ms.

    Raises:
        BadSchedule: it is before 1970 or after 9999.
    """

    at_ms: int

    def __post_init__(self) -> None:
        if not 0 <= self.at_ms <= AT_MS_MAX:
            raise BadSchedule("at", "must be a time from 1970 to 9999")

    def after(self, at_ms: int) -> int | None:
        """Return when it comes, in unix ms, if that is after ``at_ms``."""
        return self.at_ms if self.at_ms > at_ms else None


Schedule = Cron | Every | Once


def occurrences(
    schedule: Schedule, after_ms: int, until_ms: int, at_most: int
) -> tuple[list[int], int]:
    """Return when ``schedule`` comes after ``after_ms`` and not after ``until_ms``, in unix ms:
    the newest ``at_most``, oldest first; and how many there are in all, or ``COUNT_MAX``."""
    if isinstance(schedule, Cron):
        return schedule.newest(after_ms, until_ms, at_most)
    if isinstance(schedule, Once):
        count = int(after_ms < schedule.at_ms <= until_ms)
        return [schedule.at_ms][: min(count, at_most)], count
    every_ms = schedule.seconds * 1000
    first, last = after_ms // every_ms + 1, until_ms // every_ms
    newest = range(max(first, last - at_most + 1), last + 1)
    return [number * every_ms for number in newest], min(max(0, last - first + 1), COUNT_MAX)


def remarks(schedule: Schedule, times_ms: Sequence[int]) -> list[str]:
    """Return sentences on what changes of the wall clock do to those times, and to others of
    ``schedule`` within a day of them. No rule but one of cron goes by the wall clock."""
    if not isinstance(schedule, Cron):
        return []
    changes = {
        later.since_s: (earlier, later)
        for at_ms in times_ms
        for earlier, later in pairwise(_around(schedule, at_ms // 1000))
    }
    return [words for at_s in sorted(changes) for words in _remark(schedule, *changes[at_s])]


def _around(rule: Cron, at_s: int) -> Iterator[Span]:
    return zones.spans(rule.zone, at_s - AROUND_S, at_s + AROUND_S)


def _remark(rule: Cron, earlier: Span, later: Span) -> Iterator[str]:
    leaps_from_s, leaps_to_s = earlier.wall_until_s, later.wall_since_s
    is_forward = leaps_to_s > leaps_from_s
    named = rule.walls(min(leaps_from_s, leaps_to_s), max(leaps_from_s, leaps_to_s))
    if not named:
        return
    one = len(named) == 1
    if is_forward:
        what = "does not exist" if one else "do not exist"
        at = _written(leaps_to_s, named[0])
        then = f"at {at}" if one else f"once, at {at}"
        then = f"runs {then}" if rule.is_fixed else "does not run then"
    else:
        what = "comes twice" if one else "come twice"
        then = f"runs {'the first time only' if rule.is_fixed else 'both times'}"
    times = _written(named[0]) + ("" if one else f" to {_written(named[-1], named[0])}")
    yield f"{times} {what} in {rule.time_zone}; it {then}."


def _written(wall_s: int, beside_s: int | None = None) -> str:
    """Without the date where it is that of ``beside_s``."""
    wall = datetime.fromtimestamp(wall_s, UTC)
    if beside_s is not None and datetime.fromtimestamp(beside_s, UTC).date() == wall.date():
        return f"{wall:%H:%M}"
    return f"{wall:%Y-%m-%d %H:%M}"
