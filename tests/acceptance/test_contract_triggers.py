"""The contract of the calls about triggers: each field of each answer."""

import secrets
from collections.abc import Iterator

import httpx2
import pytest

from tests.acceptance import functions
from tests.acceptance.api import Api, Json
from tests.acceptance.shapes import TIME, has_times, is_id, is_time
from tests.acceptance.waiting import until

FOLDER = "/v1/triggers"
FIELDS = {
    *("id", "functionId", "type", "managedBy", "enabled", "state", "config"),
    *("consecutiveFailures", "createdAt", "updatedAt"),
}
RETRY = {"maxAttempts", "minDelay", "factor", "maxDelay", "maxAge", "on"}
CRON: Json = {"cron": "0 9 * * 1-5", "timeZone": "Europe/Berlin"}
CRON_DEFAULTS: Json = {"overlap": "skip", "missed": "latest", "missedWindow": 3600, "spread": 0}
LARGE: Json = {"data": {"total": [{"numeric": [">", 100]}]}}
CODE = "def handler(event, context):\n    return event['data']\n"


@pytest.fixture
def function_id(api: Api) -> Iterator[str]:
    """A function that nothing is deployed to; its triggers go with it."""
    name = f"f-{secrets.token_hex(8)}"
    made = api.post("/v1/functions", {"name": name, "runtime": "python3.13"})["id"]
    yield made
    api.http.delete(f"/v1/functions/{made}").raise_for_status()


def made(api: Api, function_id: str, kind: str, config: Json, **fields: object) -> Json:
    body = {"functionId": function_id, "type": kind, "config": config, **fields}
    return api.post(FOLDER, body)


def is_trigger(trigger: Json, kind: str, *more: str) -> None:
    """Hold a body to being an active Trigger with exactly the fields of every one, and ``more``."""
    assert set(trigger) == {*FIELDS, *more}
    is_id("trigger", trigger["id"])
    is_id("function", trigger["functionId"])
    expected = {"type": kind, "enabled": True, "state": "active", "managedBy": "api"}
    assert {name: trigger[name] for name in expected} == expected
    assert type(trigger["consecutiveFailures"]) is int
    assert trigger["consecutiveFailures"] == 0
    has_times(trigger)


@pytest.mark.contract("createTrigger", "getTrigger", "listTriggers")
def test_a_schedule_says_when_it_comes(api: Api, function_id: str) -> None:
    """With all that it was told, defaults too, and its next five times."""
    told = {
        "name": "Daily",
        "externalId": secrets.token_hex(8),
        "userId": "user-1",
        "onFailure": {"functionId": function_id},
        "pauseAfter": 3,
    }
    data = {"report": "daily"}
    rules: Json = {"retry": {"maxAttempts": 2}, "limits": [{"type": "concurrency", "limit": 2}]}
    trigger = made(api, function_id, "cron", {**CRON, "data": data}, **told, **rules)
    is_trigger(trigger, "cron", *told, *rules, "next")
    assert {name: trigger[name] for name in told} == told
    assert trigger["functionId"] == function_id
    assert trigger["config"] == {**CRON, **CRON_DEFAULTS, "data": data}
    assert set(trigger["retry"]) == RETRY
    assert trigger["retry"]["maxAttempts"] == 2
    (limit,) = trigger["limits"]
    assert limit.items() >= rules["limits"][0].items()
    assert len(trigger["next"]) == 5
    assert all(TIME.fullmatch(each) for each in trigger["next"])
    assert trigger["next"] == sorted(set(trigger["next"]))
    assert api.get(f"{FOLDER}/{trigger['id']}") == trigger
    for name in ("functionId", "type", "userId", "externalId"):
        query = {name: trigger[name], "functionId": function_id}
        assert api.get(FOLDER, **query) == {"triggers": [trigger]}


@pytest.mark.contract("createTrigger")
def test_others_say_what_they_are_for(api: Api, function_id: str) -> None:
    """Types, source and filter, as they were given."""
    config: Json = {"types": ["order.*"], "source": "/shop"}
    event = made(api, function_id, "event", config, filter=LARGE)
    is_trigger(event, "event", "filter")
    assert (event["config"], event["filter"]) == (config, LARGE)
    config = {"types": ["cakework.invocation.failed"]}
    lifecycle = made(api, function_id, "lifecycle", config)
    is_trigger(lifecycle, "lifecycle")
    assert lifecycle["config"] == config


