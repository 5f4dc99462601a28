"""Flow control: how much of what a function is asked for runs at once, how soon, and how often.

    rate         over it: skipped
    debounce     only the newest in a quiet period
    batch        what comes within a while, as one
    throttle     starts are spread in time
    concurrency  so many at once; the others wait in line, or one of them gives way

Each rule counts by its ``key``: what the event has at a path. An invocation passes the rules of its
trigger, then those of its function, of each the one after the other in the order above.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    TypeAdapter,
    model_validator,
)

from cakework.domain.configured import Configured
from cakework.domain.patterns import ABSENT, PATH_CHARS_MAX, PATH_PATTERN, key_of, value_at

RULES_MAX = 4
CONCURRENCY_MAX = 2
"""Rules of this type; of every other there is one at most."""
FIELDS_MAX = 8
PERIOD_S_MAX = 604_800
LIMIT_MAX = 10_000
BATCH_MAX = 1_000
BATCH_WAIT_S_MAX = 300
HELD_MS = 253_402_300_799_000
"""When what is held is due: at the end of the year 9999, which is never. It is another time than
that of what a schedule holds (``invocations.HELD_MS``), so that each lets go its own."""
USER_ID = "userId"
_PER_S = 1_000_000
_FAR_US = HELD_MS * 1_000
Path = Annotated[str, StringConstraints(max_length=PATH_CHARS_MAX, pattern=PATH_PATTERN)]


class _Rule(Configured):
    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, fields: Any) -> Any:
        # Before pydantic does, which would tell of each of a hundred thousand.
        if isinstance(fields, dict) and len(cast("dict[str, object]", fields)) > FIELDS_MAX:
            raise ValueError(f"a rule has at most {FIELDS_MAX} fields")
        return cast("object", fields)

    key: Path | None = Field(
        default=None,
        description="Path of a value in the event, such as data.customerId or userId: each value "
        "is counted by itself. All together if absent.",
    )


class Concurrency(_Rule):
    """So many at once, from the first attempt's begin to the end."""

    type: Literal["concurrency"] = Field(description="So many at once.")
    limit: int = Field(ge=1, le=LIMIT_MAX, description="How many.")
    strategy: Literal["queue", "skip", "replace"] = Field(
        default="queue",
        description="What comes beyond: waits in line; is skipped; or takes the place of the "
        "oldest, which is canceled.",
    )
    on_retry: Literal["keepPlace", "letOthersPass"] = Field(
        default="keepPlace",
        description="Whether one that waits for its next attempt keeps its place meanwhile.",
    )


class Throttle(_Rule):
    """Starts are spread in time: what comes sooner starts later."""

    type: Literal["throttle"] = Field(description="Starts are spread in time.")
    limit: int = Field(ge=1, le=LIMIT_MAX, description="So many start in a period.")
    period: int = Field(ge=1, le=PERIOD_S_MAX, description="The period, in seconds.")
    burst: int = Field(
        default=1, ge=1, le=LIMIT_MAX, description="So many may start at once after a rest."
    )


class Rate(_Rule):
    """What comes beyond so many is skipped."""

    type: Literal["rate"] = Field(description="What is beyond it is skipped.")
    limit: int = Field(ge=1, le=LIMIT_MAX, description="So many are taken in a period.")
    period: int = Field(ge=1, le=PERIOD_S_MAX, description="The period, in seconds.")


class Debounce(_Rule):
    """Only the newest is done, when nothing came for a while."""

    type: Literal["debounce"] = Field(description="Only the newest in a quiet period.")
    period: int = Field(
        ge=1, le=PERIOD_S_MAX, description="Seconds in which nothing comes, until it is done."
    )
    max_wait: int | None = Field(
        default=None,
        ge=1,
        le=PERIOD_S_MAX,
        description="Seconds after the first, after which it is done however much comes.",
    )

    @model_validator(mode="after")
    def _check(self) -> "Debounce":
        if self.max_wait is not None and self.max_wait < self.period:
            raise ValueError("maxWait is below period")
        return self


class Batch(_Rule):
    """What comes within a while is one invocation, with a list of the events."""

    type: Literal["batch"] = Field(description="Events are gathered.")
    max_size: int = Field(ge=2, le=BATCH_MAX, description="Events in one, at most.")
    max_wait: int = Field(
        ge=1, le=BATCH_WAIT_S_MAX, description="Seconds after the first, after which it starts."
    )


