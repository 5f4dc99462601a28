"""When triggers come round: spread, from and to a time, and what is made up for."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.domain.occurrences import (
    LATE_MS,
    Due,
    Occurrence,
    Occurrences,
    due,
    event_of,
    next_due,
    next_times,
    offset_s,
)
from cakework.domain.schedules import Every
from cakework.domain.triggers import MISSED_MAX, CronConfig

TRIGGER = "trg_01KDH2ZJ5VBZ7A5Q0C3W4X9Y8Z"
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def at(times: list[int]) -> list[str]:
    return [f"{datetime.fromtimestamp(each / 1000, UTC):%Y-%m-%dT%H:%M:%S}" for each in times]


NOON = ms("2026-12-01T12:00:00Z")


def config(**fields: Any) -> CronConfig:
    return CronConfig.model_validate_json(json.dumps(fields))


def asked(given: CronConfig, next_ms: int, now_ms: int) -> Due:
    return due(Occurrences.of(TRIGGER, given), given, next_ms, now_ms)


def test_a_spread_is_always_the_same_and_below_its_bound() -> None:
    """Each trigger has one of its own, in whole seconds, and triggers are spread evenly."""
    ids = [f"trg_{number}" for number in range(6_000)]
    offsets = [offset_s(each, 60) for each in ids]
    assert offsets == [offset_s(each, 60) for each in ids]
    counts = [offsets.count(second) for second in range(60)]
    assert sum(counts) == 6_000 and min(counts) > 50 and max(counts) < 150
    assert offset_s(TRIGGER, 0) == offset_s(TRIGGER, 1) == 0


def test_times_are_later_by_the_spread() -> None:
    """All of them, also those whose plain time is past already."""
    spread = config(cron="0 9 * * *", spread=3_600)
    offset_ms = offset_s(TRIGGER, 3_600) * 1000
    assert offset_ms > 1_000
    nine = ms("2026-12-01T09:00:00Z")
    assert next_times(TRIGGER, spread, 2, nine) == [nine + offset_ms, nine + DAY + offset_ms]
    assert next_due(TRIGGER, spread, nine + offset_ms) == nine + DAY + offset_ms


def test_the_wall_clock_of_the_zone_counts() -> None:
    """The spread comes on top of what the zone says."""
    berlin = config(cron="0 9 * * *", timeZone="Europe/Berlin")
    times = next_times(TRIGGER, berlin, 2, ms("2026-10-24T00:00:00Z"))
    assert at(times) == ["2026-10-24T07:00:00", "2026-10-25T08:00:00"]


@pytest.mark.parametrize("spread", [0, 40])
def test_nothing_comes_outside_its_window(spread: int) -> None:
    """From startAt on, and before endAt, by the times at which it does come."""
    offset_ms = offset_s(TRIGGER, spread) * 1000
    start, end = NOON + offset_ms, NOON + offset_ms + 2 * HOUR
    window = {
        "startAt": datetime.fromtimestamp(start / 1000, UTC).isoformat(),
        "endAt": datetime.fromtimestamp(end / 1000, UTC).isoformat(),
    }
    hourly = config(cron="0 * * * *", spread=spread, **window)
    assert next_times(TRIGGER, hourly, 5, 0) == [start, start + HOUR]
    assert next_due(TRIGGER, hourly, start + HOUR) is None
    coming = Occurrences.of(TRIGGER, hourly)
    assert coming.last(5, 0, end + DAY) == ([start, start + HOUR], 2)
    assert coming.last(1, 0, start) == ([start], 1)


def test_once_is_once() -> None:
    """At its time, and never again; later by its spread."""
    once = config(at="2026-12-01T12:00:00Z")
    assert next_times(TRIGGER, once, 5, NOON - 1) == [NOON]
    assert next_due(TRIGGER, once, NOON) is None
    assert asked(once, NOON, NOON) == Due((Occurrence(NOON),), None)


def test_seconds_count_from_the_epoch() -> None:
    """Whenever the trigger was made."""
    assert next_times(TRIGGER, config(every=45), 2, NOON + 1) == [NOON + 45_000, NOON + 90_000]


def test_in_time_is_as_planned() -> None:
    """One is due, and the next one is after it."""
    assert asked(config(cron="* * * * *"), NOON, NOON + 5) == Due(
        (Occurrence(NOON),), NOON + MINUTE
    )


@pytest.mark.parametrize("missed", ["latest", "skip", "all"])
def test_what_is_a_little_late_is_not_missed(missed: str) -> None:
    """Each is made, whatever is to become of those missed: a server that was started again."""
    tens = config(every=10, missed=missed, missedWindow=0)
    now = NOON + LATE_MS - 1
    assert asked(tens, NOON, now) == Due(
        tuple(Occurrence(NOON + 10_000 * number) for number in range(6)), NOON + LATE_MS
    )


def test_the_latest_makes_up_for_all() -> None:
    """It tells how many did not come in their time: itself, if that is so of it."""
    minutes = config(cron="* * * * *")
    assert asked(minutes, NOON, NOON + 10 * MINUTE + 1) == Due(
        (Occurrence(NOON + 10 * MINUTE, 10),), NOON + 11 * MINUTE
    )
    daily = config(cron="0 12 * * *")
    assert asked(daily, NOON, NOON + 20 * MINUTE) == Due((Occurrence(NOON, 1),), NOON + DAY)


def test_nothing_older_than_the_window_is_made_up_for() -> None:
    """A run of the morning is not made in the evening; its loss is counted."""
    daily = config(cron="0 12 * * *", missedWindow=3_600)
    assert asked(daily, NOON, NOON + HOUR) == Due((Occurrence(NOON, 1),), NOON + DAY)
    assert asked(daily, NOON, NOON + HOUR + 1) == Due((), NOON + DAY, 1)
    assert asked(daily, NOON - DAY, NOON + HOUR + 1) == Due((), NOON + DAY, 2)


def test_skipped_is_what_was_missed_alone() -> None:
    """What is in time is made."""
    minutes = config(cron="* * * * *", missed="skip")
    assert asked(minutes, NOON, NOON + 10 * MINUTE + 1) == Due(
        (Occurrence(NOON + 10 * MINUTE),), NOON + 11 * MINUTE, 10
    )


def test_all_are_made_up_for_oldest_first() -> None:
    """Each by itself, and what is in time as ever."""
    minutes = config(cron="* * * * *", missed="all")
    missed = [Occurrence(NOON + number * MINUTE, 1) for number in range(3)]
    assert asked(minutes, NOON, NOON + 3 * MINUTE + 1) == Due(
        (*missed, Occurrence(NOON + 3 * MINUTE)), NOON + 4 * MINUTE
    )


def test_all_are_at_most_a_hundred_and_the_rest_is_counted() -> None:
    """The newest hundred in the window; the first of them counts for those before."""
    minutes = config(cron="* * * * *", missed="all", missedWindow=7 * 86_400)
    found = asked(minutes, NOON, NOON + 3 * HOUR + 1)
    assert len(found.occurrences) == MISSED_MAX + 1
    assert found.occurrences[0] == Occurrence(NOON + 80 * MINUTE, 81)
    assert sum(each.missed for each in found.occurrences) == 180
    short = config(cron="* * * * *", missed="all", missedWindow=600)
    found = asked(short, NOON, NOON + 3 * HOUR + 1)
    assert found.occurrences[0] == Occurrence(NOON + 171 * MINUTE, 172)
    gone = config(cron="0 12 * * *", missed="all", missedWindow=600)
    assert asked(gone, NOON, NOON + HOUR) == Due((), NOON + DAY, 1)


@pytest.mark.parametrize("missed", ["latest", "skip", "all"])
def test_what_is_no_time_of_the_schedule_any_more_is_let_be(missed: str) -> None:
    """Its zone has changed: the next time is found anew, from now, and nothing past is made."""
    hourly = config(cron="0 * * * *", missed=missed)
    for now in (NOON + 30 * MINUTE, NOON + 5 * HOUR + 1):
        assert asked(hourly, NOON + 15 * MINUTE, now).occurrences == ()
    assert asked(hourly, NOON + 15 * MINUTE, NOON + 30 * MINUTE).next_ms == NOON + HOUR


def test_a_window_that_ended_meanwhile_holds() -> None:
    """What was missed in it is made up for, and nothing comes after."""
    ended = config(cron="* * * * *", endAt="2026-12-01T12:03:00Z")
    assert asked(ended, NOON, NOON + 10 * MINUTE) == Due((Occurrence(NOON + 2 * MINUTE, 3),), None)


def test_a_long_outage_costs_no_more_than_a_short_one() -> None:
    """Years of minutes are neither gone through nor made."""
    minutes = config(cron="* * * * *", timeZone="Europe/Berlin", missedWindow=7 * 86_400)
    found = asked(minutes, NOON - 3_650 * DAY, NOON + 1)
    assert found.occurrences[0].at_ms == NOON
    assert found.occurrences[0].missed > 90_000


def test_the_event_tells_when_it_was_to_be() -> None:
    """And of what it makes up for, and has the data of the trigger, if there are any."""
    told = event_of(TRIGGER, config(every=60, data={"a": [1]}), Occurrence(NOON + 7, 3))
    assert told == {
        "type": "cakework.trigger.cron",
        "source": f"/triggers/{TRIGGER}",
        "time": "2026-12-01T12:00:00.007Z",
        "data": {"a": [1]},
        "cakeworkmissed": 3,
    }
    assert event_of(TRIGGER, config(every=60), Occurrence(NOON)).keys() == {
        "type",
        "source",
        "time",
    }


@given(
    every=st.integers(10, 4_000),
    offset_s_=st.integers(0, 90),
    missed=st.sampled_from(["latest", "skip", "all"]),
    window_s=st.integers(0, 7_200),
    waits_s=st.lists(st.integers(1, 9_000), min_size=1, max_size=8),
)
def test_every_occurrence_is_made_or_counted_once(
    every: int, offset_s_: int, missed: str, window_s: int, waits_s: list[int]
) -> None:
    """However long the server was away between passes: none is made twice, none comes early, and
    those made in their time, those made up for and those lost are all that there were."""
    given_ = config(every=every, missed=missed, missedWindow=window_s)
    coming = Occurrences(Every(every), offset_s_ * 1000)
    next_ms = coming.after(NOON)
    now, made, lost, in_time = NOON, list[Occurrence](), 0, 0
    assert next_ms is not None
    first_ms = next_ms
    for wait_s in waits_s:
        now += wait_s * 1000
        if next_ms > now:
            continue
        found = due(coming, given_, next_ms, now)
        assert all(next_ms <= each.at_ms <= now for each in found.occurrences)
        made += found.occurrences
        lost += found.lost
        in_time += sum(each.at_ms > now - LATE_MS for each in found.occurrences)
        assert found.next_ms is not None and found.next_ms > now
        next_ms = found.next_ms
    times = [each.at_ms for each in made]
    assert times == sorted(set(times))
    total = coming.last(1, first_ms, now)[1]
    assert in_time + sum(each.missed for each in made) + lost == total
