"""The contract of the calls about webhooks and about health: each field of each answer."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.acceptance.api import TIMEOUT_S, Api, Json
from tests.acceptance.conftest import HOOKS
from tests.acceptance.document import Document
from tests.acceptance.platform import Platform
from tests.acceptance.shapes import has_times, is_id, is_time
from tests.acceptance.waiting import until
from tests.integration.server.receiver import receiving

FOLDER = "/v1/webhooks"
NOWHERE = "https://nobody.invalid/hook"
FIELDS = {"id", "url", "enabled", "missed", "createdAt", "updatedAt"}
DELIVERY = {"id", "eventId", "eventType", "status", "attempts", "createdAt"}


@pytest.fixture
def webhook(api: Api) -> Iterator[Json]:
    """A webhook whose host is not there, as it was answered when it was made."""
    webhook = api.post(FOLDER, {"url": NOWHERE})
    yield webhook
    api.http.delete(f"{FOLDER}/{webhook['id']}")


def is_webhook(webhook: Json, *more: str) -> None:
    assert set(webhook) == {*FIELDS, *more}
    is_id("webhook", webhook["id"])
    assert webhook["url"] == NOWHERE
    assert type(webhook["enabled"]) is bool
    has_times(webhook)


@pytest.mark.contract("createWebhook", "getWebhook", "listWebhooks", "rotateWebhookSecret")
def test_a_webhook_shows_its_secret_once(api: Api, webhook: Json) -> None:
    """Each secret is there in the answer that made it, and in no other."""
    is_webhook(webhook, "secret")
    path = f"{FOLDER}/{webhook['id']}"
    shown = {name: value for name, value in webhook.items() if name != "secret"}
    assert api.get(path) == shown
    listed = api.get(FOLDER)
    assert set(listed) == {"webhooks"}
    assert shown in listed["webhooks"]
    rotated = api.post(f"{path}/rotate")
    is_webhook(rotated, "secret")
    assert rotated["secret"] != webhook["secret"]
    assert all(secret["secret"].startswith("whsec_") for secret in (webhook, rotated))
    assert "secret" not in api.get(path)


@pytest.mark.contract("updateWebhook", "deleteWebhook")
def test_a_webhook_is_changed_and_removed(api: Api, webhook: Json) -> None:
    """What is set is answered with; what is not is absent; removed means not there."""
    path = f"{FOLDER}/{webhook['id']}"
    body = {"events": ["build.succeeded"], "description": "mine", "enabled": False}
    changed = api.http.patch(path, json=body).raise_for_status().json()
    is_webhook(changed, "events", "description", "disabledReason")
    assert {name: changed[name] for name in body} == body
    assert changed["disabledReason"]
    cleared = {"events": None, "description": None, "enabled": True}
    is_webhook(api.http.patch(path, json=cleared).raise_for_status().json())
    removed = api.http.delete(path).raise_for_status().json()
    is_webhook(removed)
    assert api.http.get(path).status_code == 404


@pytest.mark.contract("testWebhook", "listWebhookDeliveries", "redeliverWebhook")
def test_deliveries_say_how_they_went(api: Api, webhook: Json) -> None:
    """What was tried, and when it will be tried again; once more is the same event anew."""
    log = f"{FOLDER}/{webhook['id']}/deliveries"
    delivery = api.post(f"{FOLDER}/{webhook['id']}/test")
    assert set(delivery) >= DELIVERY
    assert (delivery["status"], delivery["eventType"]) == ("pending", "webhook.test")
    again = api.post(f"{log}/{delivery['id']}/redeliver")
    assert again["id"] != delivery["id"]
    assert again["eventId"] == delivery["eventId"]

    def tried() -> list[Json]:
        page = api.get(log)
        assert set(page) == {"deliveries"}
        return page["deliveries"] if all("error" in each for each in page["deliveries"]) else []

    found = until(tried, 60, "both are tried")
    assert [each["id"] for each in found] == [again["id"], delivery["id"]]
    for each in found:
        assert set(each) == {*DELIVERY, "error", "attemptedAt", "nextAttemptAt"}
        is_id("delivery", each["id"])
        is_id("event", each["eventId"])
        assert type(each["attempts"]) is int
        assert each["error"]
        for name in ("createdAt", "attemptedAt"):
            is_time(each[name])
        assert is_time(each["nextAttemptAt"]) > is_time(each["attemptedAt"])
    assert api.get(log, status="succeeded") == {"deliveries": []}


@pytest.mark.contract("testWebhook", "listWebhookDeliveries")
def test_deliveries_say_what_was_answered(api: Api) -> None:
    """Status and beginning of the body, of a refusal that is to be tried again and of a success."""
    for status, state, more in ((500, "pending", ["nextAttemptAt"]), (200, "succeeded", [])):
        with receiving(host=HOOKS) as receiver:
            receiver.statuses = [status] * 10
            receiver.answer = "Grüße".encode()
            webhook = api.post(FOLDER, {"url": receiver.url, "events": ["webhook.test"]})
            path = f"{FOLDER}/{webhook['id']}"
            delivery = api.post(f"{path}/test")

            def answered(path: str = path, delivery_id: str = delivery["id"]) -> Json | None:
                found = api.get(f"{path}/deliveries")["deliveries"][0]
                assert found["id"] == delivery_id
                return found if "responseStatus" in found else None

            found = until(answered, 60, "the webhook is answered")
            answer = {"responseStatus", "responseBody", "attemptedAt"}
            assert set(found) == {*DELIVERY, *answer, *more}
            assert (found["status"], found["attempts"]) == (state, 1)
            assert type(found["responseStatus"]) is int
            assert (found["responseStatus"], found["responseBody"]) == (status, "Grüße")
            api.http.delete(path).raise_for_status()


@pytest.mark.contract("healthz", "readyz")
def test_health_is_told_without_a_key(platform: Platform, document: Document) -> None:
    """Whether the server is up, and whether all that it needs answers."""
    hooks = {"response": [document.check]}
    with httpx2.Client(base_url=platform.url, event_hooks=hooks, timeout=TIMEOUT_S) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()) == (
            200,
            {"status": "ready", "store": "ok", "node": "ok"},
        )
