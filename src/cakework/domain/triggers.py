"""Triggers: what makes invocations of a function.

    cron        its schedule comes round
    event       somebody emits an event that it wants
    webhook     a provider sends something to its URL, signed
    lifecycle   something happens on the platform itself

Each has one function, and what it makes is queued work. A trigger is *active*, or *paused*: by its
owner (``enabled``), or by itself, since it is done, or its function keeps failing.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    StringConstraints,
    model_validator,
)

from cakework.domain.cloudevents import TYPE_CHARS_MAX
from cakework.domain.configured import Configured
from cakework.domain.patterns import TYPE_PATTERN, matches_type
from cakework.domain.schedules import BadSchedule, Cron, Every, Once, Schedule
from cakework.domain.signatures import Verify
from cakework.domain.times import parse_time
from cakework.nearest import nearest

EXTERNAL_ID_PATTERN = r"^[A-Za-z0-9._:@/-]{1,128}$"
LIFECYCLE = "cakework."
"""Types of events that begin so are the platform's own."""
LIFECYCLE_TYPES = (
    "cakework.build.failed",
    "cakework.build.succeeded",
    "cakework.function.deployed",
    "cakework.function.failed",
    "cakework.invocation.failed",
    "cakework.invocation.recovered",
    "cakework.trigger.paused",
    "cakework.vm.destroyed",
    "cakework.vm.started",
    "cakework.vm.stopped",
)
"""What lifecycle triggers are told."""
MISSED_MAX = 100
"""Missed occurrences that are made up for, where all are to be."""
DONE = "done"
"""Why a schedule is paused that has no next time."""
SPREAD_S_MAX = 86_400
TYPES_MAX = 20


class TriggerType(StrEnum):
    """What a trigger waits for."""

    CRON = "cron"
    EVENT = "event"
    WEBHOOK = "webhook"
    LIFECYCLE = "lifecycle"


def _instant(text: str) -> str:
    parse_time(text)
    return text


Instant = Annotated[str, StringConstraints(max_length=40), AfterValidator(_instant)]
EventTypePattern = Annotated[
    str, StringConstraints(max_length=TYPE_CHARS_MAX, pattern=TYPE_PATTERN)
]
Overlap = Literal["skip", "queue", "allow", "replace"]
Missed = Literal["latest", "skip", "all"]


