"""When triggers fire: rules as Debian's cron has them, leaps of wall clocks, what is no rule."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo, reset_tzpath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cakework.domain.schedules import (
    AT_MS_MAX,
    BadSchedule,
    Cron,
    Every,
    Once,
    Schedule,
    occurrences,
    remarks,
)
from cakework.domain.zones import zone_named
from tests.properties import examples

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
NONE: list[int] = []
STEP = 30
"""Minutes for which no zone of these tables changes its offset, counted from any half hour."""


def ms(text: str, zone: str = "UTC", fold: int = 0) -> int:
    """Return the instant at which a wall clock shows what ``text`` says."""
    at = datetime.fromisoformat(text).replace(tzinfo=zone_named(zone), fold=fold)
    return int(at.timestamp() * 1000)


def utc(at_ms: int | None) -> str:
    return "never" if at_ms is None else f"{datetime.fromtimestamp(at_ms / 1000, UTC):%F %H:%M}"


def coming(schedule: Schedule, after: str, count: int = 1) -> list[str]:
    """Return the next times in UTC after an instant in UTC."""
    at_ms: int | None = ms(after)
    found: list[str] = []
    while at_ms is not None and len(found) < count:
        at_ms = schedule.after(at_ms)
        found.append(utc(at_ms))
    return found


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as a person who read the manual page would put it."""

    text: str
    minutes: range | tuple[int, ...]
    hours: range | tuple[int, ...]
    day: Callable[[date], bool] = lambda day: True
    """Whether it is for a day."""

    @property
    def is_wild(self) -> bool:
        return any(part.startswith("*") for part in self.text.split()[:2])


def is_last_of_month(day: date) -> bool:
    return (day + timedelta(days=1)).day == 1


def is_nth(day: date, weekday: int, nth: int) -> bool:
    """Count weekdays from Monday, 1, to Sunday, 7."""
    so_far = [
        each for each in range(1, day.day + 1) if day.replace(day=each).weekday() + 1 == weekday
    ]
    return day.isoweekday() == weekday and len(so_far) == nth


def is_last(day: date, weekday: int) -> bool:
    return day.isoweekday() == weekday and (day + timedelta(days=7)).month != day.month


ALL_HOURS = range(24)
RULES = (
    Rule("30 2 * * *", (30,), (2,)),
    Rule("0 0 * * *", (0,), (0,)),
    Rule("15,45 1-3 * * *", (15, 45), (1, 2, 3)),
    Rule("0-59/10 2 * * *", range(0, 60, 10), (2,)),
    Rule("0-59/30 0-23 * * *", range(0, 60, 30), ALL_HOURS),
    Rule("*/20 * * * *", range(0, 60, 20), ALL_HOURS),
    Rule("30 */2 * * *", (30,), range(0, 24, 2)),
    Rule("*/15 2 * * *", range(0, 60, 15), (2,)),
    Rule("* 1-2 1-7 * SUN", range(60), (1, 2), lambda d: d.day <= 7 or d.isoweekday() == 7),
    Rule("30 2 29 2 *", (30,), (2,), lambda d: (d.month, d.day) == (2, 29)),
    Rule("0 3 L * *", (0,), (3,), is_last_of_month),
    Rule("30 2 * * 7L", (30,), (2,), lambda d: is_last(d, 7)),
    Rule("30 2 * MAR SUN#2", (30,), (2,), lambda d: d.month == 3 and is_nth(d, 7, 2)),
    Rule("59 1 * nov sun#1", (59,), (1,), lambda d: d.month == 11 and is_nth(d, 7, 1)),
    Rule("0 9 1,15 * 5", (0,), (9,), lambda d: d.day in (1, 15) or d.isoweekday() == 5),
    Rule("0 9 */2 * 1-5", (0,), (9,), lambda d: d.day % 2 == 1 and d.isoweekday() <= 5),
    Rule("0 9 1-7 * */3", (0,), (9,), lambda d: d.day <= 7 and d.isoweekday() in (7, 3, 6)),
    Rule("59 23 30 12 *", (59,), (23,), lambda d: (d.month, d.day) == (12, 30)),
)
FIVE_YEARS = {
    "Europe/Berlin": 2024,
    "America/New_York": 2024,
    "Australia/Lord_Howe": 2024,
    "Pacific/Apia": 2009,
    "Africa/Casablanca": 2019,
}
"""Those with a leap of a day (Apia, 2011), of half an hour, and back for a month (Casablanca)."""


