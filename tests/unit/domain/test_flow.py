"""Flow control: which rules there may be together, what is one key, and how time is shared out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cakework.domain.flow import (
    HELD_MS,
    Concurrency,
    Debounce,
    Meter,
    Rate,
    Throttle,
    given_limits,
    in_turn,
    is_same,
    limits_of,
    quiet_until,
    rule_of,
    told_rule,
    value_key,
)
from cakework.domain.functions import FunctionSettings
from tests.properties import examples

CONCURRENCY = {"type": "concurrency", "limit": 1}
THROTTLE = {"type": "throttle", "limit": 10, "period": 60}
RATE = {"type": "rate", "limit": 10, "period": 60}
DEBOUNCE = {"type": "debounce", "period": 60}
BATCH = {"type": "batch", "maxSize": 10, "maxWait": 60}


def test_four_rules_of_different_types_may_be_together() -> None:
    rules = given_limits([CONCURRENCY, {**CONCURRENCY, "key": "userId"}, THROTTLE, RATE])
    assert [rule.type for rule in rules] == ["concurrency", "concurrency", "throttle", "rate"]
    assert given_limits([]) == ()
    assert limits_of(None) == ()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([CONCURRENCY, THROTTLE, RATE, DEBOUNCE, BATCH], "at most 4"),
        ([RATE, {**RATE, "key": "userId"}], "2 of rate, and 1 may be"),
        ([{**CONCURRENCY, "key": each} for each in ("a", "b", "c")], "3 of concurrency"),
        ([CONCURRENCY, {**CONCURRENCY, "limit": 2}], "two of concurrency have the same key"),
        ([{"type": "other"}], "does not match any of the expected tags"),
        ([{**RATE, "burst": 2}], "Extra inputs"),
        ([{**RATE, **{str(each): 1 for each in range(100_000)}}], "at most 8 fields"),
        ([{"type": "rate", "limit": 1}] * 100_000, "Field required"),
        ([{**RATE, "limit": "1"}], "valid integer"),
        ([{**RATE, "limit": 0}], "greater than or equal to 1"),
        ([{**RATE, "limit": 10_001}], "less than or equal to 10000"),
        ([{**RATE, "period": 604_801}], "less than or equal to 604800"),
        ([{**DEBOUNCE, "maxWait": 59}], "maxWait is below period"),
        ([{**BATCH, "maxSize": 1}], "greater than or equal to 2"),
        ([{**BATCH, "maxSize": 1_001}], "less than or equal to 1000"),
        ([{**BATCH, "maxWait": 301}], "less than or equal to 300"),
        ([{**CONCURRENCY, "strategy": "drop"}], "'queue', 'skip' or 'replace'"),
        ([{**CONCURRENCY, "key": "data..a"}], "should match pattern"),
        ([{**CONCURRENCY, "key": "data." + "a" * 300}], "at most 256"),
        ("concurrency", "valid array"),
    ],
)
def test_rules_that_cannot_be_are_refused(rules: object, said: str) -> None:
    """With one error, however much is wrong with them."""
    with pytest.raises(ValidationError, match=said) as refused:
        given_limits(rules)
    assert refused.value.error_count() == 1


def test_what_is_kept_of_a_rule_is_that_rule() -> None:
    for rule in given_limits([{**CONCURRENCY, "key": "data.a"}, THROTTLE, DEBOUNCE, BATCH]):
        assert rule_of(told_rule(rule)) == rule


def test_a_debounce_is_not_longer_than_what_may_wait() -> None:
    retry = {"maxAge": 59}
    with pytest.raises(ValidationError, match=r"above retry\.maxAge"):
        FunctionSettings.model_validate({"limits": [DEBOUNCE], "retry": retry})
    assert FunctionSettings.model_validate({"limits": [DEBOUNCE]}).limits == (
        Debounce(type="debounce", period=60),
    )


def test_rules_apply_in_one_order_whatever_that_of_the_list() -> None:
    keyed = {**CONCURRENCY, "key": "userId"}
    rules = in_turn(given_limits([CONCURRENCY, keyed, THROTTLE, RATE]))
    assert [(rule.type, rule.key) for rule in rules] == [
        ("rate", None),
        ("throttle", None),
        ("concurrency", "userId"),
        ("concurrency", None),
    ]
    assert [rule.type for rule in in_turn(given_limits([CONCURRENCY, BATCH, DEBOUNCE]))] == [
        "debounce",
        "batch",
        "concurrency",
    ]


def test_a_rule_is_known_by_what_it_counts() -> None:
    one = Concurrency(type="concurrency", limit=1, key="userId")
    assert is_same(one, Concurrency(type="concurrency", limit=9, key="userId"))
    assert not is_same(one, Concurrency(type="concurrency", limit=1))
    assert not is_same(one, Rate(type="rate", limit=1, period=1, key="userId"))


@pytest.mark.parametrize(
    ("event", "path", "user", "same_as"),
    [
        ({"data": {"a": 1}}, "data.a", "", {"data": {"a": 1.0}}),
        ({"data": {}}, "data.a", "", {"data": "text"}),
        ({"data": {"a": {"b": 1}}}, "data.a", "", {"data": {}}),
        ({"data": {"a": [1]}}, "data.a", "", {"data": {}}),
        ({"userId": "said"}, "userId", "u1", {"userId": "otherwise"}),
        ({"cakeworkuserid": "said"}, "userId", "", {}),
        ({"subject": "s"}, None, "", {}),
    ],
)
def test_what_is_one_key(
    event: dict[str, object], path: str | None, user: str, same_as: dict[str, object]
) -> None:
    assert value_key(event, path, user) == value_key(same_as, path, user)


def test_what_are_other_keys() -> None:
    values: list[object] = [1, "1", None, True, "true", "", "a", "absent", '"a"', "k" * 1_000_000]
    keys = [value_key({"data": {"a": value}}, "data.a", "") for value in values]
    keys.append(value_key({"data": {}}, "data.a", ""))
    keys += [value_key({"userId": "u1"}, "userId", user) for user in ("", "u1", "u2")][1:]
    assert len(set(keys)) == len(keys)
    assert max(map(len, keys)) <= 64


def test_a_throttle_gives_out_times() -> None:
    meter = Meter.of(Throttle(type="throttle", limit=2, period=1, burst=2))
    starts: list[int] = []
    until = 0
    for _ in range(4):
        start, until = meter.next_start(until, 10_000_000)
        starts.append(start)
    assert starts == [10_000_000, 10_000_000, 10_500_000, 11_000_000]
    assert meter.next_start(until, 60_000_000)[0] == 60_000_000


def test_a_rate_takes_as_many_as_it_says_at_once() -> None:
    meter = Meter.of(Rate(type="rate", limit=3, period=60))
    until: int = 0
    for _ in range(3):
        then = meter.admit(until, 1_000)
        assert then is not None
        until = then
    assert meter.admit(until, 1_000) is None
    assert meter.admit(until, 20_000_999) is None
    assert meter.admit(until, 20_001_000) is not None


@given(
    st.integers(1, 50),
    st.integers(1, 100),
    st.integers(1, 20),
    st.lists(st.integers(0, 30_000_000), min_size=1, max_size=60),
)
@settings(max_examples=examples(200), deadline=None)
def test_no_more_start_in_any_time_than_may(
    limit: int, period: int, burst: int, gaps: list[int]
) -> None:
    """Of starts in a stretch there are no more than fit it, and a burst; none is before its time,
    and each is as early as it may be: where there was a rest, at once."""
    meter = Meter.of(Throttle(type="throttle", limit=limit, period=period, burst=burst))
    now = until = 0
    starts: list[int] = []
    for gap in gaps:
        now += gap
        start, until = meter.next_start(until, now)
        assert start >= now
        starts.append(start)
    assert starts == sorted(starts)
    for first in range(len(starts)):
        for last in range(first, len(starts)):
            fit = (starts[last] - starts[first]) // meter.interval_us + burst
            assert last - first + 1 <= fit


@given(st.integers(1, 50), st.integers(1, 100), st.lists(st.integers(0, 30_000_000), max_size=60))
@settings(max_examples=examples(200), deadline=None)
def test_a_rate_admits_what_a_throttle_would_start_at_once(
    limit: int, period: int, gaps: list[int]
) -> None:
    meter = Meter.of(Rate(type="rate", limit=limit, period=period))
    now = until = 0
    for gap in gaps:
        now += gap
        start, _ = meter.next_start(until, now)
        then = meter.admit(until, now)
        assert (then is not None) == (start == now)
        until = until if then is None else then


@pytest.mark.parametrize("rule", [Throttle, Rate])
def test_what_is_accounted_for_is_never_later_than_a_store_can_hold(
    rule: type[Throttle | Rate],
) -> None:
    """However much comes: what is so far ahead starts never, and the next one can still be told."""
    meter = Meter.of(
        rule.model_validate({"type": rule.__name__.lower(), "limit": 1, "period": 604_800})
    )
    far_us = HELD_MS * 1_000
    for until_us in (far_us - 1, far_us, 2**63 - 1):
        start_us, then_us = meter.next_start(until_us, 0)
        assert start_us <= then_us == far_us < 2**63
    assert meter.admit(0, far_us) == far_us


def test_a_quiet_period_ends_in_time() -> None:
    plain = Debounce(type="debounce", period=10)
    assert quiet_until(plain, 0, 1_000_000) == 1_010_000
    bounded = Debounce(type="debounce", period=10, max_wait=25)
    assert [quiet_until(bounded, 0, now) for now in (0, 14_000, 20_000)] == [10_000, 24_000, 25_000]
    assert quiet_until(bounded, 0, 60_000) == 60_000
