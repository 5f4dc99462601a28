"""The options of ``cakework triggers add``: which type of trigger, and what that is told."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.invoke import read_json
from cakework.cli.values import JsonText, Time, Zone
from cakework.domain.triggers import SPREAD_S_MAX
from cakework_client import Missed, Overlap, Scheme, TriggerType

SCHEDULE = Group("A schedule", sort_key=1)
EVENTS = Group("Events, or what the platform tells", sort_key=2)
HOOK = Group("A webhook", sort_key=3)
Types = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, group=EVENTS)]
_SPREAD = Number(gte=0, lte=SPREAD_S_MAX)


@Parameter(name="*")
@dataclass(frozen=True)
class When:
    """What a trigger waits for: one of cron, every, at; event; lifecycle; webhook."""

    cron: Annotated[str | None, Parameter(group=SCHEDULE)] = None
    """Five fields: minute, hour, day of the month, month, weekday."""
    every: Annotated[int | None, Parameter(group=SCHEDULE, validator=Number(gte=10))] = None
    """Every so many seconds."""
    at: Annotated[Time, Parameter(group=SCHEDULE)] = None
    """Once, at this time, such as 2026-12-24T18:00:00+01:00."""
    time_zone: Annotated[Zone, Parameter(group=SCHEDULE)] = None
    """The zone whose clock --cron goes by, such as Europe/Berlin; UTC if absent."""
    overlap: Annotated[Overlap | None, Parameter(group=SCHEDULE)] = None
    """While the last one has not ended: skip this one (if absent), queue it, allow both, or
    replace the old one."""
    missed: Annotated[Missed | None, Parameter(group=SCHEDULE)] = None
    """Of what was due while the server was down: the latest (if absent), all, or skip."""
    spread: Annotated[int | None, Parameter(group=SCHEDULE, validator=_SPREAD)] = None
    """Up to so many seconds later, always as many."""
    data: Annotated[JsonText, Parameter(alias="-d", group=SCHEDULE)] = None
    """Data of a schedule's events: JSON, @FILE, or - for standard input."""
    event: Types = ()
    """Type of events, such as order.paid or order.*; may be repeated."""
    source: Annotated[str | None, Parameter(group=EVENTS)] = None
    """Only events of this source."""
    lifecycle: Types = ()
    """What of the platform, such as cakework.invocation.failed; may be repeated."""
    webhook: Annotated[Scheme | None, Parameter(group=HOOK)] = None
    """Whose way of signing it is."""
    secret: Annotated[bool, Parameter(negative=(), show_default=False, group=HOOK)] = False
    """Ask for the provider's secret, or read it from standard input. Without it one is made, or
    `rotate` takes it once the provider knows the URL."""
    header: Annotated[str | None, Parameter(group=HOOK)] = None
    """Which header has the signature (hmac) or the secret (header)."""
    encoding: Annotated[Literal["hex", "base64"] | None, Parameter(group=HOOK)] = None
    """How the signature is spelled (hmac)."""
    prefix: Annotated[str | None, Parameter(group=HOOK)] = None
    """What is before the signature in its header (hmac)."""
    respond: Annotated[Literal["accepted", "result"] | None, Parameter(group=HOOK)] = None
    """Answer 202 as soon as it is taken (if absent), or what the handler answers."""

    def told(self) -> tuple[TriggerType, dict[str, Any]]:
        """Return the type, and its configuration as the API takes it; a webhook's without secret.

        Raises:
            CommandFailed: It is none of them, several, or has options of another.
        """
        given: dict[TriggerType, dict[str, Any]] = {
            "cron": self._schedule(),
            "event": _given(types=list(self.event), source=self.source),
            "lifecycle": _given(types=list(self.lifecycle)),
            "webhook": self._webhook(),
        }
        wanted: list[TriggerType] = [kind for kind, config in given.items() if config]
        if len(wanted) != 1:
            said = f"{' and '.join(wanted)} were given" if wanted else "nothing was given"
            raise CommandFailed(
                "Say what it waits for: one of --cron, --every, --at, --event, --lifecycle and "
                f"--webhook; {said}.",
                ExitCode.USAGE,
            )
        kind, config = wanted[0], given[wanted[0]]
        for name, needed, option in (
            ("types", "event", "--source goes with --event"),
            ("verify", "webhook", "--secret, --header and the like go with --webhook"),
        ):
            if kind == needed and name not in config:
                raise CommandFailed(f"{option}.", ExitCode.USAGE)
        if kind == "cron":
            _check_schedule(config)
        return kind, config

    def _schedule(self) -> dict[str, Any]:
        data = {} if self.data is None else {"data": read_json(self.data, "--data")}
        return data | _given(
            cron=self.cron,
            every=self.every,
            at=self.at,
            timeZone=self.time_zone,
            overlap=self.overlap,
            missed=self.missed,
            spread=self.spread,
        )

    def _webhook(self) -> dict[str, Any]:
        more = _given(header=self.header, encoding=self.encoding, prefix=self.prefix)
        if self.webhook is None:
            return more | _given(respond=self.respond, secret=self.secret or None)
        return _given(verify={"scheme": self.webhook, **more}, respond=self.respond)


def read_object(given: str | None, option: str) -> dict[str, Any] | None:
    """Return the JSON object that an option gives; None where it was not given.

    Raises:
        CommandFailed: It cannot be read, or is none.
    """
    if given is None:
        return None
    value = read_json(given, option)
    if not isinstance(value, dict):
        raise CommandFailed(f"{option} is no JSON object.", ExitCode.USAGE)
    return cast("dict[str, Any]", value)


def _check_schedule(config: dict[str, Any]) -> None:
    given = [name for name in ("cron", "every", "at") if name in config]
    if len(given) != 1:
        raise CommandFailed("Give one of --cron, --every and --at.", ExitCode.USAGE)
    if "timeZone" in config and given != ["cron"]:
        raise CommandFailed("--time-zone goes with --cron.", ExitCode.USAGE)


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, [])}
