"""Triggers as text for people."""

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cakework.cli.output import facts, shown
from cakework_client import CronConfig, EventConfig, LifecycleConfig, Trigger, WebhookConfig

COLUMNS = {"id": "ID", "function": "FUNCTION", "what": "TRIGGER", "now": "STATE"}
FUNCTION_CHARS, WHAT_CHARS = 13, 24
"""With the ids and the states, such columns are no wider than a terminal."""


def row(trigger: Trigger, called: Mapping[str, str]) -> dict[str, Any]:
    """Return a line of a list; ``called`` has the functions' names by their ids."""
    function = called.get(trigger.function_id, trigger.function_id)
    return {
        "id": trigger.id,
        "function": _cut(function, FUNCTION_CHARS),
        "what": _cut(f"{trigger.name}: {what(trigger)}" if trigger.name else what(trigger)),
        "now": trigger.state,
    }


def what(trigger: Trigger) -> str:
    """Return in a few words what a trigger waits for."""
    match trigger.config:
        case CronConfig(every=int() as every):
            told = f"every {every} s"
        case CronConfig(at=str() as at):
            told = f"at {at}"
        case CronConfig(cron=cron, time_zone=zone):
            told = f"{cron}{'' if zone == 'UTC' else f' {zone}'}"
        case EventConfig(types=types) | LifecycleConfig(types=types):
            told = ", ".join(types)
        case WebhookConfig(verify=verify):
            told = verify.scheme
        case _:
            told = ""
    return f"{trigger.type} {told}".rstrip()


def described(trigger: Trigger, function: str | None) -> str:
    """Return all that is known of a trigger."""
    refused = trigger.refused
    failures = trigger.consecutive_failures
    lines = {
        "id": trigger.id,
        "name": trigger.name,
        "function": f"{function} ({trigger.function_id})" if function else trigger.function_id,
        "state": ": ".join(filter(None, (trigger.state, trigger.paused_reason))),
        "user": trigger.user_id,
        "url": trigger.url,
        **{name: _value(each) for name, each in config_of(trigger).items()},
        "filter": _value(trigger.filter),
        "retry": _value(trigger.retry and trigger.retry.to_dict()),
        "limits": _value([each.to_dict() for each in trigger.limits or ()] or None),
        "on failure": trigger.on_failure and trigger.on_failure.function_id,
        "pause after": trigger.pause_after,
        "last": _last(trigger),
        "failures": f"{failures} in a row" if failures else None,
        "refused": refused.count if refused and refused.count else None,
        "why": refused and refused.why,
        "from": "cakework.toml" if trigger.managed_by == "file" else None,
        "external id": None if trigger.managed_by == "file" else trigger.external_id,
        "next": "\n".join(moment(each) for each in trigger.next or ()) or None,
    }
    told = facts(lines).splitlines()
    return "\n".join(shown(line, sys.stdout) for line in (what(trigger), *told))


def config_of(trigger: Trigger) -> dict[str, Any]:
    """Return what a trigger is told, as the API has it."""
    return trigger.config if isinstance(trigger.config, dict) else trigger.config.to_dict()


def moment(time: datetime) -> str:
    """Return a time as lists have it."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _last(trigger: Trigger) -> str | None:
    if trigger.last_fired_at is None:
        return None
    return f"{moment(trigger.last_fired_at)}: {trigger.last_result}"


def _value(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str, chars: int = WHAT_CHARS) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"
