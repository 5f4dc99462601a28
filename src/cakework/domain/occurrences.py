"""Occurrences: when a trigger's schedule comes round, and what is made up for of those missed.

    the schedule's times ──▶ each later by the trigger's offset ──▶ from startAt to before endAt

Each is one invocation. Which are due at a time, and when the next is, is decided from the trigger
and that time alone: whoever is asked again, after a crash, says the same.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cakework.domain.schedules import AT_MS_MAX, Schedule, occurrences
from cakework.domain.triggers import MISSED_MAX, CronConfig

EVENT_TYPE = "cakework.trigger.cron"
LATE_MS = 60_000
"""Until then an occurrence is late, and afterwards it was missed."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Occurrences:
    """A schedule's times, each ``offset_ms`` later; from ``start_ms`` to before ``end_ms``."""

    schedule: Schedule
    offset_ms: int = 0
    start_ms: int | None = None
    end_ms: int | None = None

    @classmethod
    def of(cls, trigger_id: str, config: CronConfig) -> "Occurrences":
        """Return those of a trigger."""
        offset_ms = offset_s(trigger_id, config.spread) * 1000
        return cls(config.schedule(), offset_ms, config.start_ms, config.end_ms)

    def after(self, at_ms: int) -> int | None:
        """Return the first after ``at_ms``, in unix milliseconds; None: there is none, up to the
        end of 9999."""
        if self.start_ms is not None:
            at_ms = max(at_ms, self.start_ms - 1)
        found = self.schedule.after(at_ms - self.offset_ms)
        if found is None:
            return None
        found += self.offset_ms
        if found > AT_MS_MAX or (self.end_ms is not None and found >= self.end_ms):
            return None
        return found

    def has(self, at_ms: int) -> bool:
        """Say whether there is one at that time."""
        return self.after(at_ms - 1) == at_ms

    def first(self, most: int, after_ms: int) -> list[int]:
        """Return the first ``most`` after ``after_ms``."""
        found: list[int] = []
        at_ms = self.after(after_ms)
        while at_ms is not None and len(found) < most:
            found.append(at_ms)
            at_ms = self.after(at_ms)
        return found

    def last(self, most: int, from_ms: int, until_ms: int) -> tuple[list[int], int]:
        """Return the last ``most`` of those from ``from_ms`` up to and with ``until_ms``, the
        oldest first; and how many there are of these."""
        from_ms = max(from_ms, self.start_ms or 0)
        until_ms = until_ms if self.end_ms is None else min(until_ms, self.end_ms - 1)
        since_ms = from_ms - 1 - self.offset_ms
        times, count = occurrences(self.schedule, since_ms, until_ms - self.offset_ms, most)
        return [at_ms + self.offset_ms for at_ms in times], count


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One that is due. It makes up for ``missed`` ones, itself counted if it is one of them."""

    at_ms: int
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Due:
    """What is due of a trigger, the oldest first, and when it is due again (None: never).

    ``lost`` ones were missed, and nothing makes up for them.
    """

    occurrences: tuple[Occurrence, ...]
    next_ms: int | None
    lost: int = 0


def offset_s(trigger_id: str, spread_s: int) -> int:
    """Return how much later a trigger comes than its schedule says: from 0 to before ``spread_s``,
    always the same."""
    if not spread_s:
        return 0
    digest = hashlib.sha256(trigger_id.encode()).digest()
    return int.from_bytes(digest[:8]) % spread_s


def next_due(trigger_id: str, config: CronConfig, after_ms: int) -> int | None:
    """Return when a trigger is due first after ``after_ms``, in unix milliseconds; None: never."""
    return Occurrences.of(trigger_id, config).after(after_ms)


def next_times(trigger_id: str, config: CronConfig, count: int, after_ms: int) -> list[int]:
    """Return the first ``count`` times after ``after_ms``, in unix milliseconds."""
    return Occurrences.of(trigger_id, config).first(count, after_ms)


def event_of(trigger_id: str, config: CronConfig, occurrence: Occurrence) -> dict[str, Any]:
    """Return the event of an occurrence: its time is when that was to be."""
    at = _EPOCH + timedelta(milliseconds=occurrence.at_ms)
    event: dict[str, Any] = {
        "type": EVENT_TYPE,
        "source": f"/triggers/{trigger_id}",
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if config.data is not None:
        event["data"] = config.data
    if occurrence.missed:
        event["cakeworkmissed"] = occurrence.missed
    return event


def due(coming: Occurrences, config: CronConfig, next_ms: int, now_ms: int) -> Due:
    """Say what is due of a trigger that has had everything before ``next_ms``.

    Where nothing comes at ``next_ms`` any more, since what is known of its zone has changed, what
    is past is let be.
    """
    late_ms = now_ms - LATE_MS
    if not coming.has(next_ms):
        return Due((), coming.after(now_ms))
    if next_ms > late_ms:
        return Due(*_in_time(coming, next_ms, now_ms))
    if config.missed == "latest":
        return _latest(coming, config, next_ms, now_ms)
    in_time, again_ms = _in_time(coming, coming.after(late_ms), now_ms)
    since_ms = max(next_ms, now_ms - config.missed_window * 1000)
    times, _ = coming.last(MISSED_MAX, since_ms, late_ms)
    if config.missed == "skip" or not times:
        return Due(in_time, again_ms, coming.last(1, next_ms, late_ms)[1])
    # The first one counts for those before it, too.
    first = Occurrence(times[0], coming.last(1, next_ms, times[0])[1])
    return Due((first, *(Occurrence(at_ms, 1) for at_ms in times[1:]), *in_time), again_ms)


def _in_time(
    coming: Occurrences, next_ms: int | None, now_ms: int
) -> tuple[tuple[Occurrence, ...], int | None]:
    """Return those from ``next_ms`` up to now, which are few, and when the next one is."""
    found: list[Occurrence] = []
    while next_ms is not None and next_ms <= now_ms:
        found.append(Occurrence(next_ms))
        next_ms = coming.after(next_ms)
    return tuple(found), next_ms


def _latest(coming: Occurrences, config: CronConfig, next_ms: int, now_ms: int) -> Due:
    """Return the newest in the place of all that did not come in their time."""
    (at_ms,), count = coming.last(1, next_ms, now_ms)
    again_ms = coming.after(now_ms)
    if at_ms > now_ms - LATE_MS:
        return Due((Occurrence(at_ms, count - 1),), again_ms)
    if at_ms < now_ms - config.missed_window * 1000:
        return Due((), again_ms, count)
    return Due((Occurrence(at_ms, count),), again_ms)