def half_hours(zone: ZoneInfo, year: int) -> list[tuple[int, int]]:
    """Return each half hour of five years: its beginning in unix minutes, and on wall clocks."""
    first, end = (
        int(datetime(each, 1, 1, tzinfo=UTC).timestamp()) // 60 for each in (year, year + 5)
    )
    found: list[tuple[int, int]] = []
    for minute in range(first, end, STEP):
        offset, until = (
            datetime.fromtimestamp(each * 60, zone).utcoffset()
            for each in (minute, minute + STEP - 1)
        )
        assert offset is not None and offset == until
        found.append((minute, minute + offset // timedelta(minutes=1)))
    return found


class Daemon:
    """Debian's cron, which wakes every minute: what has a star in its minute or hour runs when the
    wall clock matches. All else runs once the wall clock has come to or passed its time, and when
    it is set back, not before it has come to where it was. (Debian's sees a change of more
    than three hours as a correction; for us no change is one.)"""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._days: dict[int, bool] = {}

    def run(self, steps: list[tuple[int, int]]) -> Iterator[int]:
        """Yield the unix minutes at which the rule runs."""
        come_to, is_wild, hours = steps[0][1], self._rule.is_wild, set(self._rule.hours)
        for minute, wall in steps:
            since = wall if is_wild else come_to
            if since == wall and wall // 60 % 24 not in hours:
                come_to = wall + STEP
                continue
            named = {max(0, each - wall) for each in self._named(since, wall + STEP)}
            yield from (minute + each for each in sorted(named))
            come_to = max(come_to, wall + STEP)

    def _named(self, since: int, until: int) -> Iterator[int]:
        for hour in range(since // 60, (until - 1) // 60 + 1):
            if hour % 24 in self._rule.hours and self._is_for(hour // 24):
                walls = range(max(since, hour * 60), min(until, hour * 60 + 60))
                yield from (wall for wall in walls if wall % 60 in self._rule.minutes)

    def _is_for(self, day: int) -> bool:
        if day not in self._days:
            self._days[day] = self._rule.day(date(1970, 1, 1) + timedelta(days=day))
        return self._days[day]


@pytest.mark.parametrize(("name", "year"), FIVE_YEARS.items())
def test_five_years_are_those_of_a_daemon_that_wakes_every_minute(name: str, year: int) -> None:
    """In all: by `occurrences` everything, by `after` whatever is near a change or is rare."""
    steps = half_hours(zone_named(name), year)
    since_ms, until_ms = steps[0][0] * MINUTE_MS, (steps[-1][0] + STEP) * MINUTE_MS
    changes = [
        at * MINUTE_MS for (_, before), (at, after) in pairwise(steps) if after != before + STEP
    ]
    assert len(changes) >= 8
    for rule in RULES:
        ours = Cron.parse(rule.text, name)
        theirs = [minute * MINUTE_MS for minute in Daemon(rule).run(steps)]
        found = whole(ours, since_ms - 1, until_ms - 1)
        assert found == theirs, (rule.text, [utc(at) for at in set(found) ^ set(theirs)][:10])
        newest, count = occurrences(ours, since_ms - 1, until_ms - 1, 3)
        assert (newest, count) == (theirs[-3:], min(len(theirs), 100_000)), rule.text
        asked = [
            change + minutes * MINUTE_MS for change in changes for minutes in range(-100, 190, 15)
        ]
        for at_ms in (*asked, *theirs[:: max(1, len(theirs) // 100)]):
            index = bisect_right(theirs, at_ms)
            if index < len(theirs):
                assert utc(ours.after(at_ms)) == utc(theirs[index]), (rule.text, utc(at_ms))


def whole(schedule: Schedule, after_ms: int, until_ms: int) -> list[int]:
    found: list[int] = []
    while after_ms < until_ms:
        end_ms = min(after_ms + 365 * DAY_MS, until_ms)
        times, count = occurrences(schedule, after_ms, end_ms, 100_000)
        assert len(times) == count < 100_000
        found += times
        after_ms = end_ms
    return found


@pytest.mark.parametrize(
    ("zone", "rule", "after", "expected"),
    [
        ("Europe/Berlin", "30 2 * * *", "2027-03-27T12:00", "03-28 01:00, 03-29 00:30"),
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00", "10-25 00:30, 10-26 01:30"),
        ("Europe/Berlin", "0 3 * * *", "2027-03-27T12:00", "03-28 01:00, 03-29 01:00"),
        ("Europe/Berlin", "0,30 2-3 * * *", "2027-03-28T00:59", "03-28 01:00, 03-28 01:30"),
        ("Europe/Berlin", "*/30 * * * *", "2027-03-28T00:29", "03-28 00:30, 03-28 01:00"),
        ("Europe/Berlin", "*/30 2 * * *", "2026-10-25T00:29", "10-25 00:30, 10-25 01:00"),
        ("Europe/Berlin", "0-59 2 * * *", "2026-10-25T00:58", "10-25 00:59, 10-26 01:00"),
        ("America/New_York", "30 2 * * *", "2026-03-08T00:00", "03-08 07:00, 03-09 06:30"),
        ("America/New_York", "30 1 * * *", "2026-11-01T00:00", "11-01 05:30, 11-02 06:30"),
        ("America/New_York", "30 * * * *", "2026-11-01T05:00", "11-01 05:30, 11-01 06:30"),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00", "10-03 15:30, 10-04 15:15"),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00", "04-04 14:45, 04-05 15:15"),
        ("Australia/Lord_Howe", "0 * * * *", "2026-04-04T14:00", "04-04 15:30, 04-04 16:30"),
        ("Australia/Lord_Howe", "45 * * * *", "2026-04-04T14:00", "04-04 14:45, 04-04 15:15"),
        ("Pacific/Apia", "0 9 * * *", "2011-12-29T19:00", "12-30 10:00, 12-30 19:00"),
        ("Pacific/Apia", "0 9 30 12 *", "2011-01-01T00:00", "12-30 10:00, 12-29 19:00"),
        ("Pacific/Apia", "0 */9 * * *", "2011-12-30T04:00", "12-30 10:00, 12-30 19:00"),
        ("Africa/Casablanca", "30 2 * * *", "2024-03-09T12:00", "03-10 01:30, 03-11 02:30"),
        ("Africa/Casablanca", "30 2 * * *", "2024-04-13T12:00", "04-14 02:00, 04-15 01:30"),
        ("America/St_Johns", "*/15 0,23 * * *", "2010-11-07T02:20", "11-07 02:30, 11-07 02:45"),
        ("America/Havana", "30 0 * * *", "2024-11-02T12:00", "11-03 04:30, 11-04 05:30"),
        ("America/Asuncion", "0 0 * * *", "2023-09-30T12:00", "10-01 04:00, 10-02 03:00"),
    ],
)  # fmt: skip
def test_where_wall_clocks_leap(zone: str, rule: str, after: str, expected: str) -> None:
    """Worked out by hand; all but the zones are in UTC."""
    found = coming(Cron.parse(rule, zone), after, 2)
    assert ", ".join(at[len("2026-") :] for at in found) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("0 9 * * 1-5", ["2026-07-01 09:00", "2026-07-02 09:00", "2026-07-03 09:00"]),
        ("0 9 * * mon-FRI", ["2026-07-01 09:00", "2026-07-02 09:00"]),
        ("1 9 * * 4-5", ["2026-07-02 09:01", "2026-07-03 09:01", "2026-07-09 09:01"]),
        ("  5  4 *\t* Sun ", ["2026-07-05 04:05", "2026-07-12 04:05"]),
        ("5 4 * * 7", ["2026-07-05 04:05"]),
        ("5 4 * * 0", ["2026-07-05 04:05"]),
        ("0 0 1 JAN-DEC/5 *", ["2026-11-01 00:00", "2027-01-01 00:00", "2027-06-01 00:00"]),
        ("50-59/4,3 0 * * *", ["2026-07-01 00:03", "2026-07-01 00:50", "2026-07-01 00:54"]),
        ("0 */9 * * *", ["2026-07-01 09:00", "2026-07-01 18:00", "2026-07-02 00:00"]),
        ("0 0 L * *", ["2026-07-31 00:00", "2026-08-31 00:00", "2026-09-30 00:00"]),
        ("0 0 L 2 *", ["2027-02-28 00:00", "2028-02-29 00:00"]),
        ("0 0 15,L * *", ["2026-07-15 00:00", "2026-07-31 00:00"]),
        ("0 0 * * 5L", ["2026-07-31 00:00", "2026-08-28 00:00"]),
        ("0 0 * * 1#1", ["2026-07-06 00:00", "2026-08-03 00:00"]),
        ("0 0 * * WED#5", ["2026-07-29 00:00", "2026-09-30 00:00"]),
        ("0 0 * * 1#1,5L", ["2026-07-06 00:00", "2026-07-31 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 29 2 1#5", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 */28 2 1#5", ["2044-02-29 00:00", "2072-02-29 00:00", "2112-02-29 00:00"]),
        ("0 0 31 4 1", ["2027-04-05 00:00"]),
        ("30 4 1,15 * 5", ["2026-07-01 04:30", "2026-07-03 04:30", "2026-07-10 04:30"]),
        ("30 4 */14 * 3", ["2026-07-01 04:30", "2026-07-15 04:30", "2026-07-29 04:30"]),
    ],
)  # fmt: skip
def test_rules_are_read_as_debian_reads_them(rule: str, expected: list[str]) -> None:
    """With L and #, which are ours; a day matches either field of days if neither begins with *."""
    assert coming(Cron.parse(rule), "2026-07-01T00:00", len(expected)) == expected


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("0 0 30 2 *", "never comes: there is no 30 February"),
        ("0 0 31 4,6 *", "never comes: there is no 31 April or June"),
        ("0 0 30-31 feb */2", "never comes: there is no 30 February"),
        ("* * */20 * 1L", "never comes: no day is both its day of the month"),
        ("0 0 */31 2 *", None),
        ("0 0 */30 2 1#2", "never comes: no day is both its day of the month"),
        ("* * * * * *", "for seconds there is `every`"),
        ("* * * *", "must have five fields: minute, hour, day of month, month, day of week"),
        ("", "must have five fields"),
        ("@reboot", "must not be a name that begins with @; write five fields"),
        (" @Daily", "write 0 0 * * *"),
        ("60 * * * *", "minute must be 0 to 59"),
        ("* 24 * * *", "hour must be 0 to 23"),
        ("* * 0 * *", "day of month must be 1 to 31"),
        ("* * * 13 *", "month must be 1 to 12 or JAN to DEC"),
        ("* * * * 8", "day of week must be 0 to 7 or SUN to SAT"),
        ("* * * * FRI-MON", "day of week must be"),
        ("* * * * L", "5L"),
        ("* * LW * *", "day of month must be"),
        ("* * L/2 * *", "day of month must be"),
        ("5/15 * * * *", "minute: a step needs a range; not 5/15 but 5-59/15"),
        ("* * * mon *", "month must be"),
        ("*/0 * * * *", "minute must be"),
        ("\u0661 * * * *", "must be of letters, digits"),
        ("0 0 * * \u017fun", "must be of letters, digits"),
        ("0 0 * * *\n", "must be of letters, digits"),
        ("* " * 200, "must not be longer than 256 characters"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused_with_what_to_do(rule: str, reason: str | None) -> None:
    """And what can never come; but 1 February matches */31."""
    if reason is None:
        assert Cron.parse(rule)
        return
    with pytest.raises(BadSchedule) as caught:
        Cron.parse(rule)
    assert reason in str(caught.value)
    assert caught.value.field == "cron"


def hostile() -> list[str]:
    fields = [
        *(
            "**",
            "*-",
            "-",
            "--",
            "-1",
            "1-",
            "1--2",
            "2-1",
            "1-2-3",
            "*/",
            "/",
            "/2",
            "*/-1",
            "*//2",
        ),
        *("*/2/2", ",", "1,", ",1", "1,,2", "#", "1#", "#1", "1#0", "1#6", "1#1#1", "*#1", "1-5#2"),
        *("L1", "LL", "*L", "LW", "W", "15W", "?", "$(id)", "`id`", "1;2", "x", "JANUARY", "0x1"),
        *(
            "1e1",
            "1.5",
            "+1",
            "99999999999999999999",
            "9" * 200,
            "%",
            "\\d",
            "../..",
            "(a+)+",
            "{1}",
        ),
    ]
    at = [
        " ".join(["*"] * index + [field] + ["*"] * (4 - index))
        for field in fields
        for index in range(5)
    ]
    return [
        *at,
        "\0",
        "\r\n",
        "* * * * *\0",
        "*" * 256,
        "* " * 128,
        "1," * 128,
        "*/1," * 64,
        "@" * 256,
    ]


def test_hostile_rules_are_refused() -> None:
    """Each in a short sentence that holds nothing of what is no letter, digit or sign of a rule."""
    refused = hostile()
    assert len(refused) >= 200
    for text in refused:
        with pytest.raises(BadSchedule) as caught:
            Cron.parse(text)
        assert caught.value.field == "cron", text
        assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        *(("Europe/Berln", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin")),
        *(("Berlin", "Europe/Berlin"), ("America/New-York", "America/New_York")),
        *((name, None) for name in ("", ".", "..", "../UTC", "/etc/localtime", "Europe/../UTC")),
        *((name, None) for name in ("Europe", "zones", "tzdata", "Europe//Berlin2\0", "CEST-9")),
        *((name, None) for name in ("a" * 65, "/" * 64, "x" * 10_000, "Europe/Berlin ", "\ud800")),
    ],
)
def test_what_is_no_zone_is_refused(name: str, hint: str | None) -> None:
    """Also what would be a path; with the name that was meant."""
    with pytest.raises(BadSchedule) as caught:
        Cron.parse("0 0 * * *", name)
    assert caught.value.field == "timeZone"
    assert hint is None or str(caught.value).endswith(f"; did you mean {hint}?")


def test_zones_are_those_of_the_package(tmp_path: Path) -> None:
    """What a host has of its own changes nothing."""
    (tmp_path / "Indian").mkdir()
    elsewhere = files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo")
    (tmp_path / "Indian" / "Chagos").write_bytes(elsewhere.read_bytes())
    reset_tzpath([str(tmp_path)])
    try:
        assert ZoneInfo.no_cache("Indian/Chagos").utcoffset(datetime(2026, 7, 1)) == timedelta(
            hours=9
        )
        rule = Cron.parse("0 9 * * *", "Indian/Chagos")
    finally:
        reset_tzpath()
    assert coming(rule, "2026-07-01T00:00") == ["2026-07-01 03:00"]


def test_rules_are_the_same_by_text_and_zone() -> None:
    """What was worked out of them does not count."""
    assert Cron.parse("0 9 * * *") == Cron.parse("0 9 * * *", "UTC")
    assert Cron.parse("0 9 * * *") != Cron.parse("0 9 * * *", "Europe/Berlin")
    assert repr(Cron.parse("0 9 * * *")) == "Cron(text='0 9 * * *', time_zone='UTC')"


@pytest.mark.parametrize("at_ms", [-(10**30), -1, 0, 59_999, 60_000, 10**30, AT_MS_MAX])
def test_any_instant_can_be_asked_about(at_ms: int) -> None:
    """What is before 1970 counts as that; after dates have ended, nothing comes."""
    found = Cron.parse("* * * * *", "Pacific/Kiritimati").after(at_ms)
    expected = max(0, (at_ms // MINUTE_MS + 1) * MINUTE_MS)
    assert found == (expected if at_ms <= 60_000 else None)


def test_every_counts_from_the_epoch() -> None:
    """Strictly after, whatever was before."""
    assert [Every(30).after(at) for at in (0, 1, 29_999, 30_000, -1)] == [30_000] * 3 + [60_000, 0]
    assert Every(7 * 86_400).after(ms("2026-07-01T00:00")) == ms("2026-07-02T00:00")


@pytest.mark.parametrize("seconds", [-1, 0, 9, 31 * 86_400 + 1, 10**30])
def test_every_is_bounded(seconds: int) -> None:
    """From ten seconds to 31 days."""
    with pytest.raises(BadSchedule, match="must be from 10 to 2678400 seconds") as caught:
        Every(seconds)
    assert caught.value.field == "every"


def test_once_comes_once() -> None:
    """And is bounded to the years that dates have."""
    assert (Once(1000).after(999), Once(1000).after(1000), Once(1000).after(1001)) == (
        1000,
        None,
        None,
    )
    for at_ms in (-1, AT_MS_MAX + 1):
        with pytest.raises(BadSchedule) as caught:
            Once(at_ms)
        assert caught.value.field == "at"


@pytest.mark.parametrize(
    ("schedule", "after_ms", "until_ms", "at_most", "expected"),
    [
        (Every(10), 0, 30_000, 5, ([10_000, 20_000, 30_000], 3)),
        (Every(10), 10_000, 39_999, 1, ([30_000], 2)),
        (Every(10), 10_000, 10_000, 1, (NONE, 0)),
        (Every(10), 50_000, 10_000, 1, (NONE, 0)),
        (Every(10), 0, 10**15, 1, ([10**15], 100_000)),
        (Every(10), 0, 50_000, 0, (NONE, 5)),
        (Once(5), 4, 5, 1, ([5], 1)),
        (Once(5), 5, 9, 1, (NONE, 0)),
        (Once(5), 0, 9, 0, (NONE, 1)),
        (Cron.parse("* * * * *"), 0, 180_000, 2, ([120_000, 180_000], 3)),
        (Cron.parse("* * * * *"), 60_000, 60_000, 2, (NONE, 0)),
        (Cron.parse("* * * * *"), 90_000, 60_000, 2, (NONE, 0)),
        (Cron.parse("* * * * *"), 0, 180_000, 0, (NONE, 3)),
        (Cron.parse("* * * * *"), -(10**20), 10**12, 1, ([999_999_960_000], 100_000)),
        (
            Cron.parse("*/15 0,23 * * *", "America/St_Johns"),
            ms("2010-11-07T02:20"),
            ms("2010-11-07T02:45"),
            5,
            ([ms("2010-11-07T02:30"), ms("2010-11-07T02:45")], 2),
        ),
        (
            Cron.parse("*/15 0,23 * * *", "America/St_Johns"),
            ms("2010-11-07T02:30"),
            ms("2010-11-07T02:45"),
            5,
            ([ms("2010-11-07T02:45")], 1),
        ),
        (Cron.parse("0 0 1 1 *"), 0, 10**20, 1, ([ms("9987-01-01T00:00")], 8017)),
    ],
)
def test_occurrences_are_the_newest_and_how_many(
    schedule: Schedule, after_ms: int, until_ms: int, at_most: int, expected: tuple[list[int], int]
) -> None:
    """Of those after one instant and not after another, oldest first."""
    assert occurrences(schedule, after_ms, until_ms, at_most) == expected


@pytest.mark.parametrize(
    ("zone", "rule", "at", "expected"),
    [
        ("Europe/Berlin", "30 2 * * *", "2027-03-28T01:00",
         ["2027-03-28 02:30 does not exist in Europe/Berlin; it runs at 03:00."]),
        ("Europe/Berlin", "30 2 * * *", "2027-03-29T00:30",
         ["2027-03-28 02:30 does not exist in Europe/Berlin; it runs at 03:00."]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25T00:30",
         ["2026-10-25 02:30 comes twice in Europe/Berlin; it runs the first time only."]),
        ("Europe/Berlin", "0-45/15 2 * * *", "2027-03-28T01:00",
         ["2027-03-28 02:00 to 02:45 do not exist in Europe/Berlin; it runs once, at 03:00."]),
        ("Europe/Berlin", "*/15 * * * *", "2027-03-28T01:00",
         ["2027-03-28 02:00 to 02:45 do not exist in Europe/Berlin; it does not run then."]),
        ("Europe/Berlin", "0 * * * *", "2026-10-25T00:00",
         ["2026-10-25 02:00 comes twice in Europe/Berlin; it runs both times."]),
        ("Pacific/Apia", "0 9 * * *", "2011-12-30T10:00",
         ["2011-12-30 09:00 does not exist in Pacific/Apia; it runs at 2011-12-31 00:00."]),
        ("Pacific/Apia", "0 9 * * *", "2011-12-28T19:00", []),
        ("Europe/Berlin", "0 3 * * *", "2027-03-28T01:00", []),
        ("Europe/Berlin", "30 2 * * 1", "2027-03-29T00:30", []),
        ("UTC", "30 2 * * *", "2027-03-28T01:00", []),
    ],
)  # fmt: skip
def test_remarks_say_what_changes_do(zone: str, rule: str, at: str, expected: list[str]) -> None:
    """To the times given and those within a day of them, each once."""
    assert remarks(Cron.parse(rule, zone), [ms(at), ms(at)]) == expected


def test_remarks_come_in_order() -> None:
    """One for each change."""
    times = [ms("2027-03-28T01:00"), ms("2026-10-25T00:30")]
    found = remarks(Cron.parse("30 2 * * *", "Europe/Berlin"), times)
    assert [words[:10] for words in found] == ["2026-10-25", "2027-03-28"]


def test_only_rules_have_remarks() -> None:
    """Seconds and instants go by no wall clock."""
    times = [ms("2027-03-28T01:00")]
    assert remarks(Every(3600), times) == remarks(Once(times[0]), times) == []
    assert remarks(Cron.parse("30 2 * * *", "Europe/Berlin"), []) == []


FIELD = st.sampled_from(["*", "*/7", "0", "30", "1-3", "2,0-59/13"])
HOUR = st.sampled_from(["*", "*/5", "0", "1-3", "2", "0-23", "23"])
DAY = st.sampled_from(["*", "*/9", "1-7,L", "28-31", "L"])
WEEKDAY = st.sampled_from(["*", "0", "1-5", "5L", "7#1,3#5", "*/2"])
ZONES = st.sampled_from(
    [*FIVE_YEARS, "UTC", "America/St_Johns", "America/Havana", "Asia/Kathmandu"]
)
AROUND = st.sampled_from(
    [*map(ms, ("2011-12-30T10:00", "2010-11-07T02:31", "2024-10-27T01:00", "2024-02-28T09:00"))]
)


@given(
    st.tuples(FIELD, HOUR, DAY, st.just("*"), WEEKDAY).map(" ".join),
    ZONES,
    AROUND,
    st.integers(-2 * DAY_MS, 2 * DAY_MS),
    st.integers(1, 40),
)
@example("*/7 0,23 * * *", "America/St_Johns", ms("2010-11-07T02:31"), -HOUR_MS, 40)
@settings(max_examples=examples(200))
def test_what_comes_after_is_what_occurs(
    text: str, zone: str, around_ms: int, more_ms: int, count: int
) -> None:
    """Step by step and at once are the same; nothing lies between, and each is a whole minute
    whose wall time the rule names, or the end of a leap."""
    rule, after_ms = Cron.parse(text, zone), around_ms + more_ms
    times: list[int] = []
    at_ms = after_ms
    for _ in range(count):
        found = rule.after(at_ms)
        assert found is not None and found > at_ms and found % MINUTE_MS == 0
        assert rule.after(found - 1) == found == rule.after((at_ms + found) // 2)
        times.append(at_ms := found)
    assert occurrences(rule, after_ms, at_ms, count) == (times, count)
    assert occurrences(rule, after_ms, at_ms, 3) == (times[-3:], count)
    assert occurrences(rule, after_ms, at_ms - 1, count) == (times[:-1], count - 1)
