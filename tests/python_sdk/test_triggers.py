"""What the clients send and read where triggers and events are concerned."""

from datetime import UTC, datetime
from typing import Any

import pytest

from cakework_client import (
    CakeworkClient,
    CronConfig,
    EventConfig,
    LifecycleConfig,
    LoopDetected,
    Trigger,
    TriggerWithSecret,
    WebhookConfig,
)
from cakework_client.wire import read
from tests.python_sdk.server import Script, good, problem
from tests.python_sdk.test_functions import AT, FUNCTION, invocation

TRIGGER = "trg_01M84JAQ6RGNRXKE5TFB8SJJJE"
EVENT = "evt_01M84JAQ6RGNRXKE5TFB8SJJJE"
CRON: dict[str, Any] = {
    "cron": "0 9 * * *",
    "timeZone": "Europe/Berlin",
    "overlap": "skip",
    "missed": "latest",
    "missedWindow": 3600,
    "spread": 0,
}
VERIFY = {"scheme": "stripe", "tolerance": 300}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def trigger(kind: str = "cron", config: Any = CRON, **more: Any) -> dict[str, Any]:
    """Return a trigger as the API has it."""
    return {
        "id": TRIGGER,
        "functionId": FUNCTION,
        "type": kind,
        "managedBy": "api",
        "enabled": True,
        "state": "active",
        "config": config,
        "consecutiveFailures": 0,
        "createdAt": AT,
        "updatedAt": AT,
        **more,
    }


def test_a_trigger_is_made_as_it_is_told(server: Script, client: CakeworkClient) -> None:
    """With what is given and no more; times are written as the API reads them."""
    server.steps = [good(trigger(next=[AT], url="http://x/in/y", secret=SECRET))]
    until = datetime(2027, 1, 1, tzinfo=UTC)
    made = client.create_trigger(
        FUNCTION,
        "cron",
        {"cron": "0 9 * * *", "timeZone": "Europe/Berlin", "endAt": until},
        external_id="mine",
        retry={"maxAttempts": 3},
        on_failure={"functionId": FUNCTION},
        idempotency_key="k",
    )
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/v1/triggers")
    assert asked.headers["idempotency-key"] == "k"
    assert asked.body == {
        "functionId": FUNCTION,
        "type": "cron",
        "config": {
            "cron": "0 9 * * *",
            "timeZone": "Europe/Berlin",
            "endAt": "2027-01-01T00:00:00.000Z",
        },
        "externalId": "mine",
        "retry": {"maxAttempts": 3},
        "onFailure": {"functionId": FUNCTION},
    }
    assert isinstance(made.config, CronConfig)
    assert made.config.time_zone == "Europe/Berlin"
    assert made.next == [datetime.fromisoformat(AT)]
    assert SECRET not in repr(made)
    assert made.to_dict()["secret"] == SECRET


@pytest.mark.parametrize(
    ("kind", "config", "shape"),
    [
        ("cron", CRON, CronConfig),
        ("event", {"types": ["order.*"], "source": "/shop"}, EventConfig),
        ("lifecycle", {"types": ["cakework.*"]}, LifecycleConfig),
        ("webhook", {"verify": VERIFY, "respond": "accepted", "dedupe": True}, WebhookConfig),
    ],
)
def test_a_configuration_is_of_its_type(kind: str, config: Any, shape: type) -> None:
    """And is given back as it came."""
    found = read(Trigger, trigger(kind, config))
    assert isinstance(found.config, shape)
    assert found.to_dict() == trigger(kind, config)


def test_a_type_that_is_new_is_handed_on() -> None:
    """As the words and the objects of the API that a later server has."""
    found = read(Trigger, trigger("queue", {"name": "q", "perSecond": 3}))
    assert (found.type, found.config) == ("queue", {"name": "q", "perSecond": 3})
    with pytest.raises(ValueError, match="types is missing"):
        read(Trigger, trigger("event", {}))


def test_what_is_changed_is_sent_alone(server: Script, client: CakeworkClient) -> None:
    """None takes away; what is not given stays."""
    server.steps = [good(trigger(enabled=False, state="paused"))]
    changed = client.update_trigger(
        TRIGGER, enabled=False, filter=None, config={"startAt": None}, pause_after=None
    )
    assert changed.state == "paused"
    assert server.asked[0].method == "PATCH"
    assert server.asked[0].body == {
        "enabled": False,
        "config": {"startAt": None},
        "filter": None,
        "pauseAfter": None,
    }


