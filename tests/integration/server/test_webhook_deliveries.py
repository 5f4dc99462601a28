"""Deliveries to a real receiver: signed, retried, disabled, guarded, not lost in a crash."""

import contextlib
import json
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from cakework.server.api.times import rfc3339
from cakework.server.clock import now_ms
from cakework.server.webhooks.loop import AT_ONCE_PER_ACCOUNT, JITTER, WAITS_S
from cakework.server.webhooks.names import LOOKUPS_AT_ONCE, Names, host_addresses

from .fake_node import FakeNode
from .receiver import Received, Receiver, certificate, receiving
from .rig import Json, Rig, eventually, running, settings_for, until
from .test_process import serving

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def told(
    folder: Path, node: FakeNode, receiver: Receiver, database_url: str | None = None, **more: Any
) -> AsyncGenerator[tuple[Rig, Json]]:
    """Serve with a webhook to ``receiver``; gives the server and the webhook."""
    allow = [f"127.0.0.1:{receiver.port}"]
    settings = settings_for(folder, database_url, webhook_allow=allow)
    async with running(settings, node, **more) as rig:
        yield rig, await rig.ok("POST", "/v1/webhooks", json={"url": receiver.url})


async def delivery(rig: Rig, webhook: Json, **fields: object) -> Json:
    """Return the newest delivery as soon as it has these fields."""
    path = f"/v1/webhooks/{webhook['id']}/deliveries"
    found: list[Json] = []

    async def look() -> bool:
        found[:] = (await rig.ok("GET", path))["deliveries"][:1]
        return bool(found) and fields.items() <= found[0].items()

    await eventually(look, f"a delivery with {fields}")
    return found[0]


async def put_off(rig: Rig, webhook: Json, attempts: int, after_ms: int) -> Json:
    """Return the newest delivery as soon as its attempt is on record, and another is to come."""
    path = f"/v1/webhooks/{webhook['id']}/deliveries"
    found: list[Json] = []

    async def look() -> bool:
        found[:] = (await rig.ok("GET", path))["deliveries"][:1]
        # Its number is there when it begins.
        return found[0]["attempts"] == attempts and found[0]["nextAttemptAt"] > rfc3339(after_ms)

    await eventually(look, f"attempt {attempts} and when the next will be")
    return found[0]


async def nth(receiver: Receiver, count: int) -> Received:
    """Return the ``count``-th request as soon as it has come."""
    await until(lambda: len(receiver.received) >= count, f"{count} requests")
    return receiver.received[count - 1]


async def test_what_becomes_of_builds_is_told(
    folder: Path, node: FakeNode, database_url: str | None
) -> None:
    """Signed, with the build as the API shows it: the image's id, or why there is none."""
    with receiving() as receiver:
        async with told(folder, node, receiver, database_url) as (rig, webhook):
            image_id = await rig.image()
            message = (await nth(receiver, 1)).verified(webhook["secret"])
            assert message["type"] == "build.succeeded"
            assert message["data"]["imageId"] == image_id
            path = f"/v1/image/build/{message['data']['buildId']}"
            assert message["data"] == await rig.ok("GET", path)
            assert message["timestamp"] >= message["data"]["createdAt"]
            build_id = (await rig.build())["buildId"]
            await until(lambda: build_id in node.builds, "the node has the build")
            await node.fail(build_id, "RUN false ended with 1")
            second = await nth(receiver, 2)
            message = second.verified(webhook["secret"])
            assert message["type"] == "build.failed"
            assert message["data"]["error"] == "RUN false ended with 1"
            assert second.id != receiver.received[0].id
            assert second.headers["content-type"] == "application/json"
            assert second.headers["user-agent"].startswith("Cakework-Webhooks/")


async def test_what_becomes_of_vms_is_told(folder: Path, node: FakeNode) -> None:
    """Started, stopped with why and the exit code, destroyed: once each, and no environment."""
    with receiving() as receiver:
        async with told(folder, node, receiver) as (rig, webhook):
            vm = await rig.vm(envVars={"A": "hush"})
            await node.started(vm["id"])
            await node.stopped(vm["id"], "The program ended.", 7)
            await rig.eventually(f"/v1/vm/{vm['id']}", state="stopped")
            await rig.ok("POST", f"/v1/vm/{vm['id']}/stop")
            await nth(receiver, 4)
            messages = [each.verified(webhook["secret"]) for each in receiver.received]
            data = {each["type"]: each["data"] for each in messages}
            assert len(messages) == 4
            assert data["vm.started"] == vm
            assert data["vm.stopped"]["state"] == "stopped"
            assert data["vm.stopped"]["reason"] == "The program ended."
            assert data["vm.stopped"]["exitCode"] == 7
            assert data["vm.destroyed"] == await rig.ok("GET", f"/v1/vm/{vm['id']}")
            assert b"hush" not in b"".join(each.body for each in receiver.received)


