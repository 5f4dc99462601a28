"""``[[triggers]]`` of ``cakework.toml``: what makes invocations of the folder's function.

The keys of one are those of ``COMMON``, and beside them those of its type's configuration, named as
the API has them. There are no secrets among them.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from cakework.cli.manifest_faults import Fault, Place, check_known, fault_of, names_of
from cakework.domain.functions import FailureHandler, RetryPolicy
from cakework.domain.patterns import BadPattern, Pattern
from cakework.domain.signatures import Verify
from cakework.domain.triggers import CONFIGS, TriggerType

KEY = "triggers"
FILE_ID = "file:"
"""How the external ids begin of triggers that a file declares."""
_PLAIN = re.compile(r"[A-Za-z0-9._:@/-]{1,100}")


class _Common(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", hide_input_in_errors=True
    )

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,255}$")] | None = None
    filter: dict[str, Any] | None = None
    retry: RetryPolicy | None = None
    on_failure: FailureHandler | None = None
    pause_after: Annotated[int, Field(ge=1, le=10_000)] | None = None
    enabled: Annotated[bool, Field(strict=True)] | None = None


COMMON = ("type", *names_of(_Common))


@dataclass(frozen=True)
class DeclaredTrigger:
    """One that a file declares, as the API takes it. ``enabled`` None leaves it as it is."""

    external_id: str
    type: TriggerType
    config: dict[str, Any]
    name: str | None = None
    filter: dict[str, Any] | None = None
    retry: dict[str, Any] | None = None
    on_failure: str | None = None
    pause_after: int | None = None
    enabled: bool | None = None

    @property
    def label(self) -> str:
        """What it is called where people are told of it."""
        return self.name or self.external_id.removeprefix(FILE_ID)


def read_triggers(given: object) -> tuple[DeclaredTrigger, ...]:
    """Return what the triggers of a file are.

    Raises:
        Fault: Something in them is wrong.
    """
    if not isinstance(given, list):
        raise Fault((KEY,), "should be tables, each below a line [[triggers]]")
    declared: list[DeclaredTrigger] = []
    for index, each in enumerate(cast("list[object]", given)):
        if not isinstance(each, dict):
            raise Fault((KEY,), "should be tables, each below a line [[triggers]]")
        one = _declared((KEY, index), cast("dict[str, Any]", each), declared)
        if any(one.external_id == other.external_id for other in declared):
            raise Fault((KEY, index, "name"), "is another one's: each has a name of its own")
        declared.append(one)
    return tuple(declared)


def _declared(
    place: Place, given: dict[str, Any], before: Sequence[DeclaredTrigger]
) -> DeclaredTrigger:
    kind = _type(place, given)
    model = CONFIGS[kind]
    check_known(given, (*COMMON, *names_of(model)), place)
    if kind is TriggerType.WEBHOOK:
        _check_webhook(place, given)
    for name, inner in (("retry", RetryPolicy), ("onFailure", FailureHandler)):
        if isinstance(given.get(name), dict):
            check_known(given[name], names_of(inner), (*place, name))
    config = {name: _plain(value) for name, value in given.items() if name not in COMMON}
    try:
        common = _Common.model_validate(given)
        model.model_validate(config)
    except ValidationError as error:
        raise _at_its_key(fault_of(error, place), names_of(model)) from error
    _check_json(place, config)
    if common.filter is not None:
        _check_filter((*place, "filter"), kind, common.filter)
    retry = common.retry
    return DeclaredTrigger(
        external_id=_external_id(kind, common.name, before),
        type=kind,
        config=config,
        name=common.name,
        filter=common.filter,
        retry=None if retry is None else retry.model_dump(by_alias=True, exclude_unset=True),
        on_failure=None if common.on_failure is None else common.on_failure.function_id,
        pause_after=common.pause_after,
        enabled=common.enabled,
    )


def _at_its_key(fault: Fault, names: Sequence[str]) -> Fault:
    """Return what is wrong with a whole table at the key that it is said of, if it is of one."""
    name, colon, said = fault.said.partition(": ")
    return Fault((*fault.place, name), said) if colon and name in names else fault


def _type(place: Place, given: Mapping[str, Any]) -> TriggerType:
    if "type" not in given:
        raise Fault((*place, "type"), f"is missing: {', '.join(TriggerType)}")
    try:
        return TriggerType(given["type"])
    except ValueError as error:
        raise Fault((*place, "type"), f"should be {', '.join(TriggerType)}") from error


def _check_webhook(place: Place, given: Mapping[str, Any]) -> None:
    if "name" not in given:
        said = "is missing: by its name a webhook keeps its URL and its secret"
        raise Fault((*place, "name"), said)
    verify = given.get("verify")
    if not isinstance(verify, dict):
        return
    if "secret" in verify:
        said = "has no place in a file: `cakework triggers rotate` takes it, or makes one"
        raise Fault((*place, "verify", "secret"), said)
    check_known(cast("dict[str, Any]", verify), names_of(Verify), (*place, "verify"))


def _plain(value: object) -> object:
    """Return a time that is written as TOML has it as the API does."""
    return value.isoformat() if isinstance(value, datetime) and value.tzinfo else value


def _check_json(place: Place, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            said = "has something in it that JSON has not, such as a date: write it as text"
            raise Fault((*place, name), said) from error


def _check_filter(place: Place, kind: TriggerType, given: dict[str, Any]) -> None:
    if kind is TriggerType.CRON:
        raise Fault(place, "is for events, webhooks and lifecycle: a schedule has none")
    _check_json(place[:-1], {"filter": given})
    try:
        Pattern.compile(given)
    except BadPattern as error:
        raise Fault(place, f"{error.path} {error}".strip()) from error


def _external_id(kind: TriggerType, name: str | None, before: Sequence[DeclaredTrigger]) -> str:
    """Return the id by which a trigger is known again: by its name, or as the n-th of its type that
    has none."""
    if name is None:
        number = 1 + sum(each.type is kind and each.name is None for each in before)
        return f"{FILE_ID}{kind}:{number}"
    told = name if _PLAIN.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:40]
    return f"{FILE_ID}name:{told}"
