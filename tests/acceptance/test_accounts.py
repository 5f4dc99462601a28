"""What belongs to one account is not there for another."""

import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.acceptance import guests
from tests.acceptance.api import TIMEOUT_S, Api, Json
from tests.acceptance.document import Document
from tests.acceptance.functions import files, made, waiting
from tests.acceptance.platform import Platform

IDS = {
    "{buildId}": "build",
    "{vmId}": "vm",
    "{imageId}": "image",
    "{webhookId}": "webhook",
    "{deliveryId}": "delivery",
    "{functionId}": "function",
    "{version}": "version",
    "{invocationId}": "invocation",
    "{name}": "secret",
    "{triggerId}": "trigger",
    "{eventId}": "event",
}
SOURCE = files({"main.py": "def handler(event, context):\n    return 1\n"})
BODIES: dict[str, Json] = {
    "/fork": {"count": 1},
    "/functions/{functionId}": {"settings": {}},
    "/versions": {"source": SOURCE},
    "/promote": {"version": 1},
    "/draft": SOURCE,
}
"""What calls need to be looked at, by the end of their paths; others need nothing."""
OF_NAMES = ("PUT", "/v1/secrets/{name}")
"""Makes one's own where another's is."""


@pytest.fixture(scope="module")
def mine(api: Api, busybox: str) -> Iterator[dict[str, str]]:
    """A build, its image, a VM, a webhook with a delivery, and a function with what belongs to it,
    of the first account."""
    build = api.build(guests.BUSYBOX)
    with api.running(build["imageId"], envVars={"SCRIPT": guests.IDLE}) as vm:
        api.wait_for_line(vm["id"], "up")
        webhook = api.post("/v1/webhooks", {"url": "https://hooks.example.com/mine"})["id"]
        delivery = api.post(f"/v1/webhooks/{webhook}/test")["id"]
        functions = of_functions(api)
        yield {
            **functions,
            "build": build["buildId"],
            "image": build["imageId"],
            "vm": vm["id"],
            "webhook": webhook,
            "delivery": delivery,
        }
        api.http.delete(f"/v1/webhooks/{webhook}").raise_for_status()
        api.http.delete(f"/v1/functions/{functions['function']}").raise_for_status()


def of_functions(api: Api) -> dict[str, str]:
    """Make a function with a draft, an invocation that waits, a secret, a trigger and an event that
    it does not want; return their ids."""
    function_id = made(api, f"mine-{time.time_ns()}", SOURCE["files"][0]["content"])
    draft = f"/v1/functions/{function_id}/draft"
    api.http.put(draft, json=SOURCE, headers={"If-Match": '"0"'}).raise_for_status()
    api.http.put("/v1/secrets/TOKEN", json={"value": "of mine"}).raise_for_status()
    wanted = {"type": "event", "config": {"types": ["nothing.of.all"]}}
    trigger = api.post("/v1/triggers", {"functionId": function_id, **wanted})
    (emitted,) = api.post("/v1/events", {"events": [{"type": "of.mine"}]})["events"]
    return {
        "function": function_id,
        "trigger": trigger["id"],
        "event": emitted["id"],
        "version": "1",
        "invocation": waiting(api, function_id),
        "secret": "TOKEN",
    }


@pytest.fixture(scope="module")
def other(platform: Platform, document: Document) -> Iterator[Api]:
    """The API as another account sees it."""
    with platform.api(platform.new_key("other"), document.check) as api:
        yield api


def calls(platform: Platform) -> list[tuple[str, str]]:
    """Return every call that the server says it has: method and path."""
    document: Json = httpx2.get(f"{platform.url}/openapi.json", timeout=TIMEOUT_S).json()
    return [
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if path.startswith(("/v1", "/vms"))
    ]


def about_something(platform: Platform) -> list[tuple[str, str]]:
    """Return those calls that name a thing, which only its account finds."""
    return [call for call in calls(platform) if "{" in call[1] and call != OF_NAMES]


def body_of(method: str, path: str) -> Json:
    """Return what a call is to be sent to be looked at."""
    nothing: Json = {}
    if method in ("GET", "DELETE"):
        return nothing
    return next((body for end, body in BODIES.items() if path.endswith(end)), nothing)


def filled(path: str, ids: dict[str, str]) -> str:
    for placeholder, kind in IDS.items():
        path = path.replace(placeholder, ids[kind])
    assert "{" not in path
    return path


def test_every_call_about_mine_is_404_for_another(
    platform: Platform, api: Api, other: Api, mine: dict[str, str]
) -> None:
    """Whatever call names a thing of mine, another's key finds nothing, and changes nothing."""
    about = about_something(platform)
    assert len(about) >= 30
    for method, path in about:
        answer = other.http.request(method, filled(path, mine), json=body_of(method, path))
        assert answer.status_code == 404, f"{method} {path}: {answer.text}"
        assert answer.json()["code"] == "not_found"
        assert mine["vm"] not in answer.json()["title"]
    assert api.vm(mine["vm"])["state"] == "started"
    assert api.get(f"/v1/invocations/{mine['invocation']}")["state"] == "queued"
    (drafted,) = api.get(f"/v1/functions/{mine['function']}/draft")["files"]
    assert drafted["content"] == SOURCE["files"][0]["content"]
    assert "TOKEN" in [secret["name"] for secret in api.get("/v1/secrets")["secrets"]]


def test_another_account_cannot_use_or_see_mine(api: Api, other: Api, mine: dict[str, str]) -> None:
    """My image cannot be started by another, and lists do not have my VMs."""
    answer = other.http.post("/v1/vm/start", json={"imageId": mine["image"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert other.vms() == []
    assert other.vms(imageId=mine["image"]) == []
    assert mine["vm"] in [vm["id"] for vm in api.vms(imageId=mine["image"])]
    for path in ("/v1/functions", "/v1/invocations", "/v1/secrets", "/v1/triggers", "/v1/events"):
        (listed,) = other.get(path).values()
        assert listed == [], path


def test_every_call_needs_a_valid_key(platform: Platform, mine: dict[str, str]) -> None:
    """No key, a wrong one and a nearly right one are told apart by nothing: 401."""
    for method, path in calls(platform):
        url = platform.url + filled(path, mine)
        for headers in ({}, {"X-Api-Key": "cw_wrong"}, {"X-Api-Key": platform.key[:-1]}):
            answer = httpx2.request(method, url, headers=headers, json={}, timeout=TIMEOUT_S)
            assert answer.status_code == 401, f"{method} {path}"
            assert answer.json()["code"] == "unauthenticated"
