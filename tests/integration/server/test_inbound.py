"""Webhooks that come in: signed as providers do, made into events, each delivery done once."""

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from cakework.domain.errors import QuotaExceeded
from cakework.domain.ids import AccountId
from cakework.domain.patterns import Pattern
from cakework.server.automations.arrivals import KEPT_MS, Arrivals
from cakework.server.automations.inbound import AT_ONCE_EACH
from cakework.server.functions import waiting
from cakework.server.store.automation_models import ArrivalRow, TriggerRow
from cakework.server.store.function_models import InvocationRow
from cakework.turns import Turns

from .function_node import FunctionNode
from .inbound_rig import ECHO, JSON, SECRET, STANDARD, Hook, hook, signed, told
from .rig import Json, as_problem, eventually, until
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio
GITHUB = {"X-GitHub-Event": "issues", "X-GitHub-Delivery": "d-1"}
SHOPIFY = {"X-Shopify-Topic": "orders/create", "X-Shopify-Webhook-Id": "s-1"}
DELIVERIES: list[tuple[str, dict[str, str], bytes, str, str | None]] = [
    ("standard", {"webhook-id": "m-1"}, told(type="user.created"), "user.created", "m-1"),
    ("stripe", {}, told(id="evt_1", type="invoice.paid"), "invoice.paid", "evt_1"),
    ("github", GITHUB, told(action="opened"), "issues.opened", "d-1"),
    (
        *("slack", {}, told(type="event_callback", event_id="Ev1", event={"type": "message"})),
        *("message", "Ev1"),
    ),
    ("shopify", SHOPIFY, told(total="10.00"), "orders.create", "s-1"),
    ("hmac", {}, told(n=1), "received", None),
    ("header", {}, told(n=1), "received", None),
    ("basic", {}, told(n=1), "received", None),
    ("none", {}, told(n=1), "received", None),
]


@pytest.fixture
async def functions(folder: Path, hosting: FunctionNode) -> AsyncGenerator[Functions]:
    async with served(folder, hosting, None) as made:
        yield made


