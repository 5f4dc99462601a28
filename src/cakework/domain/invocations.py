"""The life of an invocation: one piece of work, and what becomes of it.

    queued ──▶ running ──▶ succeeded
     │  ▲       │   ├────▶ failed
     │  └waiting◀┘  └────▶ canceled
     │        └──────────▶ expired, canceled, failed
     ├──▶ expired
     ├──▶ canceled, failed
     └──▶ skipped

queued      accepted, and no attempt is under way
running     an attempt is under way in an instance
waiting     an attempt failed, and the next is due at a time
succeeded   the handler answered
failed      for good; queued work is a dead letter then
expired     no attempt could start in time; a dead letter likewise
canceled    somebody asked for that
skipped     it was not to be done after all

*Direct* work has a caller who waits: at most once, never queued, never tried again. *Queued* work
is done at least once, and two attempts of one invocation never run at the same time: the next
starts when the one before has answered, or its VM is known to be gone.
"""

from dataclasses import dataclass
from enum import StrEnum

from cakework.domain.functions import RetryPolicy
from cakework.domain.vms import EndCause

INTERRUPTED_STARTS_MAX = 5
"""How often an instance may fail before its handler was reached until that is a crash."""


TEST = "test"
"""What invocations of trials are triggered by; their code is no version's."""
FAILURE = "failure"
"""What invocations are triggered by that handle what other work failed at."""
HELD_MS = 253_370_764_800_000
"""When an attempt is due of what waits for something else than a time: in the year 9999."""


_HANDLERS = {"cron": "scheduled", FAILURE: "failure"}


def handler_of(trigger: str, given: str | None = None) -> str:
    """Return what kind of handler an invocation goes to: by its trigger, unless it is ``given``, as
    for what repeats another."""
    return given or _HANDLERS.get(trigger, "event")


class InvocationState(StrEnum):
    """Where an invocation is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    SKIPPED = "skipped"


_State = InvocationState
TRANSITIONS: dict[InvocationState, frozenset[InvocationState]] = {
    _State.QUEUED: frozenset(
        {_State.RUNNING, _State.EXPIRED, _State.CANCELED, _State.FAILED, _State.SKIPPED}
    ),
    _State.RUNNING: frozenset(
        {_State.SUCCEEDED, _State.FAILED, _State.CANCELED, _State.WAITING, _State.QUEUED}
        | {_State.EXPIRED}
    ),
    _State.WAITING: frozenset({_State.RUNNING, _State.EXPIRED, _State.CANCELED, _State.FAILED}),
    _State.SUCCEEDED: frozenset(),
    _State.FAILED: frozenset(),
    _State.CANCELED: frozenset(),
    _State.EXPIRED: frozenset(),
    _State.SKIPPED: frozenset(),
}
"""Every arrow. From running to queued goes an attempt that never reached its handler."""
FINAL = frozenset(state for state, targets in TRANSITIONS.items() if not targets)
DEAD = frozenset({_State.FAILED, _State.EXPIRED})
"""How queued work ends that is a dead letter then."""
STARTABLE = frozenset(state for state, targets in TRANSITIONS.items() if _State.RUNNING in targets)


class Reason(StrEnum):
    """Why an invocation, or an attempt, ended as it did."""

    HANDLER_ERROR = "handler_error"
    TIMEOUT = "timeout"
    CRASH = "crash"
    OUT_OF_MEMORY = "out_of_memory"
    INTERRUPTED = "interrupted"
    NON_RETRIABLE = "non_retriable"
    RESULT_TOO_LARGE = "result_too_large"
    BAD_ANSWER = "bad_answer"
    NO_HANDLER = "no_handler"
    FUNCTION_DELETED = "function_deleted"
    VERSION_FAILED = "version_failed"
    TTL = "ttl"
    MAX_AGE = "max_age"
    OVERLAP = "overlap"
    RATE_LIMITED = "rate_limited"
    SUPERSEDED = "superseded"
    CANCELED_BY_CALLER = "canceled_by_caller"
    LOOP = "loop"
    SECRETS_UNAVAILABLE = "secrets_unavailable"


def reason_of(cause: EndCause | None) -> Reason:
    """Return why an attempt ended whose VM did, by what ended that; None: nobody knows."""
    match cause:
        case EndCause.OUT_OF_MEMORY:
            return Reason.OUT_OF_MEMORY
        case EndCause.LOST | None:
            return Reason.INTERRUPTED
        case _:
            return Reason.CRASH


_RETRIED_IF = {
    Reason.HANDLER_ERROR: "error",
    Reason.TIMEOUT: "timeout",
    Reason.CRASH: "crash",
    Reason.OUT_OF_MEMORY: "crash",
    Reason.INTERRUPTED: "interrupted",
}
"""By which word of the policy's ``on`` an attempt that ended so is followed by another."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: ``reason`` None is well.

    ``retry_after_s`` is what the handler asked to wait at least. ``reached``: its handler was
    begun, or may have been; an attempt of which that is false does not count.
    """

    reason: Reason | None = None
    retry_after_s: float = 0.0
    reached: bool = True


@dataclass(frozen=True, slots=True)
class Work:
    """What decides what comes after an attempt.

    ``attempt`` is the number of the one that ended, 0 before the first; ``unreached`` how many
    starts of it failed before without reaching the handler; ``max_attempts`` what the invocation
    itself allows, None for what its function does. Times are in unix milliseconds.
    """

    attempt: int
    accepted_ms: int
    unreached: int = 0
    max_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """It is over."""

    state: InvocationState
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt follows, not before ``at_ms``; ``counted``: it has the next number."""

    at_ms: int
    counted: bool = True