Rule = Concurrency | Throttle | Rate | Debounce | Batch
_TURNS: dict[str, int] = {
    each: turn for turn, each in enumerate(("rate", "debounce", "batch", "throttle", "concurrency"))
}


def _check_rules(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    for kind in _TURNS:
        of_kind = [rule for rule in rules if rule.type == kind]
        most = CONCURRENCY_MAX if kind == "concurrency" else 1
        if len(of_kind) > most:
            raise ValueError(f"there are {len(of_kind)} of {kind}, and {most} may be")
        if len({rule.key for rule in of_kind}) < len(of_kind):
            raise ValueError(f"two of {kind} have the same key")
    return rules


Limits = Annotated[
    tuple[Annotated[Rule, Field(discriminator="type")], ...],
    Field(max_length=RULES_MAX, fail_fast=True),
    AfterValidator(_check_rules),
]
_LIMITS: TypeAdapter[tuple[Rule, ...]] = TypeAdapter(Limits)
_RULE: TypeAdapter[Rule] = TypeAdapter(Annotated[Rule, Field(discriminator="type")])


def limits_of(told: str | None) -> tuple[Rule, ...]:
    """Return rules that are on record as JSON; None: there are none."""
    return () if told is None else _LIMITS.validate_json(told)


def given_limits(value: object) -> tuple[Rule, ...]:
    """Return rules as a caller gives them, in a body. Raises pydantic's ValidationError."""
    return _LIMITS.validate_json(json.dumps(value), strict=True)


def rule_of(told: str) -> Rule:
    """Return a rule that is on record as JSON."""
    return _RULE.validate_json(told)


def told_rule(rule: Rule) -> str:
    """Return a rule as it is kept on record."""
    return rule.model_dump_json(by_alias=True)


def in_turn(rules: tuple[Rule, ...]) -> list[Rule]:
    """Return rules in the order in which they apply.

    Of two of ``concurrency`` the one with a key comes first: who waits for a place of the other has
    one already among its likes, who would wait in any case, and stands in nobody else's way.
    """
    return sorted(rules, key=lambda rule: (_TURNS[rule.type], rule.key is None))


def is_same(one: Rule, other: Rule) -> bool:
    """Say whether two rules count the same, though it may be to other limits."""
    return (one.type, one.key) == (other.type, other.key)


def value_key(event: dict[str, Any], path: str | None, user_id: str) -> str:
    """Return what stands for the value at a path of an event, in at most 64 characters.

    ``userId`` is the end user for whom the invocation is, whatever the event says. An object or a
    list is as good as nothing: it costs too much to be compared.
    """
    if path is None:
        return ""
    if path == USER_ID:
        return key_of({USER_ID: user_id} if user_id else {}, path)
    value = value_at(event, path)
    if value is ABSENT or isinstance(value, dict | list):
        return key_of({}, path)
    return key_of(event, path)


@dataclass(frozen=True, slots=True)
class Meter:
    """How fast something may go: one in ``interval_us``, and ``burst`` at once after a rest.

    What is kept of it is one time, until which all that came is accounted for; when that is over
    it is as good as new. (This is the generic cell rate algorithm, GCRA.) Times are microseconds,
    up to when nothing is due any more: a store has room for that.
    """

    interval_us: int
    burst: int

    @staticmethod
    def of(rule: Throttle | Rate) -> "Meter":
        """Return the meter of a rule."""
        burst = rule.burst if isinstance(rule, Throttle) else rule.limit
        return Meter(rule.period * _PER_S // rule.limit, burst)

    def next_start(self, until_us: int, now_us: int) -> tuple[int, int]:
        """Return when what comes now may start, and until when all is accounted for then."""
        until_us = min(max(until_us, now_us), _FAR_US)
        start_us = max(now_us, until_us - (self.burst - 1) * self.interval_us)
        return start_us, min(until_us + self.interval_us, _FAR_US)

    def admit(self, until_us: int, now_us: int) -> int | None:
        """Return until when all is accounted for with what comes now; None: it is too much."""
        start_us, then_us = self.next_start(until_us, now_us)
        return then_us if start_us <= now_us else None


def quiet_until(rule: Debounce, first_ms: int, now_ms: int) -> int:
    """Return when the newest is done that comes now, of what came first at ``first_ms``."""
    at_ms = now_ms + rule.period * 1000
    if rule.max_wait is None:
        return at_ms
    return max(now_ms, min(at_ms, first_ms + rule.max_wait * 1000))