async def test_a_vm_that_is_stopped_while_it_runs_is_told_of_whole(
    folder: Path, node: FakeNode
) -> None:
    """vm.stopped has the node's own account, also when that comes after the VM is destroyed."""
    with receiving() as receiver:
        async with told(folder, node, receiver) as (rig, webhook):
            vm = await rig.vm()
            await rig.ok("POST", f"/v1/vm/{vm['id']}/stop")
            await node.stopped(vm["id"], "The VM was stopped.", 143)
            await nth(receiver, 4)
            messages = [each.verified(webhook["secret"]) for each in receiver.received]
            data = {each["type"]: each["data"] for each in messages}
            assert data.keys() == {"build.succeeded", "vm.started", "vm.destroyed", "vm.stopped"}
            assert data["vm.stopped"]["exitCode"] == 143
            assert data["vm.destroyed"]["state"] == "destroyed"


async def test_only_events_that_are_wanted_come(folder: Path, node: FakeNode) -> None:
    """Each endpoint gets what it asked for, under the same id where both get it."""
    with receiving() as one, receiving() as two:
        allow = [f"127.0.0.1:{each.port}" for each in (one, two)]
        async with running(settings_for(folder, None, webhook_allow=allow), node) as rig:
            for receiver, events in ((one, ["vm.destroyed"]), (two, None)):
                body = {"url": receiver.url, "events": events}
                await rig.ok("POST", "/v1/webhooks", json=body)
            vm = await rig.vm()
            await rig.ok("POST", f"/v1/vm/{vm['id']}/stop")
            await nth(two, 3)
            await nth(one, 1)
            assert [json.loads(each.body)["type"] for each in one.received] == ["vm.destroyed"]
            destroyed = [e for e in two.received if json.loads(e.body)["type"] == "vm.destroyed"]
            assert [each.id for each in destroyed] == [one.received[0].id]


async def test_a_rotated_secret_signs_beside_the_new_one_for_a_day(
    folder: Path, node: FakeNode
) -> None:
    """Both verify until 24 hours are over, then the new one alone."""
    now = [1_700_000_000_000]
    with receiving() as receiver:
        async with told(folder, node, receiver, clock=lambda: now[0]) as (rig, webhook):
            path = f"/v1/webhooks/{webhook['id']}"
            now[0] = now_ms()
            new = await rig.ok("POST", f"{path}/rotate")
            newest = await rig.ok("POST", f"{path}/rotate")
            await rig.ok("POST", f"{path}/test")
            first = await nth(receiver, 1)
            for each in (webhook, new, newest):
                assert first.verified(each["secret"])["type"] == "webhook.test"
            now[0] += 24 * 3600 * 1000
            await rig.ok("POST", f"{path}/test")
            second = await nth(receiver, 2)
            assert len(first.headers["webhook-signature"].split()) == 3
            assert len(second.headers["webhook-signature"].split()) == 1


async def test_attempts_are_repeated_by_the_schedule_and_then_given_up(
    folder: Path, node: FakeNode
) -> None:
    """The same id and body each time, ten attempts over days, none before its time."""
    now = [1_700_000_000_000]
    with receiving() as receiver:
        receiver.statuses = [500, 302, 404, 503, 500, 500, 500, 500, 500, 500]
        receiver.answer = b"x" * 5000
        receiver.headers = {"location": f"http://127.0.0.1:{receiver.port}/other"}
        async with told(folder, node, receiver, clock=lambda: now[0]) as (rig, webhook):
            await rig.ok("POST", f"/v1/webhooks/{webhook['id']}/test")
            one_pass = rig.server.webhooks.pending.one_pass
            for attempt, wait_s in enumerate(WAITS_S, 1):
                found = await put_off(rig, webhook, attempt, now[0])
                assert found["status"] == "pending"
                assert len(receiver.received) == attempt
                now[0] += int(wait_s * 1000 * (1 - JITTER)) - 1
                await one_pass()
                assert (await delivery(rig, webhook))["attempts"] == attempt
                now[0] += int(wait_s * 1000 * 2 * JITTER) + 2
                await one_pass()
            found = await delivery(rig, webhook, status="failed", attempts=len(WAITS_S) + 1)
            assert found["responseStatus"] == 500
            assert found["responseBody"] == "x" * 2048
            assert "nextAttemptAt" not in found
            assert len({(each.id, each.body) for each in receiver.received}) == 1
            receiver.statuses = [200]
            again = f"/v1/webhooks/{webhook['id']}/deliveries/{found['id']}/redeliver"
            repeated = await rig.ok("POST", again)
            assert repeated["id"] != found["id"]
            await delivery(rig, webhook, status="succeeded", attempts=1, id=repeated["id"])
            assert receiver.received[-1].id == receiver.received[0].id


