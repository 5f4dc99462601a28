"""Webhooks that are Cakework's, and those that are not."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook

from cakework_client import (
    UNSET,
    CakeworkClient,
    Invocation,
    Version,
    Vm,
    WebhookRejected,
    verify_webhook,
)
from tests.python_sdk.server import VM, Script, good
from tests.python_sdk.test_functions import invocation, version

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
STATED = {"type": "vm.stopped", "timestamp": "2026-03-03T20:22:39.096Z", "data": VM}


def signed(
    secret: str = SECRET, moment: datetime | None = None, value: object = STATED
) -> tuple[bytes, dict[str, str]]:
    """Return a webhook's body and its headers."""
    moment = moment or datetime.now(UTC)
    body = json.dumps(value)
    headers = {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(int(moment.timestamp())),
        "Webhook-Signature": Webhook(secret).sign("msg_1", moment, body),
    }
    return body.encode(), headers


def test_what_is_signed_is_read() -> None:
    """The event has its id, its time, and the VM as getVm would show it."""
    event = verify_webhook(*signed(), SECRET)
    assert (event.id, event.type) == ("msg_1", "vm.stopped")
    assert event.timestamp == datetime(2026, 3, 3, 20, 22, 39, 96000, UTC)
    assert isinstance(event.data, Vm)
    assert event.data.to_dict() == VM


def test_one_of_several_secrets_is_enough() -> None:
    """As while a secret is being changed."""
    assert verify_webhook(*signed(), [OTHER, SECRET]).id == "msg_1"


def test_what_becomes_of_functions_is_read() -> None:
    """A version, and an invocation without its event and result."""
    failed = version("failed", error="No module named 'x'")
    deployed = verify_webhook(
        *signed(value={**STATED, "type": "function.failed", "data": failed}), SECRET
    )
    assert isinstance(deployed.data, Version)
    assert deployed.data.to_dict() == failed
    end = invocation("failed", reason="timeout")
    told = verify_webhook(
        *signed(value={**STATED, "type": "invocation.failed", "data": end}), SECRET
    )
    assert isinstance(told.data, Invocation)
    assert told.data.to_dict() == end


def test_a_test_and_what_is_new_are_plain() -> None:
    """What this version does not know is a dictionary."""
    for kind in ("webhook.test", "moon.risen"):
        value = {**STATED, "type": kind, "data": {"a": 1}}
        assert verify_webhook(*signed(value=value), SECRET).data == {"a": 1}


Sent = tuple[bytes, dict[str, str]]
TEN_MINUTES = timedelta(minutes=10)
REJECTED: list[Callable[[], tuple[Sent, str | list[str]]]] = [
    lambda: (signed(OTHER), SECRET),
    lambda: ((signed()[0] + b" ", signed()[1]), SECRET),
    lambda: (signed(moment=datetime.now(UTC) - TEN_MINUTES), SECRET),
    lambda: (signed(moment=datetime.now(UTC) + TEN_MINUTES), SECRET),
    lambda: ((signed()[0], {}), SECRET),
    lambda: ((signed()[0], {**signed()[1], "Webhook-Signature": "v1,AAAA"}), SECRET),
    lambda: ((signed()[0], {**signed()[1], "Webhook-Signature": "nonsense"}), SECRET),
    lambda: ((b"\xff", signed()[1]), SECRET),
    lambda: (signed(value={"type": "vm.stopped"}), SECRET),
    lambda: (signed(value=[]), SECRET),
    lambda: (signed(), []),
]
"""Signed when the test runs, since what was signed a while ago is rejected for that alone."""


@pytest.mark.parametrize("sent", REJECTED)
def test_all_else_is_rejected(sent: Callable[[], tuple[Sent, str | list[str]]]) -> None:
    """Another secret, another body, too old, too new, no signature, nonsense."""
    (body, headers), secret = sent()
    with pytest.raises(WebhookRejected):
        verify_webhook(body, headers, secret)


def test_a_secret_that_is_none_is_the_receivers_fault() -> None:
    """It is no reason to refuse a webhook."""
    with pytest.raises(ValueError, match="secret"):
        verify_webhook(*signed(), "")


def test_what_is_absent_stays(server: Script, client: CakeworkClient) -> None:
    """A change sends what is given alone; None is sent as null."""
    webhook = {
        "id": "ep_1",
        "url": "https://example.test/",
        "enabled": True,
        "createdAt": VM["createdAt"],
        "updatedAt": VM["updatedAt"],
    }
    server.steps = [good(webhook), good(webhook)]
    client.update_webhook("ep_1", events=None, enabled=False)
    client.update_webhook("ep_1", url=UNSET, description="x")
    assert [asked.body for asked in server.asked] == [
        {"events": None, "enabled": False},
        {"description": "x"},
    ]


def test_a_secret_is_in_no_repr(server: Script, client: CakeworkClient) -> None:
    """It is the caller's to show."""
    times = {"createdAt": VM["createdAt"], "updatedAt": VM["updatedAt"]}
    server.steps = [good({"id": "ep_1", "url": "u", "enabled": True, "secret": SECRET, **times})]
    made = client.create_webhook("u")
    assert made.secret == SECRET
    assert SECRET not in repr(made)
