"""What is asked of a trigger, and whether it may be asked."""

import json
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement

from cakework.domain.errors import FieldError, InvalidRequest
from cakework.domain.functions import RetryPolicy
from cakework.domain.ids import ACCOUNT_ITSELF, AccountId, FunctionId, UserId
from cakework.domain.patterns import BadPattern, Pattern
from cakework.domain.signatures import Verify, check_secret, new_secret
from cakework.domain.triggers import CronConfig, TriggerConfig, TriggerType, WebhookConfig
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.values import storable

CONFIG_BYTES_MAX = 16 * 1024
"""Of what a trigger is told: its configuration and its filter."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewTrigger:
    """What is asked for. ``filter`` is a pattern; ``limits`` are rules of flow control, as JSON."""

    function_id: FunctionId
    config: TriggerConfig
    user_id: UserId = ACCOUNT_ITSELF
    name: str | None = None
    external_id: str | None = None
    managed_by: str = "api"
    filter: Json | None = None
    retry: RetryPolicy | None = None
    limits: list[Json] | None = None
    on_failure: FunctionId | None = None
    pause_after: int | None = None
    enabled: bool = True
    secret: str | None = field(default=None, repr=False)

    def told(self) -> str:
        """Return all of it as JSON, by which a declaration is known again."""
        return json.dumps(
            [
                *(self.config.model_dump(mode="json"), self.user_id, self.name, self.managed_by),
                *(self.filter, None if self.retry is None else self.retry.model_dump(mode="json")),
                *(self.limits, self.on_failure, self.pause_after, self.enabled, self.secret),
            ],
            sort_keys=True,
        )


@dataclass(frozen=True, slots=True)
class TriggerFilter:
    """Which triggers to list; None takes all."""

    function_id: str | None = None
    user_id: str | None = None
    type: TriggerType | None = None
    external_id: str | None = None

    def of(self, account: AccountId) -> list[ColumnElement[bool]]:
        """Return what is true of those of ``account``."""
        return [
            TriggerRow.account_id == account,
            *(
                column == storable(value)
                for column, value in (
                    (TriggerRow.function_id, self.function_id),
                    (TriggerRow.user_id, self.user_id),
                    (TriggerRow.type, self.type),
                    (TriggerRow.external_id, self.external_id),
                )
                if value is not None
            ),
        ]


def check(config: TriggerConfig, pattern: Json | None) -> None:
    """Check what a trigger is told, but for what the store says. Raises InvalidRequest."""
    if pattern is not None:
        if isinstance(config, CronConfig):
            raise refused("filter", "is for events, webhooks and lifecycle: a schedule has none")
        try:
            Pattern.compile(pattern)
        except BadPattern as error:
            place = f"filter.{error.path}".rstrip(".")
            raise refused(place, str(error)) from error
    size = len(config.model_dump_json(by_alias=True).encode()) + len(json.dumps(pattern))
    if size > CONFIG_BYTES_MAX:
        raise refused("config", f"takes {size} bytes, and {CONFIG_BYTES_MAX} are allowed")


def secret_of(new: NewTrigger) -> tuple[str | None, bool]:
    """Return the secret of a new trigger, and whether it was made here. Raises InvalidRequest."""
    if not isinstance(new.config, WebhookConfig):
        return None, False
    verify = new.config.verify
    secret = new.secret if new.secret is not None else new_secret(verify)
    _check_secret(verify, secret, "config.verify.secret")
    return secret, secret is not None and new.secret is None


def _check_secret(verify: Verify, secret: str | None, field: str) -> None:
    try:
        check_secret(verify, secret)
    except ValueError as error:
        raise refused(field, str(error)) from error


def other_secret(verify: Verify, secret: str | bool, drawn: bytes | None = None) -> str:
    """Return the secret that a webhook gets anew: what is given, or where that is True, one that is
    made here, of what was ``drawn`` if anything was. Raises InvalidRequest."""
    made = secret if isinstance(secret, str) else new_secret(verify, drawn)
    if made is None:
        raise refused("secret", f"is made by the provider for {verify.scheme}: give that")
    _check_secret(verify, made, "secret")
    return made


def refused(name: str, message: str) -> InvalidRequest:
    """Return the error of a request in which the field ``name`` is at fault."""
    return InvalidRequest(
        f"The request is not valid: {name} {message}.", [FieldError(name, message)]
    )