async def test_410_disables_the_endpoint(folder: Path, node: FakeNode) -> None:
    """No more attempts, nothing more is sent, and why is said; enabling sends again."""
    with receiving() as receiver:
        receiver.statuses = [410]
        async with told(folder, node, receiver) as (rig, webhook):
            path = f"/v1/webhooks/{webhook['id']}"
            await rig.ok("POST", f"{path}/test")
            found = await delivery(rig, webhook, status="failed")
            assert found["responseStatus"] == 410
            assert "410" in (await rig.eventually(path, enabled=False))["disabledReason"]
            await rig.image()
            assert (await delivery(rig, webhook))["id"] == found["id"]
            await rig.refused(409, "POST", f"{path}/deliveries/{found['id']}/redeliver")
            await rig.ok("PATCH", path, json={"enabled": True})
            await rig.ok("POST", f"{path}/deliveries/{found['id']}/redeliver")
            assert (await nth(receiver, 2)).id == receiver.received[0].id


async def test_a_slow_endpoint_does_not_hold_up_another(folder: Path, node: FakeNode) -> None:
    """One that does not answer has four attempts under way, and the other gets all of its own."""
    with receiving() as slow, receiving() as quick:
        slow.may_answer.clear()
        allow = [f"127.0.0.1:{each.port}" for each in (slow, quick)]
        async with running(settings_for(folder, None, webhook_allow=allow), node) as rig:
            # An attempt that is given up meanwhile would make room for another.
            vars(vars(rig.server.webhooks.pending)["_sender"])["_timeout_s"] = 600
            paths = [
                f"/v1/webhooks/{made['id']}/test"
                for each in (slow, quick)
                for made in [await rig.ok("POST", "/v1/webhooks", json={"url": each.url})]
            ]
            for path in paths:
                for _ in range(20):
                    await rig.ok("POST", path)
            await nth(quick, 20)
            assert len(slow.received) == 4
            slow.may_answer.set()
            await nth(slow, 20)


async def test_an_account_whose_endpoints_hang_holds_up_no_other(
    folder: Path, node: FakeNode, database_url: str | None
) -> None:
    """However many endpoints and events it has, it has so many attempts; another's is made."""
    with receiving() as hanging, receiving() as theirs:
        hanging.may_answer.clear()
        allow = [f"127.0.0.1:{each.port}" for each in (hanging, theirs)]
        settings = settings_for(folder, database_url, webhook_allow=allow)
        async with running(settings, node) as rig, await rig.other_account() as other:
            vars(vars(rig.server.webhooks.pending)["_sender"])["_timeout_s"] = 600
            for _ in range(10):
                made = await rig.ok("POST", "/v1/webhooks", json={"url": hanging.url})
                for _ in range(6):
                    await rig.ok("POST", f"/v1/webhooks/{made['id']}/test")
            await nth(hanging, AT_ONCE_PER_ACCOUNT)
            answer = await other.post("/v1/webhooks", json={"url": theirs.url})
            path = f"/v1/webhooks/{answer.json()['id']}/test"
            for _ in range(6):
                assert (await other.post(path)).status_code == 200
            await nth(theirs, 6)
            assert len(hanging.received) == AT_ONCE_PER_ACCOUNT
            # Its own endpoints take turns, too.
            assert len({each.headers["webhook-id"] for each in hanging.received}) == 8
            hanging.may_answer.set()
            await nth(hanging, 60)


