"""What follows an attempt: the table of the contract, line by line, and its delays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakework.domain.functions import RetryPolicy
from cakework.domain.invocations import (
    FINAL,
    TRANSITIONS,
    Again,
    Ended,
    InvocationState,
    Outcome,
    Reason,
    Work,
    after,
    delay_s,
    expired,
    reason_of,
)
from cakework.domain.vms import EndCause
from tests.properties import examples

FIRST = Work(attempt=1, accepted_ms=0)
POLICY = RetryPolicy()
RETRIED = (
    Reason.HANDLER_ERROR,
    Reason.TIMEOUT,
    Reason.CRASH,
    Reason.OUT_OF_MEMORY,
    Reason.INTERRUPTED,
)
FINAL_REASONS = (
    Reason.NON_RETRIABLE,
    Reason.RESULT_TOO_LARGE,
    Reason.BAD_ANSWER,
    Reason.NO_HANDLER,
    Reason.VERSION_FAILED,
    Reason.FUNCTION_DELETED,
    Reason.CANCELED_BY_CALLER,
)


def test_an_answer_is_success() -> None:
    assert after(Outcome(), FIRST, POLICY, 0, 0.5) == Ended(InvocationState.SUCCEEDED)


@pytest.mark.parametrize("reason", RETRIED)
def test_what_may_go_better_is_tried_again(reason: Reason) -> None:
    assert after(Outcome(reason), FIRST, POLICY, 1_000, 1.0) == Again(6_000)


@pytest.mark.parametrize("reason", FINAL_REASONS)
def test_what_cannot_go_better_is_not(reason: Reason) -> None:
    assert after(Outcome(reason), FIRST, POLICY, 0, 1.0) == Ended(InvocationState.FAILED, reason)


@pytest.mark.parametrize(
    ("word", "reasons"),
    [
        ("error", {Reason.HANDLER_ERROR}),
        ("timeout", {Reason.TIMEOUT}),
        ("crash", {Reason.CRASH, Reason.OUT_OF_MEMORY}),
        ("interrupted", {Reason.INTERRUPTED}),
    ],
)
def test_the_policy_says_what_is_tried_again(word: str, reasons: set[Reason]) -> None:
    policy = RetryPolicy.model_validate({"on": [word]})
    again = {
        each for each in Reason if isinstance(after(Outcome(each), FIRST, policy, 0, 0), Again)
    }
    assert again == reasons


def test_the_last_attempt_is_the_last() -> None:
    failed = Outcome(Reason.HANDLER_ERROR)
    assert isinstance(after(failed, Work(3, 0), POLICY, 0, 0), Again)
    assert after(failed, Work(4, 0), POLICY, 0, 0) == Ended(
        InvocationState.FAILED, Reason.HANDLER_ERROR
    )
    once = Work(1, 0, max_attempts=1)
    assert isinstance(after(failed, once, POLICY, 0, 0), Ended)


def test_an_attempt_that_did_not_reach_its_handler_does_not_count() -> None:
    unreached = Outcome(Reason.CRASH, reached=False)
    once = RetryPolicy(max_attempts=1, on=())
    assert after(unreached, Work(1, 0, unreached=3), once, 10, 0) == Again(10, counted=False)
    assert after(unreached, Work(1, 0, unreached=4), once, 10, 0) == Ended(
        InvocationState.FAILED, Reason.CRASH
    )


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (EndCause.EXITED, Reason.CRASH),
        (EndCause.DIED, Reason.CRASH),
        (EndCause.STOPPED, Reason.CRASH),
        (EndCause.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
        (EndCause.LOST, Reason.INTERRUPTED),
        (None, Reason.INTERRUPTED),
    ],
)
def test_what_broke_off_is_told_by_what_ended_its_vm(
    cause: EndCause | None, reason: Reason
) -> None:
    assert reason_of(cause) is reason


def test_nothing_starts_when_it_is_too_old() -> None:
    policy = RetryPolicy(max_age=10, min_delay=5, factor=1)
    failed = Outcome(Reason.HANDLER_ERROR)
    assert after(failed, FIRST, policy, 5_000, 1.0) == Again(10_000)
    assert after(failed, FIRST, policy, 5_001, 1.0) == Ended(
        InvocationState.EXPIRED, Reason.MAX_AGE
    )
    assert expired(Work(0, 0), policy, ttl_ms=7, at_ms=8) is Reason.TTL
    assert expired(Work(0, 0), policy, ttl_ms=7, at_ms=7) is None
    assert expired(Work(1, 0), policy, ttl_ms=7, at_ms=8) is None


def test_the_default_delays() -> None:
    delays = [delay_s(POLICY, attempt, Outcome(Reason.CRASH), 1.0) for attempt in (1, 2, 3, 4, 19)]
    assert delays == [5, 20, 80, 320, 600]


def test_a_handler_may_ask_for_more_time_but_not_for_ever() -> None:
    assert delay_s(POLICY, 1, Outcome(Reason.HANDLER_ERROR, retry_after_s=30), 0) == 30
    assert delay_s(POLICY, 1, Outcome(Reason.HANDLER_ERROR, retry_after_s=9_999), 0) == 600
    assert delay_s(POLICY, 1, Outcome(Reason.HANDLER_ERROR, retry_after_s=1), 0) == 2.5


@given(
    st.sampled_from([None, *Reason]),
    st.integers(1, 20),
    st.integers(0, 4),
    st.floats(0, 1e9),
    st.booleans(),
    st.floats(0, 1),
)
@settings(max_examples=examples(200))
def test_what_follows_is_an_arrow_and_never_in_the_past(
    reason: Reason | None, attempt: int, unreached: int, asked_s: float, reached: bool, luck: float
) -> None:
    outcome = Outcome(reason, asked_s, reached)
    match after(outcome, Work(attempt, 0, unreached), POLICY, 1_000, luck):
        case Ended(state):
            assert state in TRANSITIONS[InvocationState.RUNNING]
            assert state in FINAL
        case Again(at_ms):
            assert 1_000 <= at_ms <= 1_000 + 600_000
