"""Rules of five fields, as Debian's cron has them, and the instants that they mean in a time zone.

cronsim reads the fields and says which days match. It is not asked about zones: around changes of
half an hour it errs. What happens where wall clocks leap is decided here:

- A rule whose minute and hour both begin without ``*`` names fixed times. One that a leap leaves
  out comes at the first instant after it; one that is there twice comes the first time only.
- Any other rule follows real time: it comes at every instant whose wall time matches.

When both fields of days begin without ``*``, a day matches either; else it has to match both.
``L`` and ``#`` are ours: ``L`` is the last day of the month, ``5L`` its last Friday, ``1#2`` its
second Monday.
"""

from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from cakework.domain import zones
from cakework.domain.zones import OFFSET_S_MAX, Span

CRON_CHARS_MAX = 256
COUNT_MAX = 100_000
"""Further than this, occurrences are not counted."""
MONTHS_MAX = 50 * 12
"""How far a rule is looked ahead: 29 February is a Monday after 40 years at the latest."""
DAY_S = 86_400
AT_S_MAX = 253_000_000_000
"""In the year 9987. Dates end with 9999."""
MONTH_END = 12 * 9999
_EPOCH = date(1970, 1, 1).toordinal()
FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_TAKEN = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz*,-/# \t")
_FORMS = {
    "minute": "0 to 59, such as 5, 0,30, 10-20 or */15",
    "hour": "0 to 23, such as 9, 9,17, 8-18 or */2",
    "day of month": "1 to 31, such as 1, 1,15, 1-7, */2, or L for the last",
    "month": "1 to 12 or JAN to DEC, such as 6, 1,7, JAN-MAR or */3",
    "day of week": "0 to 7 or SUN to SAT (0 and 7 are Sunday), such as 1-5, MON,FRI, 5L or 1#2",
}
_MEANT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


