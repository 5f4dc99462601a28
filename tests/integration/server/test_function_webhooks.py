"""What becomes of functions is told to webhooks: with the fact, once, to its own account alone."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from cakework.domain.ids import new_invocation_id, new_vm_id
from cakework.domain.routes import Visit, Work
from cakework.server.clock import now_ms
from cakework.server.store.webhook_models import WebhookEventRow
from cakework.server.webhooks import outbox

from .function_node import FunctionNode, Loaded, source
from .receiver import Receiver, receiving
from .rig import Json, eventually, running, settings_for, until
from .test_functions import Functions

pytestmark = pytest.mark.anyio
ENDS = ["invocation.failed", "invocation.succeeded"]
EVENTS = ["function.deployed", "function.failed", *ENDS]
CODE = """\
def handler(event, context):
    if event.get("data") == "fail":
        raise ValueError("no stock")
    return "s3cret result"
"""


@contextlib.asynccontextmanager
async def told(
    folder: Path, node: FunctionNode, database_url: str | None, *receivers: Receiver
) -> AsyncGenerator[Functions]:
    """Serve, where webhooks may go to some receivers."""
    allow = [f"127.0.0.1:{each.port}" for each in receivers]
    async with running(settings_for(folder, database_url, webhook_allow=allow), node) as rig:

        async def loaded(_: str) -> Loaded:
            return Loaded("main.py", "", 1)

        node.loaded = loaded
        yield Functions(rig, node)


async def hook(functions: Functions, receiver: Receiver, events: list[str] | None) -> Json:
    """Have events sent to a receiver; return the webhook."""
    body = {"url": receiver.url, "events": events}
    return await functions.rig.ok("POST", "/v1/webhooks", json=body)


async def messages(receiver: Receiver, count: int, webhook: Json) -> list[Json]:
    """Return what was sent, in the order of its times, as soon as so much has come."""
    await until(lambda: len(receiver.received) >= count, f"{count} events")
    found = [each.verified(webhook["secret"]) for each in receiver.received]
    assert len(found) == count, found
    assert len({each.id for each in receiver.received}) == count
    return sorted(found, key=lambda each: each["timestamp"])


async def quiet(functions: Functions, receiver: Receiver, webhook: Json) -> None:
    """Return when a test has arrived: what was written before has, too."""
    await functions.rig.ok("POST", f"/v1/webhooks/{webhook['id']}/test")
    await until(lambda: b"webhook.test" in b"".join(e.body for e in receiver.received), "the test")


async def count(functions: Functions, kind: str) -> int:
    """Return how many events of a type are on record."""
    query = select(func.count()).where(WebhookEventRow.type == kind)
    async with functions.rig.server.database.reading() as session:
        return await session.scalar(query) or 0


async def test_deploys_and_invocations_are_told_as_the_api_shows_them(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    """Each once; no event, no result; what is given up or tried out is not told."""
    with receiving() as named, receiving() as all_:
        async with told(folder, hosting, database_url, named, all_) as functions:
            rig = functions.rig
            webhook, other = await hook(functions, named, EVENTS), await hook(functions, all_, None)
            function_id = await functions.made(CODE, settings={"retry": {"maxAttempts": 1}})
            path = f"/v1/functions/{function_id}"
            body = {"source": source("import nothing_there\n")}
            await rig.ok("POST", f"{path}/versions", json=body)
            await functions.ended(function_id, 2, "failed")
            good = await functions.invoke(function_id, "fine")
            bad = await functions.settled((await functions.queue(function_id, "fail"))["id"])
            waiting = await functions.queue(function_id, delay=600)
            await rig.ok("POST", f"/v1/invocations/{waiting['id']}/cancel")
            tried = await rig.ok("POST", f"{path}/test", json={**body, "data": "fail"})
            assert (tried["state"], tried["trigger"]) == ("failed", "test")
            await rig.ok("PATCH", path, json={"settings": {"secrets": ["MISSING"]}})
            lacks = await functions.invoke(function_id)
            assert (lacks["state"], lacks["reason"]) == ("failed", "secrets_unavailable")
            found = {
                (each["type"], each["data"].get("id") or each["data"]["version"]): each["data"]
                for each in await messages(named, 5, webhook)
            }
            assert found.keys() == {
                ("function.deployed", 1),
                ("function.failed", 2),
                ("invocation.succeeded", good["id"]),
                ("invocation.failed", bad["id"]),
                ("invocation.failed", lacks["id"]),
            }
            deployed, failed, *ends = found.values()
            shown = await rig.ok("GET", f"{path}/versions/1")
            assert deployed | {"snapshot": ..., "updatedAt": ...} == shown | {
                "snapshot": ...,
                "updatedAt": ...,
            }
            assert failed == await rig.ok("GET", f"{path}/versions/2")
            assert "nothing_there" in failed["error"]
            for end in ends:
                shown = await rig.ok("GET", f"/v1/invocations/{end['id']}")
                assert end == {k: v for k, v in shown.items() if k not in ("event", "result")}
            sent = b"".join(each.body for each in named.received)
            assert b"no stock" in sent
            assert b"s3cret" not in sent
            # Who asks for every event is spared the one that comes with each call, and what
            # becomes of the VMs that functions run in.
            kinds = Counter(each["type"] for each in await messages(all_, 5, other))
            assert kinds == {
                "build.succeeded": 1,
                "function.deployed": 1,
                "function.failed": 1,
                "invocation.failed": 2,
            }


async def test_what_is_tried_again_is_told_when_it_is_over(
    folder: Path, hosting: FunctionNode
) -> None:
    """Not of attempts that are followed by another; of what expires as of what fails."""
    with receiving() as receiver:
        async with told(folder, hosting, None, receiver) as functions:
            webhook = await hook(functions, receiver, ENDS)
            retry = {"minDelay": 1, "factor": 1, "maxAttempts": 2}
            function_id = await functions.made(CODE, settings={"retry": retry})
            twice = await functions.settled((await functions.queue(function_id, "fail"))["id"])
            late = {"retry": {**retry, "minDelay": 2, "maxDelay": 2, "maxAge": 1}}
            await functions.rig.ok("PATCH", f"/v1/functions/{function_id}", json={"settings": late})
            expired = await functions.settled((await functions.queue(function_id, "fail"))["id"])
            assert (expired["state"], expired["reason"]) == ("expired", "max_age")
            found = [each["data"] for each in await messages(receiver, 2, webhook)]
            assert [each["id"] for each in found] == [twice["id"], expired["id"]]
            assert [len(each["attempts"]) for each in found] == [2, 1]
            assert [each["state"] for each in found] == ["failed", "expired"]


async def test_requests_to_urls_are_told_once_however_often_their_router_tells(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    """Of those whose router is lost, too."""
    with receiving() as receiver:
        async with told(folder, hosting, database_url, receiver) as functions:
            webhook = await hook(functions, receiver, ENDS)
            server, now = functions.rig.server, now_ms()
            vm_ids = [new_vm_id() for _ in range(3)]
            visits = [
                Visit(
                    id=new_invocation_id(),
                    account_id="default",
                    function_id="fn_" + "0" * 26,
                    version=1,
                    vm_id=vm_id,
                    start="warm",
                    method="GET",
                    path="/",
                    began_ms=now,
                    deadline_ms=now + 60_000,
                )
                for vm_id in vm_ids
            ]
            ends: list[dict[str, Any]] = [
                {"state": "succeeded"},
                {"state": "failed", "reason": "handler_error"},
                {"state": "canceled", "reason": "canceled_by_caller"},
            ]
            lost = visits[0].model_copy(update={"id": new_invocation_id(), "vm_id": new_vm_id()})
            ended = [
                visit.model_copy(update={"ended_ms": now + 5, **end})
                for visit, end in zip(visits, ends, strict=True)
            ]
            note = server.functions.lendings.note
            await note(Work(number=1, router="r", visits=[*visits[:2], lost]))
            for number in (2, 2, 3):
                await note(Work(number=number, router="r", visits=ended))
            kept = server.functions.lendings
            for _ in range(2):
                async with server.database.writing() as session:
                    await vars(kept)["_visits"].interrupt(session, [lost.vm_id], now + 9)
            await quiet(functions, receiver, webhook)
            found = await messages(receiver, 4, webhook)
            of = {each["data"].get("id"): each["type"] for each in found}
            del of[None]
            assert of == {
                visits[0].id: "invocation.succeeded",
                visits[1].id: "invocation.failed",
                lost.id: "invocation.failed",
            }
            reasons = {e["data"].get("id"): e["data"].get("reason") for e in found}
            assert reasons[lost.id] == "interrupted"


async def test_no_account_is_told_of_another_s(folder: Path, hosting: FunctionNode) -> None:
    """Whatever it asks for; nor is anything on record for it."""
    with receiving() as ours, receiving() as theirs:
        async with told(folder, hosting, None, ours, theirs) as functions:
            webhook = await hook(functions, ours, EVENTS)
            async with await functions.rig.other_account() as other:
                body = {"url": theirs.url, "events": [*EVENTS, "webhook.test"]}
                made = (await other.post("/v1/webhooks", json=body)).json()
                function_id = await functions.made(CODE)
                await functions.invoke(function_id, "fine")
                await functions.invoke(function_id, "fail")
                await messages(ours, 3, webhook)
                await other.post(f"/v1/webhooks/{made['id']}/test")
                await until(lambda: theirs.received, "the test")
                assert [json.loads(e.body)["type"] for e in theirs.received] == ["webhook.test"]
                path = f"/v1/webhooks/{made['id']}"
                log = (await other.get(f"{path}/deliveries")).json()["deliveries"]
                assert [each["eventType"] for each in log] == ["webhook.test"]
                for attempt in (path, f"/v1/webhooks/{webhook['id']}/deliveries"):
                    client = functions.rig.client if attempt == path else other
                    assert (await client.get(attempt)).status_code == 404


async def test_nothing_is_written_that_nobody_wants(folder: Path, hosting: FunctionNode) -> None:
    """Nor for an endpoint that is disabled."""
    with receiving() as receiver:
        async with told(folder, hosting, None, receiver) as functions:
            await hook(functions, receiver, ["vm.started"])
            await hook(functions, receiver, None)
            off = await hook(functions, receiver, ENDS)
            path = f"/v1/webhooks/{off['id']}"
            await functions.rig.ok("PATCH", path, json={"enabled": False})
            function_id = await functions.made(CODE)
            await functions.invoke(function_id, "fine")
            assert await count(functions, "function.deployed") == 1
            assert await count(functions, "invocation.succeeded") == 0
            await functions.rig.ok("PATCH", path, json={"enabled": True})
            await functions.invoke(function_id, "fine")
            assert await count(functions, "invocation.succeeded") == 1


async def test_an_endpoint_that_hangs_has_so_many_pending_and_counts_the_rest(
    folder: Path,
    hosting: FunctionNode,
    database_url: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others of the account are told of all; deploys are told in any case; what came to be known
    before is delivered, and when there is room again it is told again."""
    monkeypatch.setattr(outbox, "INVOCATIONS_PENDING_MAX", 3)
    with receiving() as hanging, receiving() as quick:
        hanging.may_answer.clear()
        async with told(folder, hosting, database_url, hanging, quick) as functions:
            vars(vars(functions.rig.server.webhooks.pending)["_sender"])["_timeout_s"] = 600
            slow = await hook(functions, hanging, ENDS)
            fast = await hook(functions, quick, ENDS)
            function_id = await functions.made(CODE)
            ids: list[str] = []
            for number in range(6):
                ids.append((await functions.invoke(function_id, "fine"))["id"])
                await until(lambda n=number: len(quick.received) > n, "one more is told")
                await settled(functions, fast, number + 1)
            told_of = [each["data"]["id"] for each in await messages(quick, 6, fast)]
            assert told_of == ids
            path = f"/v1/webhooks/{slow['id']}"
            assert (await functions.rig.ok("GET", path))["missed"] == 3
            assert (await functions.rig.ok("GET", f"/v1/webhooks/{fast['id']}"))["missed"] == 0
            hanging.may_answer.set()
            await settled(functions, slow, 3)
            last = (await functions.invoke(function_id, "fail"))["id"]
            told_of = [each["data"]["id"] for each in await messages(hanging, 4, slow)]
            assert told_of == [*ids[:3], last]
            assert (await functions.rig.ok("GET", path))["missed"] == 3


async def settled(functions: Functions, webhook: Json, so_many: int) -> None:
    """Return when so many deliveries to a webhook have succeeded."""
    path = f"/v1/webhooks/{webhook['id']}/deliveries"

    async def look() -> bool:
        log = (await functions.rig.ok("GET", path, params={"status": "succeeded"}))["deliveries"]
        return len(log) == so_many

    await eventually(look, f"{so_many} are delivered")


async def test_many_that_end_at_once_are_each_told_of(folder: Path, hosting: FunctionNode) -> None:
    """Whatever is committed with them."""
    with receiving() as receiver:
        async with told(folder, hosting, None, receiver) as functions:
            webhook = await hook(functions, receiver, ENDS)
            function_id = await functions.made(CODE, settings={"maxInstances": 1})
            calls = (functions.invoke(function_id, "fine") for _ in range(20))
            ends = await asyncio.gather(*calls)
            found = await messages(receiver, 20, webhook)
            assert {each["data"]["id"] for each in found} == {each["id"] for each in ends}