@pytest.fixture
async def on_either(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> AsyncGenerator[Functions]:
    """For what the store decides: on SQLite, and on PostgreSQL."""
    async with served(folder, hosting, database_url) as made:
        yield made


async def test_each_scheme_from_the_signature_to_the_handler(functions: Functions) -> None:
    """What is signed as each provider does becomes an event with its type, its id and its data;
    with another secret it is refused, and why is for the owner alone."""
    function_id = await functions.made(ECHO)
    for scheme, headers, body, kind, delivery in DELIVERIES:
        made = await hook(functions, scheme, function_id)
        event = await made.event(await made.send(body, headers))
        assert event["type"] == f"webhook.{scheme}.{kind}"
        assert event["source"] == f"/triggers/{made.id}"
        assert event["cakeworktrigger"] == made.id
        assert event["specversion"] == "1.0"
        assert event["data"] == json.loads(body)
        assert event["datacontenttype"] == "application/json"
        assert event["cakeworkheaders"]["content-type"] == "application/json"
        assert SECRET not in json.dumps(event)
        assert not {"authorization", "x-signature"} & event["cakeworkheaders"].keys()
        if delivery is not None:
            assert event["id"] == delivery
        if scheme == "none":
            continue
        wrong = STANDARD.replace("MDEy", "MDEz") if scheme == "standard" else made.secret + "!"
        problem = as_problem(await made.send(body, headers, secret=wrong))
        assert (problem["status"], problem["code"]) == (401, "signature_invalid")
        assert "match" not in json.dumps(problem)
        assert await made.made() == 1
        assert await made.arrivals() == 1


async def test_what_comes_again_is_done_once(on_either: Functions) -> None:
    """By the provider's id, by the body where there is none; also 20 at once; and after a day
    it is another."""
    function_id = await on_either.made(ECHO)
    by_id, by_body = (
        await hook(on_either, "github", function_id),
        await hook(on_either, "hmac", function_id),
    )
    for made, headers in ((by_id, GITHUB), (by_body, {})):
        answers = await asyncio.gather(*(made.send(told(n=1), headers) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [*[200] * 19, 202]
        assert len({answer.json()["invocationId"] for answer in answers}) == 1
        first = next(answer.json() for answer in answers if answer.status_code == 202)
        assert (first["duplicate"], first["matched"]) == (False, True)
        again = await made.send(told(n=1), headers)
        assert again.status_code == 200
        assert again.json() == {**first, "duplicate": True}
        assert await made.made() == 1
    assert (await by_id.send(told(n=2), GITHUB)).status_code == 200
    assert (await by_body.send(told(n=2))).status_code == 202
    async with on_either.rig.server.database.writing() as session:
        of = ArrivalRow.trigger_id == by_id.id
        aged = ArrivalRow.created_ms - KEPT_MS
        await session.execute(update(ArrivalRow).where(of).values(created_ms=aged))
    assert (await by_id.send(told(n=1), GITHUB)).status_code == 202
    assert await by_id.arrivals() == 1


async def test_two_servers_take_a_delivery_once(
    on_either: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where neither finds it when it looks, the key of the table says which was first: the other
    makes nothing."""
    made = await hook(on_either, "hmac")
    first = (await made.send(told(n=1))).json()
    find, looks = Arrivals.find, 0

    def blind(arrivals: Arrivals, *arguments: Any) -> ArrivalRow | None:
        nonlocal looks
        looks += 1
        return None if looks == 1 else find(arrivals, *arguments)

    monkeypatch.setattr(Arrivals, "find", blind)
    again = await made.send(told(n=1))
    assert again.status_code == 200
    assert again.json() == {**first, "duplicate": True}
    assert looks == 2
    assert await made.made() == 1


async def test_without_dedupe_equal_bodies_are_two(functions: Functions) -> None:
    """`dedupe: false` is for bodies without an id; a provider's id still counts."""
    function_id = await functions.made(ECHO)
    made = await hook(functions, "hmac", function_id, dedupe=False)
    for _ in range(2):
        assert (await made.send(told(n=1))).status_code == 202
    assert (await made.made(), await made.arrivals()) == (2, 0)
    made = await hook(functions, "github", function_id, dedupe=False)
    assert [(await made.send(told(n=1), GITHUB)).status_code for _ in range(2)] == [202, 200]


async def test_a_filter_passes_over(functions: Functions) -> None:
    """What it does not ask for is answered as taken, makes nothing, and leaves nothing."""
    made = await hook(functions, "hmac", filter={"data": {"total": [{"numeric": [">", 100]}]}})
    for _ in range(2):
        answer = await made.send(told(total=99))
        assert answer.status_code == 202
        assert answer.json() == {"accepted": True, "matched": False, "duplicate": False}
    assert (await made.made(), await made.arrivals()) == (0, 0)
    assert (await made.event(await made.send(told(total=101))))["data"] == {"total": 101}


async def test_a_filter_is_made_ready_once_and_after_the_signature(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger who knows the door has nothing opened or compiled but what a signature takes."""
    made = await hook(functions, "hmac", filter={"data": {"n": [1, 2]}})
    compiled: list[Any] = []
    compile_ = Pattern.compile

    def counted(pattern: Any) -> Pattern:
        compiled.append(pattern)
        return compile_(pattern)

    monkeypatch.setattr(Pattern, "compile", counted)
    assert (await made.send(told(n=1), secret="another one")).status_code == 401
    assert not compiled
    for n in (1, 2, 3):
        answer = await made.send(told(n=n))
        assert answer.json()["matched"] is (n < 3)
    assert len(compiled) == 1


async def test_types_users_and_policies(functions: Functions) -> None:
    """The type is what the trigger says; its end user and its retries are the invocation's."""
    made = await hook(
        functions,
        "github",
        eventType="code.{type}",
        userId="cust_1",
        retry={"maxAttempts": 7},
    )
    answer = await made.send(told(action="opened"), GITHUB)
    event = await made.event(answer)
    assert (event["type"], event["cakeworkuserid"]) == ("code.issues.opened", "cust_1")
    found = await functions.settled(answer.json()["invocationId"])
    assert (found["userId"], found["maxAttempts"]) == ("cust_1", 7)
    assert found["result"]["by"] == "cust_1"


async def test_no_provider_speaks_for_the_platform(functions: Functions) -> None:
    """A type that begins as the platform's own do is told to be a webhook's."""
    made = await hook(functions, "stripe", eventType="{type}")
    body = told(id="evt_1", type="cakework.invocation.failed")
    event = await made.event(await made.send(body))
    assert event["type"] == "webhook.cakework.invocation.failed"


async def test_bodies_of_other_kinds(functions: Functions) -> None:
    """Forms are objects, text is text, whatever else is base64; nothing is nothing."""
    made = await hook(functions, "hmac", dedupe=False)
    form = urlencode([("text", "héllo & so"), ("empty", ""), ("tag", "a"), ("tag", "b")]).encode()
    for kind, body, expected in (
        (
            "application/x-www-form-urlencoded",
            form,
            {
                "data": {"text": "héllo & so", "empty": "", "tag": ["a", "b"]},
                "datacontenttype": "application/json",
            },
        ),
        ("text/plain; charset=utf-8", "grüße".encode(), {"data": "grüße"}),
        ("text/xml", b"<a/>", {"data": "<a/>", "datacontenttype": "text/xml"}),
        ("text/plain", b"\xff", {"data_base64": base64.b64encode(b"\xff").decode()}),
        ("text/plain; charset=latin-1", b"a", {"data_base64": base64.b64encode(b"a").decode()}),
        ("image/png", b"\x89PNG", {"data_base64": base64.b64encode(b"\x89PNG").decode()}),
        ("application/cloudevents+json; charset=utf-8", b"[1]", {"data": [1]}),
        ("application/json", b"", {}),
    ):
        event = await made.event(await made.send(body, {"content-type": kind}))
        assert expected.items() <= event.items()
        assert ("data" in event) + ("data_base64" in event) == bool(body)


async def test_a_large_body_is_read_apart(functions: Functions) -> None:
    """Up to 1 MiB, checked and parsed off the loop; what is larger is refused."""
    made = await hook(functions, "github")
    body = told(words=["word"] * 110_000)
    assert 800 * 1024 < len(body) < 1 << 20
    answer = await made.send(body, GITHUB)
    assert answer.status_code == 202
    found = await functions.settled(answer.json()["invocationId"])
    assert found["state"] in ("succeeded", "failed")
    problem = as_problem(await made.send(b" " * ((1 << 20) + 1), GITHUB))
    assert problem["code"] == "too_large"
    wrong = as_problem(await made.send(body, GITHUB, secret="another one"))
    assert wrong["code"] == "signature_invalid"
    assert await made.made() == 1


async def test_two_secrets_after_a_rotation(functions: Functions) -> None:
    """The new one and the one before are taken, for a day; then the new one only. Another URL is
    another, at once."""
    made = await hook(functions, "hmac")
    body = {"secret": "another secret"}
    await functions.rig.ok("POST", f"/v1/triggers/{made.id}/rotate", json=body)
    assert (await made.send(told(n=1))).status_code == 202
    assert (await made.send(told(n=2), secret="another secret")).status_code == 202
    assert (await made.send(told(n=3), secret="a third secret")).status_code == 401
    async with functions.rig.server.database.writing() as session:
        await session.execute(update(TriggerRow).values(former_until_ms=1))
    assert (await made.send(told(n=4))).status_code == 401
    assert (await made.send(told(n=5), secret="another secret")).status_code == 202
    body = {"secret": False, "url": True}
    await functions.rig.ok("POST", f"/v1/triggers/{made.id}/rotate", json=body)
    assert (await made.send(told(n=6), secret="another secret")).status_code == 404


async def test_the_handlers_answer(functions: Functions) -> None:
    """With `respond: result` who sends gets it; of what failed, that it did; what came before, its
    id."""
    made = await hook(functions, "hmac", respond="result", retry={"maxAttempts": 1})
    answer = await made.send(told(n=1))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.json()["event"]["data"] == {"n": 1}
    invocation_id = answer.headers["cakework-invocation-id"]
    again = await made.send(told(n=1))
    assert (again.status_code, again.json()["invocationId"]) == (200, invocation_id)
    problem = as_problem(await made.send(told(fails=True)))
    assert (problem["status"], problem["code"]) == (502, "handler_failed")
    assert "no stock" not in json.dumps(problem)


async def test_an_answer_that_takes_too_long(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered as taken, and goes on."""
    monkeypatch.setattr("cakework.server.automations.inbound.RESULT_S", 0.01)
    code = "import time\ndef handler(event):\n    time.sleep(1)\n    return 'done'\n"
    made = await hook(functions, "hmac", await functions.made(code), respond="result")
    answer = await made.send(told(n=1))
    assert answer.status_code == 202
    done = await functions.settled(answer.json()["invocationId"])
    assert done["result"] == "done"


async def test_results_are_waited_for_outside_the_turns(
    functions: Functions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While one waits for its result, others have the turn; who would wait too, beyond what may, is
    answered at once that it is taken."""
    inbound = functions.rig.server.automations.inbound
    single: Turns[str] = Turns(1)
    results: Turns[AccountId] = Turns(1)
    monkeypatch.setattr(inbound, "_webhooks", single)
    monkeypatch.setattr(inbound, "_results", results)
    go = tmp_path / "go"
    code = f"""\
import os, time
def handler(event):
    while not os.path.exists({str(go)!r}):
        time.sleep(0.01)
    return "done"
"""
    made = await hook(functions, "hmac", await functions.made(code), respond="result")
    waiting = asyncio.create_task(made.send(told(n=1)))
    await until(lambda: not results.free, "the first waits")
    assert single.free == 1
    answer = await made.send(told(n=2))
    assert (answer.status_code, answer.json()["accepted"]) == (202, True)
    assert not waiting.done()
    go.touch()
    assert (await waiting).json() == "done"
    assert results.free == 1


async def test_slack_asks_whose_url_it_is(functions: Functions) -> None:
    """It is answered what it asks for, signed only; nothing is made of it."""
    made = await hook(functions, "slack")
    body = told(type="url_verification", challenge="3eZbrw1a")
    answer = await made.send(body)
    assert (answer.status_code, answer.json()) == (200, {"challenge": "3eZbrw1a"})
    assert (await made.send(body, secret="another one")).status_code == 401
    assert (await made.made(), await made.arrivals()) == (0, 0)


async def test_unknown_doors(functions: Functions) -> None:
    """What leads nowhere is 404 at once, before its body has come; and only POST is taken."""
    made = await hook(functions, "hmac")
    for path in ("/in/" + "a" * 32, "/in/short", f"{made.path}a", made.path.swapcase()):
        sending = Hook(functions, "", "", path, "none", "")
        assert (await sending.unfinished())["code"] == "not_found"
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD"):
        answer = await functions.rig.client.request(method, made.path)
        assert answer.status_code == 405
    assert (await functions.rig.client.post("/in/", json={})).status_code == 404
    assert (await functions.rig.client.post(f"{made.path}/more", json={})).status_code == 404


async def test_a_slow_body_is_not_waited_for(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused in the end, and meanwhile everybody else is served."""
    slow, other = (
        await hook(functions, "hmac"),
        await hook(functions, "hmac", await functions.made(ECHO, name="g")),
    )
    monkeypatch.setattr("cakework.server.api.bodies.FIRST_S", 0.5)
    sending = asyncio.create_task(slow.unfinished())
    assert (await other.send(told(n=1))).status_code == 202
    assert (await sending)["code"] == "request_timeout"
    assert await slow.made() == 0


async def test_one_door_holds_up_no_other(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who floods one with bodies that never come has its turns alone: the next is told to come
    later, and another webhook is answered."""
    function_id = await functions.made(ECHO)
    flooded = await hook(functions, "hmac", function_id)
    other = await hook(functions, "hmac", function_id)
    inbound = functions.rig.server.automations.inbound
    monkeypatch.setattr("cakework.server.automations.inbound.TURN_S", 0.01)
    webhook = await inbound.find(flooded.path.removeprefix("/in/"), "")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(AT_ONCE_EACH):
            await stack.enter_async_context(inbound.turn(webhook))
        problem = as_problem(await flooded.send(told(n=1)))
        assert (problem["status"], problem["code"]) == (429, "quota_exceeded")
        assert (await other.send(told(n=1))).status_code == 202
    assert (await flooded.send(told(n=1))).status_code == 202


async def test_wrong_signatures_cost_few_writes(functions: Functions) -> None:
    """They are all counted, with why and when, and written down together, however many come."""
    made = await hook(functions, "github")
    server = functions.rig.server
    written = 0
    together = server.database.together

    async def counting(work: Any) -> Any:
        nonlocal written
        if "_write" in repr(work.__code__.co_names):
            written += 1
        return await together(work)

    refusals = server.automations.inbound._refusals  # pyright: ignore[reportPrivateUsage]
    server.database.together = counting  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(10):
        answers = await asyncio.gather(
            *(made.send(told(n=n), GITHUB, secret="not the secret") for n in range(20))
        )
        assert {answer.status_code for answer in answers} == {401}
    await refusals.one_pass()
    counted = written

    async def look() -> TriggerRow | None:
        row = await made.row()
        return row if row.refused == 200 else None

    row = await eventually(look, "all are counted")
    assert row.refused_why == "the signature does not match"
    assert row.refused_ms is not None
    assert 1 <= counted < 100
    shown = await functions.rig.ok("GET", f"/v1/triggers/{made.id}")
    assert shown["refused"]["count"] == 200
    assert (await made.made(), await made.arrivals()) == (0, 0)
    await refusals.one_pass()
    assert written == counted


async def test_a_door_is_its_accounts_alone(functions: Functions) -> None:
    """What comes to it is done by its own function; another account sees nothing of it."""
    made = await hook(functions, "hmac")
    answer = await made.send(told(n=1))
    async with await functions.rig.other_account() as other:
        path = f"/v1/invocations/{answer.json()['invocationId']}"
        assert (await other.get(path)).status_code == 404
        assert (await other.get(f"/v1/triggers/{made.id}")).status_code == 404
        # A key changes nothing here.
        headers = {**JSON, **signed("hmac", SECRET, told(n=2), {})}
        again = await other.post(made.path, content=told(n=2), headers=headers)
    assert again.status_code == 202
    assert (await made.event(again))["data"] == {"n": 2}
    assert await made.made() == 2


async def test_a_paused_webhook_asks_for_later(functions: Functions) -> None:
    """503: providers keep what they send, and send it again. One that is gone is 404."""
    made = await hook(functions, "hmac", enabled=False)
    problem = as_problem(await made.send(told(n=1)))
    assert (problem["status"], problem["code"]) == (503, "unavailable")
    await functions.rig.ok("PATCH", f"/v1/triggers/{made.id}", json={"enabled": True})
    assert (await made.send(told(n=1))).status_code == 202
    await functions.rig.ok("DELETE", f"/v1/triggers/{made.id}")
    assert (await made.send(told(n=2))).status_code == 404
    function = await hook(functions, "hmac", made.function_id)
    await functions.rig.ok("DELETE", f"/v1/functions/{made.function_id}")
    assert (await function.send(told(n=1))).status_code == 404


async def test_a_full_queue_is_told(on_either: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    """429, and nothing is remembered: so it is taken when it comes again."""
    made = await hook(on_either, "hmac")
    monkeypatch.setattr(waiting, "_left", _nothing)
    problem = as_problem(await made.send(told(n=1)))
    assert (problem["status"], problem["code"]) == (429, "queue_full")
    assert (await made.made(), await made.arrivals()) == (0, 0)
    monkeypatch.undo()

    async def look() -> bool:
        # That it is full is known for a moment.
        return (await made.send(told(n=1))).status_code == 202

    await eventually(look, "it is taken")


async def test_a_full_disk_is_told(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 before anything is read."""
    made = await hook(functions, "hmac")
    monkeypatch.setattr("cakework.server.store.free_space.free_mb", _nothing)
    problem = as_problem(await made.send(told(n=1)))
    assert (problem["status"], problem["code"]) == (503, "no_room")
    monkeypatch.undo()
    assert (await made.send(told(n=1))).status_code == 202


async def test_what_is_old_is_forgotten(on_either: Functions) -> None:
    """After a day; and of one webhook no more is kept than may be, the newest of it."""
    made = await hook(on_either, "hmac")
    database = on_either.rig.server.database
    now = 10 * KEPT_MS
    async with database.writing() as session:
        session.add_all(
            ArrivalRow(trigger_id=made.id, digest=f"{n:064}", created_ms=now - n * 1000)
            for n in range(1, 1_201)
        )
        session.add_all(
            ArrivalRow(trigger_id=made.id, digest=f"old{n:061}", created_ms=now - KEPT_MS)
            for n in range(700)
        )
    arrivals = Arrivals(database, lambda: now, per_trigger=300)
    await arrivals.one_pass()
    assert await made.arrivals() == 1_200
    for n in range(1_000):
        digest = f"new{n:061}"
        assert await database.together(
            lambda session, digest=digest: arrivals.note(session, made.id, digest, None)
        )
    await arrivals.one_pass()
    async with database.reading() as session:
        oldest = await session.scalar(select(func.min(ArrivalRow.created_ms)))
    # Those of one moment go or stay together.
    assert (await made.arrivals(), oldest) == (1_000, now)


async def test_an_account_is_remembered_so_much_of(on_either: Functions) -> None:
    """Of all its webhooks together; what is known already is still known, and others have theirs.
    When it is forgotten again, there is room."""
    function_id = await on_either.made(ECHO)
    first, second = [await hook(on_either, "hmac", function_id) for _ in range(2)]
    database = on_either.rig.server.database
    now = 10 * KEPT_MS
    arrivals = Arrivals(database, lambda: now, per_account=3)
    account, other = AccountId("default"), AccountId("other")

    async def come(hook: Hook, n: int, account: AccountId = account) -> bool:
        def work(session: Session) -> bool:
            if arrivals.find(session, hook.id, f"{n:064}") is not None:
                return False
            arrivals.check(session, account)
            return arrivals.note(session, hook.id, f"{n:064}", None)

        return await database.together(work)

    assert [await come(first, n) for n in (1, 2)] == [True, True]
    assert await come(second, 1)
    with pytest.raises(QuotaExceeded):
        await come(second, 2)
    assert not await come(second, 1)
    assert await come(second, 3, other)
    now += KEPT_MS + 1
    await arrivals.one_pass()
    assert await come(second, 2)


async def test_too_many_remembered_are_told(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429, and nothing is made of what comes."""
    made = await hook(functions, "hmac")
    arrivals = functions.rig.server.automations.inbound._arrivals  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(arrivals, "_per_account", 1)
    assert (await made.send(told(n=1))).status_code == 202
    problem = as_problem(await made.send(told(n=2)))
    assert (problem["status"], problem["code"]) == (429, "quota_exceeded")
    assert (await made.send(told(n=1))).status_code == 200
    assert (await made.made(), await made.arrivals()) == (1, 1)


async def test_few_arrivals_are_not_counted_for_ever(functions: Functions) -> None:
    """Of a webhook to which little comes nothing is kept in memory after a day."""
    made = await hook(functions, "hmac")
    database = functions.rig.server.database
    now = 10 * KEPT_MS
    arrivals = Arrivals(database, lambda: now)
    await database.together(lambda session: arrivals.note(session, made.id, "1" * 64, None))
    came = arrivals._came  # pyright: ignore[reportPrivateUsage]
    await arrivals.one_pass()
    assert came[made.id] == 1
    now += KEPT_MS + 1
    await arrivals.one_pass()
    assert not came


async def test_the_door_is_in_no_log(
    functions: Functions, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads the server's log cannot send anything, where nothing else is asked for."""
    made = await hook(functions, "none")
    assert (await made.send(told(n=1))).status_code == 202
    assert (await made.send(b"{", JSON)).status_code == 400
    out, err = capfd.readouterr()
    assert "/in/…" in out + err or "/in/\\u2026" in out + err
    assert made.path.removeprefix("/in/") not in out + err


async def test_hostile_requests(functions: Functions) -> None:
    """Three hundred, each refused, and nothing is made of any."""
    function_id = await functions.made(ECHO)
    hooks = {
        scheme: await hook(functions, scheme, function_id)
        for scheme, *_ in DELIVERIES
        if scheme != "none"
    }
    sent: list[tuple[Hook, bytes, dict[str, str]]] = []
    for scheme, made in hooks.items():
        sent += [(made, body, headers) for body, headers in hostile(scheme, made.secret)]
    assert len(sent) >= 300
    turns = asyncio.Semaphore(20)

    async def one(made: Hook, body: bytes, headers: dict[str, str]) -> httpx2.Response:
        async with turns:
            # HTTP carries any bytes but line breaks.
            return await made.post(body, {n.encode(): v.encode() for n, v in headers.items()})

    answers = await asyncio.gather(*(one(*each) for each in sent))
    for (made, body, headers), answer in zip(sent, answers, strict=True):
        assert 400 <= answer.status_code < 500, (made.scheme, body[:80], headers, answer.text)
    for made in hooks.values():
        assert (await made.made(), await made.arrivals()) == (0, 0)
    async with functions.rig.server.database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(InvocationRow)) == 0
    for made in hooks.values():
        assert (await made.send(told(fine=True))).status_code == 202


def _nothing(*_: object) -> int:
    return 0


def hostile(scheme: str, secret: str) -> list[tuple[bytes, dict[str, str]]]:
    """Return deliveries that are not signed, not quite, or signed and no good."""
    body = told(n=1)
    right = signed(scheme, secret, body, {})
    made: list[tuple[bytes, dict[str, str]]] = []
    for name, value in right.items():
        for other in (
            *("", "x", "v1,", "v1=", "sha256=", "v0=", "t=1", "t=,v1=", "Basic", "Basic !"),
            *(value[:-1], value[1:], value[:-1] + "Z", f"{value}{value[:4]}", value[::-1]),
            *("a" * 5000, "v1," * 1000, "t=1," * 1000, "v1=0," * 900, "é", "0" * 64),
            *("-1", "1e9", "9" * 400, "NaN", "0", "v1a,AAAA", "null", "{}", "=", ",", ":", "..."),
        ):
            if other != value and other == other.strip():
                made.append((body, {**JSON, **right, name: other}))
        made.append((body, {**JSON, **{n: v for n, v in right.items() if n != name}}))
    if scheme not in ("header", "basic"):
        made += [(other, {**JSON, **right}) for other in (b"", body + b" ", body[:-1], b"\0" * 999)]
    for bad in (
        *(b"{", b"nul", b"\xff\xfe", b"[" * 100_000, b"9" * 5_000, b'{"a":NaN', b"'a'"),
        b'{"a": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
        b"[" + b"[]," * 260_000 + b"[]]",
    ):
        given = {**JSON, "webhook-id": "msg_1"}
        if scheme != "standard" or bad.isascii():
            made.append((bad, {**given, **signed(scheme, secret, bad, given)}))
    form = {"content-type": "application/x-www-form-urlencoded"}
    for bad in (b"a=1&" * 1_000, b"a=%ff", b"\xc3\xa9=1"):
        if scheme != "standard" or bad.isascii():
            made.append((bad, {**form, **signed(scheme, secret, bad, {})}))
    return made


async def test_what_is_gathered_is_known_by_what_has_it(functions: Functions) -> None:
    """Deliveries that become one invocation are answered with that, and so are repetitions."""
    made = await hook(functions, "hmac", respond="result")
    limits = [{"type": "batch", "maxSize": 2, "maxWait": 60}]
    await functions.rig.ok("PATCH", f"/v1/triggers/{made.id}", json={"limits": limits})
    answers = await asyncio.gather(*(made.send(told(n=number)) for number in range(2)))
    assert [each.status_code for each in answers] == [200, 200]
    (one,) = {each.headers["cakework-invocation-id"] for each in answers}
    assert len(answers[0].json()["event"]["data"]) == 2
    for number in range(2):
        again = await made.send(told(n=number))
        assert (again.status_code, again.json()["invocationId"]) == (200, one)


async def test_the_secret_before_is_taken_whatever_it_was(functions: Functions) -> None:
    """Also where the new one is one that was there already."""
    made = await hook(functions, "hmac")
    rotate = f"/v1/triggers/{made.id}/rotate"
    await functions.rig.ok("POST", rotate, json={"secret": "another secret"})
    for _ in range(2):
        await functions.rig.ok("POST", rotate, json={"secret": made.secret})
    assert (await made.send(told(n=1))).status_code == 202
    assert (await made.send(told(n=2), secret="another secret")).status_code == 202


async def test_filters_are_compared_beside_the_loop(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a filter and a body of a stranger's take keeps nobody else waiting."""
    threads: list[bool] = []
    matches = Pattern.matches

    def matching(pattern: Pattern, given: Json) -> bool:
        threads.append(threading.current_thread() is threading.main_thread())
        return matches(pattern, given)

    monkeypatch.setattr(Pattern, "matches", matching)
    made = await hook(functions, "hmac", filter={"data": {"n": [1]}})
    assert (await made.send(told(n=1))).status_code == 202
    assert threads == [False]