async def test_names_that_are_not_looked_up_hold_up_no_other(folder: Path, node: FakeNode) -> None:
    """Look-ups that hang are one account's, and end for it after a while; another's are done."""
    answer, asked = threading.Event(), list[str]()

    def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        if host.startswith("hanging"):
            answer.wait(300)
        return host_addresses("localhost", port)

    with receiving() as theirs:
        allow = [f"{address}:{theirs.port}" for address in ("127.0.0.1", "[::1]")]
        async with running(settings_for(folder, None, webhook_allow=allow), node) as rig:
            vars(rig.server.webhooks.guard)["_names"] = Names(lookup, timeout_s=0.05)
            hanging = [
                await rig.ok(
                    "POST", "/v1/webhooks", json={"url": f"https://hanging{n}.example/hook"}
                )
                for n in range(12)
            ]
            for webhook in hanging:
                await rig.ok("POST", f"/v1/webhooks/{webhook['id']}/test")
            for webhook in hanging:
                await until_error(rig, webhook)
                assert "looked up in time" in (await delivery(rig, webhook))["error"]
            await until(lambda: len(asked) == LOOKUPS_AT_ONCE // 2, "its share, and no more")
            vars(rig.server.webhooks.guard)["_names"]._timeout_s = 60
            async with await rig.other_account() as other:
                url = f"http://theirs.example:{theirs.port}/hook"
                made = await other.post("/v1/webhooks", json={"url": url})
                path = f"/v1/webhooks/{made.json()['id']}/test"
                assert (await other.post(path)).status_code == 200
                await nth(theirs, 1)
            answer.set()


async def test_names_that_lead_to_this_host_are_refused_when_the_connection_is_made(
    folder: Path, node: FakeNode
) -> None:
    """A name that is looked up to the loopback gets nothing, and the log says why."""
    with receiving() as receiver:
        async with running(settings_for(folder, None), node) as rig:
            url = f"https://localhost:{receiver.port}/"
            webhook = await rig.ok("POST", "/v1/webhooks", json={"url": url})
            await rig.ok("POST", f"/v1/webhooks/{webhook['id']}/test")
            found = await delivery(rig, webhook, attempts=1, status="pending")
            why = "The URL leads to an address that is not a public one"
            exceptions = " (the server's setting CAKEWORK_WEBHOOK_ALLOW names exceptions)."
            found = await delivery(rig, webhook, error=f"{why}{exceptions}")
            assert "responseStatus" not in found
            assert receiver.received == []


async def test_a_redirect_is_not_followed(folder: Path, node: FakeNode) -> None:
    """Wherever it leads, it is an answer that is no success."""
    with receiving() as receiver, receiving() as inside:
        receiver.statuses = [307]
        receiver.headers = {"location": inside.url}
        async with told(folder, node, receiver) as (rig, webhook):
            await rig.ok("POST", f"/v1/webhooks/{webhook['id']}/test")
            await delivery(rig, webhook, status="pending", responseStatus=307)
            assert inside.received == []


async def test_tls_asks_for_the_name_in_the_url(folder: Path, node: FakeNode) -> None:
    """A certificate for it is taken, one for another name is not, though both are trusted."""
    ours, our_tls = certificate(folder, "localhost")
    other, other_tls = certificate(folder, "elsewhere.example")
    (folder / "ca.pem").write_bytes(ours.read_bytes() + other.read_bytes())
    with receiving(our_tls) as right, receiving(other_tls) as wrong:
        settings = settings_for(
            folder, None, webhook_allow=["127.0.0.1", "::1"], extra_ca=folder / "ca.pem"
        )
        async with running(settings, node) as rig:
            for receiver, fields in ((right, {"status": "succeeded"}), (wrong, {"attempts": 1})):
                body = {"url": f"https://localhost:{receiver.port}/"}
                webhook = await rig.ok("POST", "/v1/webhooks", json=body)
                await rig.ok("POST", f"/v1/webhooks/{webhook['id']}/test")
                found = await delivery(rig, webhook, **fields)
            await until_error(rig, webhook)
            found = await delivery(rig, webhook)
            assert "certificate" in found["error"].lower()
            assert len(right.received) == 1
            assert wrong.received == []


async def until_error(rig: Rig, webhook: Json) -> None:
    """Return as soon as the newest delivery says what went wrong."""

    async def look() -> bool:
        return "error" in await delivery(rig, webhook)

    await eventually(look, "an error in the log")


async def test_killed_before_the_receiver_answered_it_is_delivered_again(
    folder: Path, node: FakeNode, database_url: str | None
) -> None:
    """kill -9 while attempts are under way: the next server sends the same ids, all of them,
    and no secret is in its log."""
    with receiving() as receiver:
        allow = [f"127.0.0.1:{receiver.port}"]
        settings = settings_for(folder, database_url, webhook_allow=allow)
        receiver.may_answer.clear()
        async with serving(settings, node) as server:
            webhook = await server.rig.ok("POST", "/v1/webhooks", json={"url": receiver.url})
            vm = await server.rig.vm()
            await server.rig.ok("POST", f"/v1/vm/{vm['id']}/stop")
            await nth(receiver, 3)
            server.process.kill()
            await server.process.wait()
        before = {each.id for each in receiver.received}
        receiver.may_answer.set()
        async with serving(settings, node) as server:
            await nth(receiver, 6)
            assert {each.id for each in receiver.received[3:]} == before
            types = {each.verified(webhook["secret"])["type"] for each in receiver.received[3:]}
            assert types == {"build.succeeded", "vm.started", "vm.destroyed"}
            await delivery(server.rig, webhook, status="succeeded", attempts=2)
            log = server.log.read_text()
        assert webhook["secret"].removeprefix("whsec_") not in log
        assert "webhook.attempted" in log