@pytest.mark.contract("createTrigger", "getTrigger", "rotateTriggerSecret")
def test_a_webhook_shows_its_secret_once(api: Api, function_id: str) -> None:
    """Its URL always; and what came to that and was not signed is told."""
    config: Json = {"verify": {"scheme": "github"}, "eventType": "github.{type}"}
    trigger = made(api, function_id, "webhook", config)
    path = f"{FOLDER}/{trigger['id']}"
    is_trigger(trigger, "webhook", "url", "refused", "secret")
    assert trigger["config"] == {**config, "respond": "accepted", "dedupe": True}
    assert trigger["url"].startswith(f"{api.url}/in/")
    assert trigger["refused"] == {"count": 0}
    assert api.get(path) == {name: value for name, value in trigger.items() if name != "secret"}

    rotated = api.post(f"{path}/rotate", {"secret": True, "url": True})
    is_trigger(rotated, "webhook", "url", "refused", "secret")
    assert rotated["secret"] != trigger["secret"]
    assert rotated["url"] != trigger["url"]
    given = api.post(f"{path}/rotate", {"secret": "one that the provider has made"})
    is_trigger(given, "webhook", "url", "refused")
    assert given["url"] == rotated["url"]

    assert httpx2.post(rotated["url"], json={}).status_code == 401
    until(lambda: api.get(path)["refused"]["count"], 60, "what was not signed is told")
    refused = api.get(path)["refused"]
    assert set(refused) == {"count", "why", "lastAt"}
    assert refused["count"] == 1
    assert refused["why"]
    is_time(refused["lastAt"])


@pytest.mark.contract("updateTrigger", "deleteTrigger")
def test_a_trigger_is_changed_and_removed(api: Api, function_id: str) -> None:
    """What is set is answered with, what is null is absent; removed means not there."""
    trigger = made(api, function_id, "cron", CRON, pauseAfter=3)
    path = f"{FOLDER}/{trigger['id']}"
    body: Json = {"name": "mine", "enabled": False, "pauseAfter": None}
    changed = api.http.patch(path, json=body).raise_for_status().json()
    assert set(changed) == {*FIELDS, "name", "next"}
    assert (changed["name"], changed["enabled"], changed["state"]) == ("mine", False, "paused")
    every = {"cron": None, "timeZone": None, "every": 86_400}
    body = {"name": None, "enabled": True, "config": every, "retry": {"maxAttempts": 3}}
    changed = api.http.patch(path, json=body).raise_for_status().json()
    is_trigger(changed, "cron", "next", "retry")
    assert changed["config"] == {"every": 86_400, "timeZone": "UTC", **CRON_DEFAULTS}
    assert api.get(path) == changed
    assert api.http.delete(path).raise_for_status().json() == {}
    assert api.http.get(path).status_code == 404
    once = made(api, function_id, "cron", {"at": "2020-01-01T00:00:00Z"})
    assert set(once) == {*FIELDS, "next", "pausedReason"}
    assert (once["state"], once["pausedReason"], once["next"]) == ("paused", "done", [])


@pytest.mark.contract("runTrigger", "getTrigger")
def test_a_trigger_tells_what_it_made_last(api: Api) -> None:
    """It is run by hand: an invocation that names it, whose event says that it is a test."""
    function_id = functions.made(api, f"run-{secrets.token_hex(8)}", CODE)
    trigger = made(api, function_id, "cron", CRON, userId="user-1")
    path = f"{FOLDER}/{trigger['id']}"
    answer = api.http.post(f"{path}/run", json={"data": {"total": 120}})
    assert answer.status_code == 202, answer.text
    invocation = answer.json()
    is_id("invocation", invocation["id"])
    assert (invocation["trigger"], invocation["triggerId"]) == ("cron", trigger["id"])
    assert (invocation["functionId"], invocation["userId"]) == (function_id, "user-1")
    assert "scheduledAt" not in invocation
    event = invocation["event"]
    assert (event["type"], event["source"]) == (
        "cakework.trigger.cron",
        f"/triggers/{trigger['id']}",
    )
    assert (event["data"], event["test"]) == ({"total": 120}, True)

    def ended() -> Json | None:
        found = api.get(path)
        return found if found.get("lastResult") == "succeeded" else None

    found = until(ended, 300, "what it made has ended")
    is_trigger(found, "cron", "userId", "next", "lastFiredAt", "lastResult")
    assert found["lastFiredAt"] == invocation["createdAt"]
    done = api.get(f"/v1/invocations/{invocation['id']}")
    assert done["result"] == {"total": 120}
    api.http.delete(f"/v1/functions/{function_id}").raise_for_status()
