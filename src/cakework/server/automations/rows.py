"""What the row of a trigger says."""

import json
from collections.abc import Callable
from typing import Any

from cakework.domain.functions import RetryPolicy
from cakework.domain.triggers import CONFIGS, TriggerConfig, TriggerType
from cakework.server.store.automation_models import TriggerRow

Json = dict[str, Any]


def type_of(config: TriggerConfig) -> TriggerType:
    """Return the type of triggers that are configured so."""
    return next(kind for kind, model in CONFIGS.items() if isinstance(config, model))


def config_of(row: TriggerRow) -> TriggerConfig:
    """Return what a trigger waits for."""
    return CONFIGS[TriggerType(row.type)].model_validate_json(row.config)


def filter_of(row: TriggerRow) -> Json | None:
    """Return the pattern that its events have to match."""
    return None if row.filter is None else json.loads(row.filter)


def retry_of(row: TriggerRow) -> RetryPolicy | None:
    """Return the policy of what it makes; None: the function's."""
    return None if row.retry is None else RetryPolicy.model_validate_json(row.retry)


def is_active(row: TriggerRow) -> bool:
    """Say whether it makes anything at present."""
    return row.enabled and row.paused_reason is None


def _told(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


COLUMNS: dict[str, Callable[[Any], object]] = {
    "name": lambda name: name,
    "config": lambda config: config.model_dump_json(by_alias=True, exclude_unset=True),
    "filter": _told,
    "retry": lambda retry: None if retry is None else retry.model_dump_json(by_alias=True),
    "limits": _told,
    "on_failure": lambda handler: handler,
    "pause_after": lambda count: count,
}
"""How what may be changed is kept."""
