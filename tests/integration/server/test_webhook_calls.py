"""Webhooks through HTTP: endpoints, secrets, the delivery log."""

from pathlib import Path

import pytest

from .fake_node import FakeNode
from .rig import Json, Rig, running, settings_for

pytestmark = pytest.mark.anyio
URL = "https://example.com/hook"
NOWHERE = "https://nowhere.invalid/"


async def test_an_endpoint_is_made_found_changed_and_removed(rig: Rig) -> None:
    """Each call answers with the endpoint as it is; the secret is shown by the first alone."""
    made = await rig.ok(
        "POST",
        "/v1/webhooks",
        json={"url": URL, "events": ["vm.stopped"], "description": "ours"},
    )
    assert made.pop("secret").startswith("whsec_")
    assert made["id"].startswith("ep_")
    assert made["createdAt"] == made["updatedAt"]
    fields = {name: made[name] for name in ("url", "events", "description", "enabled")}
    assert fields == {
        "url": URL,
        "events": ["vm.stopped"],
        "description": "ours",
        "enabled": True,
    }
    path = f"/v1/webhooks/{made['id']}"
    assert await rig.ok("GET", path) == made
    assert await rig.ok("GET", "/v1/webhooks") == {"webhooks": [made]}
    changed = await rig.ok("PATCH", path, json={"url": URL + "2", "events": None, "enabled": False})
    assert changed["url"] == URL + "2"
    assert "events" not in changed
    assert changed["description"] == "ours"
    assert changed["enabled"] is False
    assert "owner" in changed["disabledReason"]
    assert (await rig.ok("PATCH", path, json={})) | {"updatedAt": ""} == changed | {"updatedAt": ""}
    await rig.refused(409, "POST", f"{path}/test")
    assert (await rig.ok("PATCH", path, json={"enabled": True}))["enabled"] is True
    await rig.ok("POST", f"{path}/test")
    assert (await rig.ok("DELETE", path))["id"] == made["id"]
    await rig.refused(404, "GET", path)
    await rig.refused(404, "DELETE", path)
    assert await rig.ok("GET", "/v1/webhooks") == {"webhooks": []}


BAD: list[tuple[str, Json]] = [
    ("url", {}),
    ("url", {"url": 1}),
    ("url", {"url": ""}),
    ("url", {"url": "ftp://example.com/"}),
    ("url", {"url": "http://example.com/"}),
    ("url", {"url": "https://"}),
    ("url", {"url": "https://user:word@example.com/"}),
    ("url", {"url": "https://example.com/#part"}),
    ("url", {"url": "https://example.com:0/"}),
    ("url", {"url": "https://example.com:99999/"}),
    ("url", {"url": "https://exa mple.com/"}),
    ("url", {"url": "https://[::1/"}),
    ("url", {"url": "https://" + "a" * 3000}),
    ("events.0", {"url": URL, "events": ["vm.exploded"]}),
    ("events", {"url": URL, "events": []}),
    ("description", {"url": URL, "description": "a\0b"}),
]


async def test_what_cannot_be_an_endpoint_is_refused(rig: Rig) -> None:
    """The field at fault is named, and nothing is made."""
    for field, body in BAD:
        problem = await rig.refused(400, "POST", "/v1/webhooks", json=body)
        assert problem["errors"][0]["field"] == field
    assert await rig.ok("GET", "/v1/webhooks") == {"webhooks": []}


NOT_PUBLIC = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "168.63.129.16",
    "224.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[fd00::1]",
    "[ff02::1]",
]


async def test_addresses_that_are_not_public_are_refused_in_every_spelling(
    folder: Path, node: FakeNode
) -> None:
    """At once where the URL spells the address, at creation and at change."""
    async with running(settings_for(folder, None), node) as rig:
        made = await rig.ok("POST", "/v1/webhooks", json={"url": URL})
        path = f"/v1/webhooks/{made['id']}"
        for host in NOT_PUBLIC:
            for scheme in ("https", "http"):
                body = {"url": f"{scheme}://{host}:8443/"}
                problem = await rig.refused(400, "POST", "/v1/webhooks", json=body)
                assert problem["errors"][0]["field"] == "url"
                assert "CAKEWORK_WEBHOOK_ALLOW" in problem["detail"]
            await rig.refused(400, "PATCH", path, json=body)
        assert (await rig.ok("GET", path))["url"] == URL