class BadSchedule(ValueError):
    """No such schedule can be. ``str()`` of it says why, for people; ``field`` is what is wrong:
    ``cron``, ``timeZone``, ``every`` or ``at``."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


@dataclass(frozen=True, slots=True)
class Cron:
    """A rule in a time zone; made by :meth:`parse`."""

    text: str
    time_zone: str
    zone: ZoneInfo = field(repr=False, compare=False)
    _fields: CronSim = field(repr=False, compare=False)
    _minutes: tuple[int, ...] = field(repr=False, compare=False)
    """Those of a day that match, ascending."""
    _days: dict[tuple[int, int], tuple[int, ...]] = field(
        default_factory=dict[tuple[int, int], tuple[int, ...]], repr=False, compare=False
    )
    """Those that match of months that were looked at: by weekday of the first, and length."""

    @classmethod
    def parse(cls, text: str, time_zone: str = "UTC") -> "Cron":
        """Return the rule that ``text`` is.

        Raises:
            BadSchedule: it is none, or one that never comes; or there is no such time zone.
        """
        fields = _fields(text)
        try:
            zone = zones.zone_named(time_zone)
        except zones.UnknownZone as error:
            raise BadSchedule("timeZone", str(error)) from error
        minutes = tuple(60 * h + m for h in sorted(fields.hours) for m in sorted(fields.minutes))
        rule = cls(text, time_zone, zone, fields, minutes)
        if next(rule._dates(_months_after(date(2000, 1, 1))), None) is None:
            raise BadSchedule(
                "cron", "never comes: no day is both its day of the month and its day of the week"
            )
        return rule

    @property
    def is_fixed(self) -> bool:
        """Whether it names times of the wall clock, and does not follow real time."""
        minute, hour = self.text.split()[:2]
        return not minute.startswith("*") and not hour.startswith("*")

    def after(self, at_ms: int) -> int | None:
        """Return when it comes first after ``at_ms``, in unix ms; None when dates end before.

        Times before 1970 count as 1970.
        """
        after_s = max(at_ms // 1000, -1)
        if after_s > AT_S_MAX:
            return None
        start = self._wall_date(after_s, -DAY_S)
        found_s: int | None = None
        for day in self._dates(_months_after(start)):
            # A day of which a part is shown again may have come when the next had begun.
            if found_s is not None and found_s <= _midnight_s(day) - OFFSET_S_MAX:
                break
            first_s = self._first(day, after_s) if day >= start else None
            if first_s is not None and (found_s is None or first_s < found_s):
                found_s = first_s
        return None if found_s is None else found_s * 1000

    def newest(self, after_ms: int, until_ms: int, at_most: int) -> tuple[list[int], int]:
        """Return when it comes after ``after_ms`` and not after ``until_ms``, in unix ms: the
        newest ``at_most``, ascending; and how often in all, or ``COUNT_MAX``."""
        after_s, until_s = max(after_ms // 1000, -1), min(until_ms // 1000, AT_S_MAX)
        if until_s <= after_s:
            return [], 0
        first, last = self._wall_date(after_s, -DAY_S), self._wall_date(until_s, DAY_S)
        found: set[int] = set()
        others = 0
        for day in self._dates(range(_month(last), _month(first) - 1, -1)):
            if len(found) + others >= COUNT_MAX:
                break
            if len(found) >= at_most and self._is_plain(day, after_s, until_s):
                others += len(self._minutes)
            elif first <= day <= last:
                found.update(at_s for at_s in self._instants(day) if after_s < at_s <= until_s)
        newest = sorted(found)[max(0, len(found) - at_most) :]
        return [at_s * 1000 for at_s in newest], min(len(found) + others, COUNT_MAX)

    def walls(self, since_s: int, until_s: int) -> list[int]:
        """Return the times of the wall clock that it names, from ``since_s`` to before ``until_s``,
        whether or not the clock shows them. They are to be few days apart."""
        days = range(since_s // DAY_S, (until_s - 1) // DAY_S + 1)
        dates = (_date(day * DAY_S) for day in days)
        return [
            at_s
            for day in dates
            if day.day in self._days_of(day.year, day.month)
            for at_s in self._walls(day, since_s, until_s)
        ]

    def _dates(self, months: range) -> Iterator[date]:
        for number in months:
            year, month = number // 12, number % 12 + 1
            for day in self._days_of(year, month)[:: months.step]:
                yield date(year, month, day)

    def _days_of(self, year: int, month: int) -> tuple[int, ...]:
        if month not in self._fields.months:
            return ()
        shape = monthrange(year, month)
        if shape not in self._days:
            matches = self._fields.match_day
            days = range(1, shape[1] + 1)
            self._days[shape] = tuple(day for day in days if matches(date(year, month, day)))
        return self._days[shape]

    def _first(self, day: date, after_s: int) -> int | None:
        for since_s, span in self._parts(day):
            if after_s >= span.since_s:
                since_s = max(since_s, after_s + span.offset_s + 1)
            for at_s in self._walls(day, since_s, span.wall_until_s):
                return max(at_s, span.wall_since_s) - span.offset_s
        return None

    def _instants(self, day: date) -> Iterator[int]:
        for since_s, span in self._parts(day):
            for at_s in self._walls(day, since_s, span.wall_until_s):
                yield max(at_s, span.wall_since_s) - span.offset_s

    def _parts(self, day: date) -> Iterator[tuple[int, Span]]:
        """The spans around a day, each with the wall time of the first that comes in it. For fixed
        times that is where the spans before it ended: so a leap's come at its end, and none
        twice."""
        around = self._spans(day)
        shown_s = around[0].wall_since_s
        for span in around:
            yield (shown_s if self.is_fixed else span.wall_since_s), span
            shown_s = max(shown_s, span.wall_until_s)

    def _is_plain(self, day: date, after_s: int, until_s: int) -> bool:
        """Whether a day comes once as a whole between those instants."""
        since_s = _midnight_s(day) - OFFSET_S_MAX
        ends_s = _midnight_s(day) + DAY_S + OFFSET_S_MAX
        return after_s < since_s and ends_s <= until_s and len(self._spans(day)) == 1

    def _spans(self, day: date) -> list[Span]:
        midnight_s = _midnight_s(day)
        until_s = midnight_s + DAY_S + OFFSET_S_MAX
        return list(zones.spans(self.zone, midnight_s - OFFSET_S_MAX, until_s))

    def _walls(self, day: date, since_s: int, until_s: int) -> Iterator[int]:
        midnight_s = _midnight_s(day)
        first = bisect_left(self._minutes, _minutes_up(since_s - midnight_s))
        last = bisect_left(self._minutes, _minutes_up(until_s - midnight_s))
        return (midnight_s + 60 * minute for minute in self._minutes[first:last])

    def _wall_date(self, at_s: int, further_s: int) -> date:
        return _date(at_s + zones.offset_s(self.zone, at_s) + further_s)


def _fields(text: str) -> CronSim:
    parts = _parts(text)
    try:
        fields = _read(parts)
    except CronSimError as error:
        raise BadSchedule("cron", _fault(parts)) from error
    for name, part in zip(FIELDS, parts, strict=True):
        _check_terms(name, part)
    return fields


def _parts(text: str) -> list[str]:
    if len(text) > CRON_CHARS_MAX:
        raise BadSchedule("cron", f"must not be longer than {CRON_CHARS_MAX} characters")
    if text.lstrip().startswith("@"):
        meant = _MEANT.get(text.strip().lower())
        hint = f"write {meant}" if meant else f"write five fields: {', '.join(FIELDS)}"
        raise BadSchedule("cron", f"must not be a name that begins with @; {hint}")
    if not _TAKEN.issuperset(text):
        raise BadSchedule("cron", "must be of letters, digits, *, commas, -, /, # and spaces")
    parts = text.upper().split()
    if len(parts) != len(FIELDS):
        hint = "; for seconds there is `every`" if len(parts) == len(FIELDS) + 1 else ""
        raise BadSchedule("cron", f"must have five fields: {', '.join(FIELDS)}{hint}")
    return parts


def _fault(parts: list[str]) -> str:
    for index, name in enumerate(FIELDS):
        if not _is_right(["*"] * index + [parts[index]] + ["*"] * (len(FIELDS) - index - 1)):
            return f"{name} must be {_FORMS[name]}"
    fields = _read([*parts[:2], "*", parts[3], "*"])
    months = " or ".join(_MONTHS[month - 1] for month in sorted(fields.months))
    return f"never comes: there is no {min(_read([*parts[:3], '*', '*']).days)} {months}"


def _is_right(parts: list[str]) -> bool:
    try:
        _read(parts)
    except CronSimError:
        return False
    return True


def _read(parts: list[str]) -> CronSim:
    # The time is nowhere used: of what cronsim has, the fields and `match_day` are.
    return CronSim(" ".join(parts), datetime(2000, 1, 1, tzinfo=UTC))


def _check_terms(name: str, part: str) -> None:
    """Refuse what cronsim takes and Debian's cron does not, but for what is ours."""
    for term in part.split(","):
        first, slash, step = term.partition("/")
        if name == "day of month" and "L" in term and term != "L":
            raise BadSchedule("cron", f"{name} must be {_FORMS[name]}")
        if slash and first != "*" and "-" not in first:
            last = _FORMS[name].split()[2].rstrip(",")
            hint = f"{first}-{last}/{step}"
            raise BadSchedule("cron", f"{name}: a step needs a range; not {term} but {hint}")


def _months_after(day: date) -> range:
    return range(_month(day), min(_month(day) + MONTHS_MAX, MONTH_END))


def _month(day: date) -> int:
    return 12 * day.year + day.month - 1


def _midnight_s(day: date) -> int:
    return (day.toordinal() - _EPOCH) * DAY_S


def _date(wall_s: int) -> date:
    return date.fromordinal(_EPOCH + wall_s // DAY_S)


def _minutes_up(seconds: int) -> int:
    return -(-seconds // 60)
