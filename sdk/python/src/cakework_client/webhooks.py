"""Webhooks: whether Cakework sent them, and what they say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from cakework_client.errors import WebhookRejected
from cakework_client.models import Build, EventType, Invocation, Trigger, Version, Vm
from cakework_client.wire import Answer, read

WebhookData = Build | Vm | Version | Invocation | Trigger | dict[str, Any]
_DATA: dict[str, type[Build] | type[Vm] | type[Version] | type[Invocation] | type[Trigger]] = {
    "build": Build,
    "vm": Vm,
    "function": Version,
    "invocation": Invocation,
    "trigger": Trigger,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvent(Answer):
    """What a webhook says: what happened, when, and to which build, VM, version of a function,
    invocation or trigger.

    ``id`` is the same when an event comes again. ``data`` is that thing as it then was, an
    invocation without its event and result; for a test, and for events that this version does not
    know, it is a plain dictionary.
    """

    id: str
    type: EventType
    timestamp: datetime
    data: WebhookData


def verify_webhook(
    body: str | bytes, headers: Mapping[str, str], secret: str | Iterable[str]
) -> WebhookEvent:
    """Return what a webhook says, once it is sure that Cakework sent it, not long ago.

    Args:
        body: The request's body as it came, not parsed.
        headers: The request's headers, in upper or lower case.
        secret: The webhook's secret (``whsec_…``), or several of which one must fit.

    Raises:
        WebhookRejected: No secret fits, or it was sent more than five minutes ago.
        ValueError: A secret is no secret.
    """
    secrets = [secret] if isinstance(secret, str) else list(secret)
    failure = WebhookRejected("no secret was given")
    for each in secrets:
        try:
            return _event(_verified(body, headers, each), headers)
        except WebhookRejected as rejected:
            failure = rejected
    raise failure


def _verified(body: str | bytes, headers: Mapping[str, str], secret: str) -> object:
    from standardwebhooks import Webhook
    from standardwebhooks.webhooks import EmptyWebhookSecretError, WebhookVerificationError

    try:
        checker = Webhook(secret)
    except EmptyWebhookSecretError as error:
        raise ValueError("the webhook's secret is empty") from error
    try:
        return checker.verify(body, dict(headers))
    except (WebhookVerificationError, ValueError) as error:
        raise WebhookRejected(f"the webhook is not to be trusted: {error}") from error


def _event(value: object, headers: Mapping[str, str]) -> WebhookEvent:
    try:
        found = cast("dict[str, Any]", value)
        ids = [value for name, value in headers.items() if name.lower() == "webhook-id"]
        data = _data(found["type"], found["data"])
        moment = datetime.fromisoformat(found["timestamp"])
        return WebhookEvent(id=ids[0], type=found["type"], timestamp=moment, data=data)
    except (ValueError, TypeError, KeyError) as error:
        raise WebhookRejected(f"the webhook is signed but not understood: {error}") from error


def _data(kind: str, data: dict[str, Any]) -> WebhookData:
    shape = _DATA.get(kind.partition(".")[0])
    return data if shape is None else read(shape, data)