class CronConfig(Configured):
    """When a schedule comes round: one of ``cron``, ``every`` and ``at``."""

    cron: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        default=None, description="Five fields: minute, hour, day of the month, month, weekday."
    )
    every: int | None = Field(
        default=None,
        ge=10,
        le=31 * 86_400,
        description="Every so many seconds, counted from 1970-01-01T00:00:00Z.",
    )
    at: Instant | None = Field(default=None, description="Once, at this time (RFC 3339).")
    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        default="UTC", description="The zone whose clock `cron` goes by, such as Europe/Berlin."
    )
    overlap: Overlap = Field(
        default="skip",
        description="While the last one has not ended: `skip` this one; `queue` it, in the place "
        "of one that waits; `allow` both; `replace` the old one, which is canceled.",
    )
    missed: Missed = Field(
        default="latest",
        description="Of what was due while the server was down: the `latest`, `all`, or `skip`.",
    )
    missed_window: int = Field(
        default=3_600,
        ge=0,
        le=7 * 86_400,
        description="Seconds after which what was missed is not made up for.",
    )
    spread: int = Field(
        default=0,
        ge=0,
        le=SPREAD_S_MAX,
        description="Up to so many seconds later, always as many: so that not all come at once.",
    )
    data: Any = Field(default=None, description="The data of its events.")
    start_at: Instant | None = Field(default=None, description="Nothing comes before this time.")
    end_at: Instant | None = Field(default=None, description="Nothing comes from this time on.")
    _schedule: Schedule = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> "CronConfig":
        given = [name for name in ("cron", "every", "at") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("needs one of cron, every and at")
        if self.time_zone != "UTC" and self.cron is None:
            raise ValueError("timeZone goes with cron alone")
        if self.start_ms is not None and self.end_ms is not None and self.start_ms >= self.end_ms:
            raise ValueError("endAt is not after startAt")
        try:
            self._schedule = self._parsed()
        except BadSchedule as error:
            raise ValueError(f"{error.field}: {error}") from error
        return self

    def schedule(self) -> Schedule:
        """Return the times."""
        return self._schedule

    def _parsed(self) -> Schedule:
        if self.every is not None:
            return Every(self.every)
        if self.at is not None:
            return Once(parse_time(self.at))
        return Cron.parse(self.cron or "", self.time_zone)

    @property
    def start_ms(self) -> int | None:
        """From when on it comes."""
        return None if self.start_at is None else parse_time(self.start_at)

    @property
    def end_ms(self) -> int | None:
        """From when on it comes no more."""
        return None if self.end_at is None else parse_time(self.end_at)


def _check_emitted(kind: str) -> str:
    if kind.startswith(LIFECYCLE):
        raise ValueError(
            f"begins with {LIFECYCLE}, and nobody emits such: a lifecycle trigger is told of them"
        )
    return kind


EmittedType = Annotated[EventTypePattern, AfterValidator(_check_emitted)]


class EventConfig(Configured):
    """Which events are wanted; with the trigger's filter."""

    types: Annotated[tuple[EmittedType, ...], Field(min_length=1, max_length=TYPES_MAX)] = Field(
        description="Types of events; `order.*` is all that begin so, and `*` all."
    )
    source: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = Field(
        default=None, description="Only events of this source."
    )


class WebhookAnswers(Configured):
    """What becomes of what a provider sends."""

    event_type: Annotated[str, StringConstraints(max_length=TYPE_CHARS_MAX)] | None = Field(
        default=None,
        description="The type of its events; `{type}` in it is the provider's word for the type. "
        "`webhook.<scheme>.{type}` if absent.",
    )
    respond: Literal["accepted", "result"] = Field(
        default="accepted",
        description="`accepted`: 202 as soon as it is taken; `result`: what the handler answers, "
        "if that is within 10 seconds.",
    )
    dedupe: bool = Field(
        default=True,
        description="Whether what has no id of the provider's is told apart by its body.",
    )

    @model_validator(mode="after")
    def _check(self) -> "WebhookAnswers":
        kind = self.event_type
        if kind is not None:
            plain = kind.replace("{type}", "type")
            if not plain or "{" in plain or "}" in plain or not plain.isprintable():
                raise ValueError("eventType may hold {type}, and no other braces")
            if kind.startswith(LIFECYCLE):
                raise ValueError(f"types that begin with {LIFECYCLE} are the platform's")
        return self


class WebhookConfig(WebhookAnswers):
    """What a provider sends, and how that is known to be from it."""

    verify: Verify = Field(description="How what comes in is checked.")


def _check_lifecycle(kind: str) -> str:
    if not any(matches_type(kind, each) for each in LIFECYCLE_TYPES):
        meant = nearest(kind, LIFECYCLE_TYPES)
        said = f"did you mean {meant}?" if meant else f"there are {', '.join(LIFECYCLE_TYPES)}."
        raise ValueError(f"is nothing that the platform tells; {said}")
    return kind


LifecycleType = Annotated[EventTypePattern, AfterValidator(_check_lifecycle)]


class LifecycleConfig(Configured):
    """What of the platform is told; with the trigger's filter."""

    types: Annotated[tuple[LifecycleType, ...], Field(min_length=1, max_length=TYPES_MAX)] = Field(
        description="Types, such as `cakework.invocation.failed` or `cakework.build.*`."
    )


TriggerConfig = CronConfig | EventConfig | WebhookConfig | LifecycleConfig
CONFIGS: dict[TriggerType, type[TriggerConfig]] = {
    TriggerType.CRON: CronConfig,
    TriggerType.EVENT: EventConfig,
    TriggerType.WEBHOOK: WebhookConfig,
    TriggerType.LIFECYCLE: LifecycleConfig,
}
