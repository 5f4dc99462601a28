"""What belongs to one account is not there for another."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.acceptance import guests
from tests.acceptance.api import TIMEOUT_S, Api, Json
from tests.acceptance.document import Document
from tests.acceptance.platform import Platform

IDS = {
    "{buildId}": "build",
    "{vmId}": "vm",
    "{imageId}": "image",
    "{webhookId}": "webhook",
    "{deliveryId}": "delivery",
}


@pytest.fixture(scope="module")
def mine(api: Api, busybox: str) -> Iterator[dict[str, str]]:
    """A build, its image, a VM and a webhook with a delivery, of the first account."""
    build = api.build(guests.BUSYBOX)
    with api.running(build["imageId"], envVars={"SCRIPT": guests.IDLE}) as vm:
        api.wait_for_line(vm["id"], "up")
        webhook = api.post("/v1/webhooks", {"url": "https://hooks.example.com/mine"})["id"]
        delivery = api.post(f"/v1/webhooks/{webhook}/test")["id"]
        yield {
            "build": build["buildId"],
            "image": build["imageId"],
            "vm": vm["id"],
            "webhook": webhook,
            "delivery": delivery,
        }
        api.http.delete(f"/v1/webhooks/{webhook}").raise_for_status()


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


def filled(path: str, ids: dict[str, str]) -> str:
    for placeholder, kind in IDS.items():
        path = path.replace(placeholder, ids[kind])
    assert "{" not in path
    return path


def test_every_call_about_mine_is_404_for_another(
    platform: Platform, api: Api, other: Api, mine: dict[str, str]
) -> None:
    """Whatever call names a thing of mine, another's key finds nothing, and changes nothing."""
    about = [(method, path) for method, path in calls(platform) if "{" in path]
    assert len(about) >= 6
    for method, path in about:
        body: Json | None = {"count": 1} if path.endswith("/fork") else {}
        answer = other.http.request(method, filled(path, mine), json=body)
        assert answer.status_code == 404, f"{method} {path}: {answer.text}"
        assert answer.json()["code"] == "not_found"
        assert mine["vm"] not in answer.json()["title"]
    assert api.vm(mine["vm"])["state"] == "started"


def test_another_account_cannot_use_or_see_mine(api: Api, other: Api, mine: dict[str, str]) -> None:
    """My image cannot be started by another, and lists do not have my VMs."""
    answer = other.http.post("/v1/vm/start", json={"imageId": mine["image"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert other.vms() == []
    assert other.vms(imageId=mine["image"]) == []
    assert mine["vm"] in [vm["id"] for vm in api.vms(imageId=mine["image"])]


def test_every_call_needs_a_valid_key(platform: Platform, mine: dict[str, str]) -> None:
    """No key, a wrong one and a nearly right one are told apart by nothing: 401."""
    for method, path in calls(platform):
        url = platform.url + filled(path, mine)
        for headers in ({}, {"X-Api-Key": "cw_wrong"}, {"X-Api-Key": platform.key[:-1]}):
            answer = httpx2.request(method, url, headers=headers, json={}, timeout=TIMEOUT_S)
            assert answer.status_code == 401, f"{method} {path}"
            assert answer.json()["code"] == "unauthenticated"
