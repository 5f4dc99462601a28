"""The triggers of a folder's file: made, changed and removed, so that they are as it says.

Those that it declares are known again by their external ids. One that no file has declared is never
touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from cakework.cli.client import failure_of
from cakework.cli.exits import CommandFailed
from cakework.cli.manifest_faults import names_of
from cakework.cli.manifest_triggers import FILE_ID, DeclaredTrigger
from cakework.cli.output import Output, shown_on_stderr
from cakework.cli.trigger_secrets import advice, with_placeholder
from cakework.cli.trigger_texts import config_of, moment, what
from cakework.domain.functions import RetryPolicy
from cakework.domain.triggers import CONFIGS, TriggerType
from cakework_client import ApiError, CakeworkClient, Function, Trigger, TriggerSettings
from cakework_client.models import RetrySettings, TriggerWithSecret


@dataclass
class Settled:
    """What became of the triggers of a file."""

    made: list[Trigger] = field(default_factory=list[Trigger])
    changed: list[Trigger] = field(default_factory=list[Trigger])
    removed: list[Trigger] = field(default_factory=list[Trigger])

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON, without secrets."""
        told = {"made": self.made, "changed": self.changed, "removed": self.removed}
        return {name: [_plain(each) for each in triggers] for name, triggers in told.items()}


@dataclass(frozen=True)
class TriggerDeploy:
    """The triggers of one function, as its file has them."""

    client: CakeworkClient
    function: Function
    output: Output

    def settle(self, declared: Sequence[DeclaredTrigger]) -> Settled:
        """Have them be as they are declared, saying what is done.

        Raises:
            CommandFailed: The server refuses one. What was done before stays done.
        """
        settled = Settled()
        there = {each.external_id: each for each in self._there()}
        wanted = {each.external_id: each for each in declared}
        for external_id, trigger in there.items():
            one = wanted.get(external_id or "")
            if one is None or one.type != trigger.type:
                self.client.delete_trigger(trigger.id)
                settled.removed.append(trigger)
                self._say(f"removed trigger {_called(trigger)}")
        for external_id, one in wanted.items():
            trigger = there.get(external_id)
            try:
                if trigger is None or one.type != trigger.type:
                    settled.made.append(self._made(one))
                elif changes := _changes(one, trigger):
                    settled.changed.append(self._changed(one, trigger, changes))
            except ApiError as error:
                raise self._refused(one, error) from error
        return settled

    def _there(self) -> list[Trigger]:
        found = self.client.iter_triggers(function_id=self.function.id)
        return [each for each in found if each.managed_by == "file"]

    def _made(self, one: DeclaredTrigger) -> TriggerWithSecret:
        is_webhook = one.type is TriggerType.WEBHOOK
        made = self.client.create_trigger(
            self.function.id,
            one.type.value,
            cast("TriggerSettings", with_placeholder(one.config) if is_webhook else one.config),
            filter=one.filter,
            name=one.name,
            external_id=one.external_id,
            enabled=one.enabled,
            retry=cast("RetrySettings | None", one.retry),
            on_failure={"functionId": one.on_failure} if one.on_failure else None,
            pause_after=one.pause_after,
            managed_by="file",
        )
        after = f", next {moment(made.next[0])}" if made.next else ""
        self._say(f"made trigger {one.label} ({what(made)}){after}")
        if made.url:
            self._say(f"  {made.url}")
        if said := advice(made, self.function):
            self._say(f"  {said}")
        return made

    def _changed(self, one: DeclaredTrigger, trigger: Trigger, changes: dict[str, Any]) -> Trigger:
        changed = self.client.update_trigger(trigger.id, **changes)
        self._say(f"changed {', '.join(changes)} of trigger {one.label} ({what(changed)})")
        if "config" in changes and _scheme(changed) != _scheme(trigger):
            said = advice(changed, self.function)
            self._say(f"  its secret is the one before; {said}" if said else "  it needs no secret")
        return changed

    def _refused(self, one: DeclaredTrigger, error: ApiError) -> CommandFailed:
        failure = failure_of(error)
        told = f"The code is deployed, its trigger {one.label} is not: {failure.detail}"
        return CommandFailed(told, failure.exit_code, problem=failure.problem)

    def _say(self, text: str) -> None:
        self.output.progress(shown_on_stderr(text))


def _changes(one: DeclaredTrigger, trigger: Trigger) -> dict[str, Any]:
    """Return what is to be changed of a trigger, as the client takes it."""
    model = CONFIGS[one.type]
    wanted = model.model_validate(one.config)
    given = wanted.model_dump(mode="json", by_alias=True, exclude_unset=True)
    handler = trigger.on_failure and trigger.on_failure.function_id
    changes: dict[str, Any] = {}
    if _whole(trigger) != wanted.model_dump(mode="json", by_alias=True):
        changes["config"] = {name: given.get(name) for name in names_of(model)}
    if trigger.filter != one.filter:
        changes["filter"] = one.filter
    if _policy(trigger.retry and trigger.retry.to_dict()) != _policy(one.retry):
        changes["retry"] = one.retry
    if handler != one.on_failure:
        changes["on_failure"] = {"functionId": one.on_failure} if one.on_failure else None
    if trigger.pause_after != one.pause_after:
        changes["pause_after"] = one.pause_after
    if one.enabled is not None and one.enabled != trigger.enabled:
        changes["enabled"] = one.enabled
    return changes


def _whole(trigger: Trigger) -> dict[str, Any]:
    """Return a configuration with all defaults, in a form that can be compared."""
    model = CONFIGS[TriggerType(trigger.type)]
    told, known = config_of(trigger), names_of(model)
    config = {name: value for name, value in told.items() if name in known}
    return model.model_validate(config).model_dump(mode="json", by_alias=True)


def _policy(retry: dict[str, Any] | None) -> RetryPolicy | None:
    return None if retry is None else RetryPolicy.model_validate(retry)


def _scheme(trigger: Trigger) -> object:
    return config_of(trigger).get("verify", {}).get("scheme")


def _called(trigger: Trigger) -> str:
    return trigger.name or (trigger.external_id or trigger.id).removeprefix(FILE_ID)


def _plain(trigger: Trigger) -> dict[str, Any]:
    told = trigger.to_dict()
    told.pop("secret", None)
    return told
