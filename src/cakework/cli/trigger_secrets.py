"""Secrets of webhooks that come in: made here, or by the provider once it knows the URL."""

import secrets
import shlex
from typing import Any

from cakework.domain.signatures import Verify, new_secret
from cakework_client import Function, Trigger, WebhookConfig


def is_providers(verify: Any) -> bool:
    """Say whether it is the provider that makes the secrets of such webhooks."""
    told = Verify.model_validate(verify)
    return told.scheme != "none" and new_secret(told) is None


def with_placeholder(config: dict[str, Any]) -> dict[str, Any]:
    """Return a webhook's configuration as it is made before the provider's secret is known: with
    one that nobody knows, by which nothing is taken."""
    if not is_providers(config["verify"]):
        return config
    nobodys = secrets.token_urlsafe(32)
    if config["verify"]["scheme"] == "basic":
        nobodys = f"nobody:{nobodys}"
    return {**config, "verify": {**config["verify"], "secret": nobodys}}


def advice(trigger: Trigger, function: Function | None = None) -> str | None:
    """Return how a webhook gets a secret that both sides know; None where it needs none."""
    if not isinstance(trigger.config, WebhookConfig) or trigger.config.verify.scheme == "none":
        return None
    words = ["cakework", "triggers", "rotate", trigger.name or trigger.id]
    if trigger.name and function is not None:
        words += ["--function", function.name]
        words += ["--user", function.user_id] if function.user_id else []
    command = shlex.join(words)
    if is_providers(trigger.config.verify.to_dict()):
        return f"it takes nothing until it has the provider's secret: {command} --secret"
    return f"a secret for the provider is made and shown by: {command}"