def after(
    outcome: Outcome, work: Work, policy: RetryPolicy, now_ms: int, luck: float
) -> Ended | Again:
    """Say what follows an attempt of queued work that ended at ``now_ms``.

    ``luck`` is a random number from 0 to 1.
    """
    reason = outcome.reason
    if reason is None:
        return Ended(InvocationState.SUCCEEDED)
    if not outcome.reached:
        if work.unreached + 1 < INTERRUPTED_STARTS_MAX:
            return _again(work, policy, now_ms, 0.0, counted=False)
        reason = Reason.CRASH
    word = _RETRIED_IF.get(reason)
    last = min(policy.max_attempts, work.max_attempts or policy.max_attempts)
    if word not in policy.on or work.attempt >= last:
        return Ended(InvocationState.FAILED, reason)
    return _again(work, policy, now_ms, delay_s(policy, work.attempt, outcome, luck), counted=True)


def delay_s(policy: RetryPolicy, attempt: int, outcome: Outcome, luck: float) -> float:
    """Return how long to wait after ``attempt``, in seconds."""
    wait = policy.min_delay
    for _ in range(attempt - 1):
        # Not a power: 100^19 is no number to compare with.
        wait = min(policy.max_delay, wait * policy.factor)
    asked = min(outcome.retry_after_s, policy.max_delay)
    return max(asked, wait * (0.5 + luck / 2))


def expired(work: Work, policy: RetryPolicy, ttl_ms: int | None, at_ms: int) -> Reason | None:
    """Say why no attempt may start at ``at_ms`` any more; None if one may.

    ``ttl_ms`` is until when the first attempt has to have started.
    """
    if ttl_ms is not None and work.attempt == 0 and at_ms > ttl_ms:
        return Reason.TTL
    if at_ms > work.accepted_ms + policy.max_age * 1000:
        return Reason.MAX_AGE
    return None


def _again(
    work: Work, policy: RetryPolicy, now_ms: int, wait_s: float, *, counted: bool
) -> Ended | Again:
    at_ms = now_ms + round(wait_s * 1000)
    if (why := expired(work, policy, None, at_ms)) is not None:
        return Ended(InvocationState.EXPIRED, why)
    return Again(at_ms, counted)
