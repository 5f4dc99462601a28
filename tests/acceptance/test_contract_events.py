"""The contract of the calls about events: each field of each answer."""

import secrets

import httpx2
import pytest

from tests.acceptance.api import Api, Json
from tests.acceptance.shapes import is_time

FIELDS = {"id", "type", "bytes", "made", "pending", "depth", "createdAt"}


def emitted(api: Api, *events: Json, **headers: str) -> list[Json]:
    """Emit events; return what became of each."""
    answer = api.http.post("/v1/events", json={"events": list(events)}, headers=headers)
    assert answer.status_code == 202, answer.text
    assert set(answer.json()) == {"events"}
    return answer.json()["events"]


@pytest.mark.contract("emitEvents", "getEvent", "listEvents")
def test_an_event_is_kept_once(api: Api) -> None:
    """With all that it said; the same again is told to be that."""
    kind, name = f"test.{secrets.token_hex(8)}", secrets.token_hex(8)
    event = {
        "type": kind,
        "source": "/tests",
        "id": name,
        "subject": "one",
        "cakeworkuserid": "user-1",
        "data": {"total": 120},
    }
    (first,) = emitted(api, event)
    assert first == {"id": first["id"], "duplicate": False, "invocations": 0}
    (again,) = emitted(api, event)
    assert again == {**first, "duplicate": True}
    found = api.get(f"/v1/events/{first['id']}")
    assert set(found) == {*FIELDS, "subject", "userId", "event", "invocations"}
    assert found["event"] == {**event, "specversion": "1.0", "time": found["event"]["time"]}
    assert (found["type"], found["subject"], found["userId"]) == (kind, "one", "user-1")
    assert (found["made"], found["pending"], found["depth"]) == (0, False, 0)
    assert found["bytes"] > 512
    assert found["invocations"] == []
    is_time(found["createdAt"])
    listed = api.get("/v1/events", type=kind)
    assert listed == {"events": [{k: v for k, v in found.items() if k != "invocations"}]}


@pytest.mark.contract("emitEvents")
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "application/cloudevents+json"}, b'{"type": "test.form"}'),
        ({"Content-Type": "application/cloudevents-batch+json"}, b'[{"type": "test.form"}]'),
        ({"Content-Type": "application/json"}, b'{"events": [{"type": "test.form"}]}'),
        ({"Content-Type": "text/plain", "ce-type": "test.form"}, b"hello"),
    ],
)
def test_forms_of_events(api: Api, headers: dict[str, str], body: bytes) -> None:
    answer = api.http.post("/v1/events", content=body, headers=headers)
    assert answer.status_code == 202, answer.text
    (event,) = answer.json()["events"]
    assert event["duplicate"] is False


@pytest.mark.contract("testFilter")
def test_a_filter_tells_why(api: Api) -> None:
    body: Json = {
        "filter": {"data": {"total": [{"numeric": [">", 100]}]}},
        "event": {"type": "order.paid", "data": {"total": 120}},
    }
    told = api.post("/v1/events/match", body)
    assert set(told) == {"matches", "because"}
    assert told["matches"] is True
    assert all(isinstance(line, str) for line in told["because"])


@pytest.mark.contract("emitEvents")
def test_a_key_has_a_batch_emitted_once(api: Api) -> None:
    """Though its events have no ids."""
    kind, key = f"test.{secrets.token_hex(8)}", secrets.token_hex(8)
    events = [{"type": kind}, {"type": kind}]
    first = emitted(api, *events, **{"Idempotency-Key": key})
    assert emitted(api, *events, **{"Idempotency-Key": key}) == first
    assert len(api.get("/v1/events", type=kind)["events"]) == 2


def test_what_is_wrong_keeps_nothing(api: Api) -> None:
    kind = f"test.{secrets.token_hex(8)}"
    for wrong in ({"data": 1}, {"type": "cakework.vm.started"}, {"type": kind, "time": "now"}):
        answer: httpx2.Response = api.http.post(
            "/v1/events", json={"events": [{"type": kind}, wrong]}
        )
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"].startswith("events.1.")
    assert api.get("/v1/events", type=kind)["events"] == []