def test_triggers_are_run_and_rotated(server: Script, client: CakeworkClient) -> None:
    """Nothing as data is data; what is not said of a secret is the server's to say."""
    server.steps = [
        good(invocation(triggerId=TRIGGER, scheduledAt=AT, cause={"eventId": EVENT})),
        good(invocation()),
        good(trigger("webhook", {"verify": VERIFY}, secret=SECRET)),
        good(trigger("webhook", {"verify": VERIFY})),
        good({}),
    ]
    made = client.run_trigger(TRIGGER, data=None)
    assert (made.trigger_id, made.scheduled_at) == (TRIGGER, datetime.fromisoformat(AT))
    assert made.cause
    assert made.cause.event_id == EVENT
    client.run_trigger(TRIGGER, event={"type": "a"})
    rotated = client.rotate_trigger_secret(TRIGGER)
    assert (type(rotated), rotated.secret) == (TriggerWithSecret, SECRET)
    assert client.rotate_trigger_secret(TRIGGER, secret=False, url=True).secret is None
    client.delete_trigger(TRIGGER)
    assert [(each.method, each.path, each.body) for each in server.asked] == [
        ("POST", f"/v1/triggers/{TRIGGER}/run", {"data": None}),
        ("POST", f"/v1/triggers/{TRIGGER}/run", {"event": {"type": "a"}}),
        ("POST", f"/v1/triggers/{TRIGGER}/rotate", {}),
        ("POST", f"/v1/triggers/{TRIGGER}/rotate", {"secret": False, "url": True}),
        ("DELETE", f"/v1/triggers/{TRIGGER}", None),
    ]


def test_an_event_is_emitted_once(server: Script, client: CakeworkClient) -> None:
    """Sent again with the same key where the server was too busy."""
    emitted = {"id": EVENT, "duplicate": False, "invocations": 2}
    server.steps = [
        problem(503, "unavailable", Retry_After="0"),
        lambda handler: handler.send_json(202, {"events": [emitted]}),
    ]
    at = datetime(2026, 3, 3, tzinfo=UTC)
    made = client.emit("order.paid", data={"n": 1}, subject="o-1", time=at, user_id="u")
    assert made.to_dict() == emitted
    first, again = server.asked
    assert first.headers["idempotency-key"] == again.headers["idempotency-key"]
    assert (again.path, again.query) == ("/v1/events", {"userId": ["u"]})
    assert again.body == {
        "events": [
            {
                "type": "order.paid",
                "subject": "o-1",
                "time": "2026-03-03T00:00:00.000Z",
                "data": {"n": 1},
            }
        ]
    }


def test_loops_are_errors_of_their_own(server: Script, client: CakeworkClient) -> None:
    """Which are conflicts, too."""
    server.steps = [problem(409, "loop_detected")]
    with pytest.raises(LoopDetected):
        client.emit_events([{"type": "a"}, {"type": "b", "cakeworkcause": "inv_x"}])
    assert [each["type"] for each in server.asked[0].body["events"]] == ["a", "b"]


def test_lists_go_on_to_their_ends(server: Script, client: CakeworkClient) -> None:
    """Page by page, with what was asked for."""
    event = {
        "id": EVENT,
        "type": "order.paid",
        "bytes": 9,
        "made": 0,
        "pending": False,
        "depth": 0,
        "createdAt": AT,
    }
    server.steps = [
        good({"triggers": [trigger()], "pagination": "p"}),
        good({"triggers": [trigger()]}),
        good({"events": [event], "pagination": "p"}),
        good({"events": [event]}),
        good({"invocations": []}),
        good({"invocations": []}),
    ]
    assert len(list(client.iter_triggers(function_id=FUNCTION, type="cron"))) == 2
    assert len(list(client.iter_events(type="order.paid", from_=AT))) == 2
    assert list(client.iter_invocations(trigger_id=TRIGGER)) == []
    assert list(client.iter_dead_letters(event_id=EVENT)) == []
    of = {"functionId": [FUNCTION], "type": ["cron"]}
    paid = {"type": ["order.paid"], "from": [AT]}
    assert [each.query for each in server.asked] == [
        *(of, {**of, "pagination": ["p"]}),
        *(paid, {**paid, "pagination": ["p"]}),
        *({"triggerId": [TRIGGER]}, {"eventId": [EVENT]}),
    ]


def test_schedules_and_filters_are_tried(server: Script, client: CakeworkClient) -> None:
    """Before anything is made of them."""
    server.steps = [
        good({"times": [AT], "remarks": ["One hour is skipped."]}),
        good({"matches": False, "because": ["data.total is 3, not above 100"]}),
    ]
    preview = client.preview_schedule("0 9 * * *", time_zone="Europe/Berlin", count=1, from_=AT)
    assert (preview.times, len(preview.remarks)) == ([datetime.fromisoformat(AT)], 1)
    match = client.test_filter({"data": {"total": [3]}}, {"type": "a"})
    assert (match.matches, len(match.because)) == (False, 1)
    assert [each.body for each in server.asked] == [
        {"cron": "0 9 * * *", "timeZone": "Europe/Berlin", "count": 1, "from": AT},
        {"filter": {"data": {"total": [3]}}, "event": {"type": "a"}},
    ]