async def test_as_many_endpoints_as_an_account_may_have(rig: Rig) -> None:
    """The next is refused until one is removed."""
    ids = [(await rig.ok("POST", "/v1/webhooks", json={"url": URL}))["id"] for _ in range(20)]
    await rig.refused(429, "POST", "/v1/webhooks", json={"url": URL})
    await rig.ok("DELETE", f"/v1/webhooks/{ids[0]}")
    await rig.ok("POST", "/v1/webhooks", json={"url": URL})


async def test_no_more_deliveries_are_asked_for_than_may_wait(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next test or repetition is refused, but not to one who asks again for what was made; of
    another webhook they are not, and when nothing waits any more they are taken again."""
    monkeypatch.setattr("cakework.server.webhooks.deliveries.PENDING_MAX", 5)
    ids = [(await rig.ok("POST", "/v1/webhooks", json={"url": NOWHERE}))["id"] for _ in range(2)]
    path = f"/v1/webhooks/{ids[0]}"
    once = {"Idempotency-Key": "once"}
    made = await rig.ok("POST", f"{path}/test", headers=once)
    again = f"{path}/deliveries/{made['id']}/redeliver"
    for _ in range(2):
        await rig.ok("POST", f"{path}/test")
        await rig.ok("POST", again)
    for refused in (f"{path}/test", again):
        problem = await rig.refused(429, "POST", refused)
        assert problem["code"] == "quota_exceeded"
        assert "5 deliveries pending" in problem["detail"]
    assert (await rig.ok("POST", f"{path}/test", headers=once))["id"] == made["id"]
    assert len((await rig.ok("GET", f"{path}/deliveries"))["deliveries"]) == 5
    await rig.ok("POST", f"/v1/webhooks/{ids[1]}/test")
    for enabled in (False, True):
        await rig.ok("PATCH", path, json={"enabled": enabled})
    await rig.ok("POST", again)


async def test_a_secret_is_on_no_disk(folder: Path, node: FakeNode) -> None:
    """Neither in the records nor among kept answers; the same request shows the same again."""
    async with running(settings_for(folder, None), node) as rig:
        key = {"Idempotency-Key": "once"}
        made = await rig.ok("POST", "/v1/webhooks", json={"url": URL}, headers=key)
        again = await rig.ok("POST", "/v1/webhooks", json={"url": URL}, headers=key)
        assert again == made
        assert len((await rig.ok("GET", "/v1/webhooks"))["webhooks"]) == 1
        rotated = await rig.ok(
            "POST", f"/v1/webhooks/{made['id']}/rotate", headers=key | {"Idempotency-Key": "twice"}
        )
        assert rotated["secret"] != made["secret"]
    files = files_below(folder)
    assert any(path.name.startswith("cakework.db") for path in files)
    for path in files:
        for secret in (made["secret"], rotated["secret"]):
            assert secret.removeprefix("whsec_").encode() not in path.read_bytes(), path


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_the_delivery_log_is_paged_newest_first(rig: Rig) -> None:
    """Each page goes on where the one before ended, while more come; status narrows it."""
    webhook_id = (await rig.ok("POST", "/v1/webhooks", json={"url": NOWHERE}))["id"]
    path = f"/v1/webhooks/{webhook_id}"
    async with rig.server.database.writing() as session:
        sent = [
            await rig.server.webhooks.outbox.test(session, webhook_id, None) for _ in range(130)
        ]
    await rig.ok("PATCH", path, json={"enabled": False})
    first = await rig.ok("GET", f"{path}/deliveries")
    assert len(first["deliveries"]) == 100
    await rig.ok("PATCH", path, json={"enabled": True})
    await rig.ok("POST", f"{path}/test")
    params = {"pagination": first["pagination"]}
    second = await rig.ok("GET", f"{path}/deliveries", params=params)
    assert "pagination" not in second
    found = [each["id"] for each in first["deliveries"] + second["deliveries"]]
    assert found == sorted((row.id for row in sent), reverse=True)
    failed = await rig.ok("GET", f"{path}/deliveries", params={"status": "failed"})
    assert [each["id"] for each in failed["deliveries"]] == found[:100]
    await rig.refused(400, "GET", f"{path}/deliveries", params={"pagination": "x"})
    await rig.refused(400, "GET", f"{path}/deliveries", params={"status": "lost"})
