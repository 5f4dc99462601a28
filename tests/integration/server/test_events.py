"""Events: in every form, once each, whole batches or nothing, for whom they are."""

import asyncio
import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from cakework.domain.errors import QueueFull
from cakework.domain.functions import RetryPolicy
from cakework.domain.ids import AccountId
from cakework.server.app import build_server
from cakework.server.automations import events as events_module
from cakework.server.automations.fan_out import FanOut
from cakework.server.automations.wishes import Wishes
from cakework.server.clock import now_ms
from cakework.server.functions.waiting import WaitingLimits
from cakework.server.store.automation_models import EventRow, TriggerRow
from cakework.server.store.function_models import FunctionRow
from cakework.server.store.models import IdempotencyRow

from .event_triggers import change, emit, function_of, kept, made, triggers_of
from .function_node import FunctionNode
from .rig import Json, Rig, eventually, running, settings_for
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio
ORDER: Json = {"type": "order.paid", "source": "/shop", "id": "17", "data": {"total": 120}}
ECHO = "def handler(event, context):\n    return event\n"
ONE, MANY = "application/cloudevents+json", "application/cloudevents-batch+json"


async def test_an_event_reaches_a_handler(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    """With what it lacked filled in, and what made it told."""
    async with served(folder, hosting, database_url) as functions:
        rig = functions.rig
        function_id = await functions.made(ECHO)
        (trigger_id,) = await triggers_of(rig, function_id, ["order.*"])
        (emitted,) = (await emit(rig, {"type": "order.paid", "data": {"n": 1}}))["events"]
        assert emitted == {"id": emitted["id"], "duplicate": False, "invocations": 1}
        event = await rig.ok("GET", f"/v1/events/{emitted['id']}")
        (led,) = event["invocations"]
        assert (led["functionId"], led["triggerId"]) == (function_id, trigger_id)
        ended = await functions.settled(led["id"])
        assert ended["state"] == "succeeded"
        assert ended["result"] == event["event"]
        assert ended["trigger"] == "event"
        assert event["event"] == {
            "specversion": "1.0",
            "id": emitted["id"],
            "source": "/events",
            "type": "order.paid",
            "time": event["event"]["time"],
            "data": {"n": 1},
        }


@pytest.mark.parametrize(
    ("kind", "headers", "body", "expected"),
    [
        (ONE, {}, json.dumps(ORDER).encode(), [ORDER]),
        (f"{ONE}; charset=UTF-8", {}, json.dumps(ORDER).encode(), [ORDER]),
        (MANY, {}, json.dumps([ORDER, {**ORDER, "id": "18"}]).encode(), [ORDER, {"id": "18"}]),
        ("application/json", {}, json.dumps({"events": [ORDER]}).encode(), [ORDER]),
        (
            "application/json",
            {"ce-type": "order.paid", "ce-id": "17", "ce-source": "/shop"},
            b'{"total": 120}',
            [{**ORDER, "datacontenttype": "application/json"}],
        ),
        (
            "text/plain",
            {"ce-specversion": "1.0", "ce-type": "said", "ce-subject": "caf%C3%A9"},
            b"hello",
            [{"type": "said", "subject": "caf\u00e9", "data": "hello"}],
        ),
        (
            "application/octet-stream",
            {"ce-type": "bytes"},
            b"\0\xff",
            [{"type": "bytes", "data_base64": base64.b64encode(b"\0\xff").decode()}],
        ),
        (MANY, {}, b"[]", []),
    ],
)
async def test_every_form(
    rig: Rig, kind: str, headers: dict[str, str], body: bytes, expected: list[Json]
) -> None:
    """What was said is what is kept."""
    response = await rig.client.post(
        "/v1/events", content=body, headers={"content-type": kind, **headers}
    )
    assert response.status_code == 202, response.text
    for emitted, event in zip(response.json()["events"], expected, strict=True):
        found = await rig.ok("GET", f"/v1/events/{emitted['id']}")
        assert event.items() <= found["event"].items()
        assert found["invocations"] == []
        assert (found["made"], found["pending"], found["depth"]) == (0, False, 0)
    assert len(await kept(rig)) == len(expected)


async def test_a_batch_is_taken_whole_or_not_at_all(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    function_id = await function_of(rig)
    await triggers_of(rig, function_id)
    good = [{"type": f"t{n}"} for n in range(5)]
    problem = await emit(rig, *good, {"data": 1}, status=400)
    assert problem["errors"] == [{"field": "events.5.type", "message": "is needed"}]
    problem = await emit(rig, *good, {"type": "cakework.vm.started"}, status=400)
    assert problem["errors"][0]["field"] == "events.5.type"
    unknown = {"type": "t", "cakeworkcause": "inv_01M84JAQ6RGNRXKE5TFB8SJJJE"}
    problem = await emit(rig, *good, unknown, status=400)
    assert problem["errors"][0]["field"] == "events.5.cakeworkcause"
    limits = WaitingLimits(now_ms, per_function=5)
    monkeypatch.setattr(rig.server.functions.invocations, "_limits", limits)
    problem = await emit(rig, *good, {"type": "t6"}, status=429)
    assert problem["code"] == "queue_full"
    assert (await kept(rig), await made(rig)) == ([], [])


async def test_a_repetition_makes_nothing(rig: Rig) -> None:
    """Neither in one batch nor later; another source or id does."""
    await triggers_of(rig, await function_of(rig), count=2)
    answer = await emit(rig, ORDER, {**ORDER, "data": None}, {**ORDER, "source": "/other"})
    first, second, other = answer["events"]
    assert (first["duplicate"], first["invocations"]) == (False, 2)
    assert second == {"id": first["id"], "duplicate": True, "invocations": 2}
    assert other["duplicate"] is False
    (again,) = (await emit(rig, ORDER))["events"]
    assert again == second
    assert len(await made(rig)) == 4
    assert len(await kept(rig)) == 2


async def test_of_many_at_once_one_is_first(rig: Rig) -> None:
    """Also where each comes with others, in another order, to another server."""
    await triggers_of(rig, await function_of(rig))
    events = [{"type": "t", "source": "/s", "id": str(n)} for n in range(20)]
    other = build_server(rig.settings)
    await asyncio.to_thread(other.sealer.open_key)
    await other.database.open()

    async def ours(turn: int) -> list[tuple[str, bool]]:
        turned = events[turn:] + events[:turn]
        answer = await emit(rig, *turned)
        return [(e["id"], r["duplicate"]) for e, r in zip(turned, answer["events"], strict=True)]

    async def theirs(turn: int) -> list[tuple[str, bool]]:
        turned = events[turn:] + events[:turn]
        found = await other.automations.events.emit(AccountId("default"), turned)
        return [(e["id"], r.duplicate) for e, r in zip(turned, found, strict=True)]

    try:
        told = await asyncio.gather(*(each(turn) for turn in range(8) for each in (ours, theirs)))
    finally:
        await other.database.close()
    new = [event_id for answer in told for event_id, duplicate in answer if not duplicate]
    assert sorted(new) == sorted(event["id"] for event in events)
    assert len(await kept(rig)) == len(await made(rig)) == 20


async def test_accounts_have_events_of_their_own(rig: Rig) -> None:
    """The same source and id of two accounts are two events, and neither sees the other's."""
    function_id = await function_of(rig)
    await triggers_of(rig, function_id)
    async with await rig.other_account() as theirs:
        body = {"events": [ORDER]}
        answer = (await theirs.post("/v1/events", json=body)).json()
        assert answer["events"][0]["duplicate"] is False
        assert answer["events"][0]["invocations"] == 0
        (ours,) = (await emit(rig, ORDER))["events"]
        assert (ours["duplicate"], ours["invocations"]) == (False, 1)
        assert (await theirs.get(f"/v1/events/{ours['id']}")).status_code == 404
        listed = (await theirs.get("/v1/events")).json()["events"]
        assert [each["id"] for each in listed] == [answer["events"][0]["id"]]
        (invocation,) = await made(rig)
        caused = {"type": "t", "cakeworkcause": invocation.id}
        assert (await theirs.post("/v1/events", json={"events": [caused]})).status_code == 400


async def test_who_sees_an_event(rig: Rig) -> None:
    """That of a user its triggers and the account's; one of nobody the account's alone."""
    function_id = await function_of(rig)
    (of_account,) = await triggers_of(rig, function_id)
    (of_a,) = await triggers_of(rig, function_id, user_id="a")
    await triggers_of(rig, function_id, user_id="b")
    answer = await emit(rig, {"type": "t", "cakeworkuserid": "a"}, {"type": "t"})
    assert [each["invocations"] for each in answer["events"]] == [2, 1]
    seen = {(row.trigger_id, row.user_id) for row in await made(rig)}
    assert seen == {(of_account, "a"), (of_a, "a"), (of_account, "")}
    answer = await emit(rig, {"type": "t"}, params={"userId": "b"})
    event = await rig.ok("GET", f"/v1/events/{answer['events'][0]['id']}")
    assert (event["userId"], event["event"]["cakeworkuserid"]) == ("b", "b")
    assert event["made"] == 2
    mixed = {"type": "t", "cakeworkuserid": "a"}
    problem = await emit(rig, mixed, params={"userId": "b"}, status=400)
    assert problem["errors"][0]["field"] == "events.0.cakeworkuserid"


async def test_what_triggers_want(rig: Rig) -> None:
    """Types, sources and filters are what they say; who is paused or disabled gets nothing."""
    function_id = await function_of(rig)
    wanted = {
        "exact": await triggers_of(rig, function_id, ["order.paid", "order.paid", "x"]),
        "prefix": await triggers_of(rig, function_id, ["x", "order.*"]),
        "source": await triggers_of(rig, function_id, source="/shop"),
        "filter": await triggers_of(
            rig, function_id, filters={"data": {"total": [{"numeric": [">", 100]}]}}
        ),
    }
    others: list[tuple[list[str], Json]] = [
        (["order.created", "order.paid.late"], {}),
        (["orders.*"], {}),
        (["*"], {"source": "/shop/other"}),
        (["*"], {"filters": {"data": {"total": [1]}}}),
        (["*"], {"enabled": False}),
        (["*"], {"paused_reason": "it failed"}),
        (["*"], {"type": "lifecycle"}),
    ]
    for types, fields in others:
        await triggers_of(rig, function_id, types, **fields)
    await emit(rig, ORDER)
    got = {row.trigger_id for row in await made(rig)}
    assert got == {each for ids in wanted.values() for each in ids}


async def test_what_is_made_says_where_it_comes_from(rig: Rig) -> None:
    function_id = await function_of(rig)
    retry = RetryPolicy(max_attempts=7).model_dump_json(by_alias=True)
    await triggers_of(rig, function_id, retry=retry, user_id="u")
    (emitted,) = (await emit(rig, {**ORDER, "cakeworkuserid": "u"}))["events"]
    (row,) = await made(rig)
    assert (row.event_id, row.user_id, row.depth, row.cause_id) == (emitted["id"], "u", 0, None)
    assert row.retry is not None and json.loads(row.retry)["maxAttempts"] == 7
    caused = {"type": "t", "cakeworkcause": row.id}
    (emitted,) = (await emit(rig, caused, params={"userId": "u"}))["events"]
    last = next(each for each in await made(rig) if each.event_id == emitted["id"])
    assert (last.depth, last.cause_id) == (1, row.id)
    found = await rig.ok("GET", f"/v1/events/{emitted['id']}")
    assert (found["depth"], found["causeId"]) == (1, row.id)


async def test_a_loop_is_found_after_eight(rig: Rig) -> None:
    """Each event comes of work that the one before made; the ninth in a row is refused."""
    await triggers_of(rig, await function_of(rig), ["t"])
    cause: Json = {}
    for depth in range(9):
        (emitted,) = (await emit(rig, {"type": "t", **cause}))["events"]
        found = await rig.ok("GET", f"/v1/events/{emitted['id']}")
        assert found["depth"] == depth
        cause = {"cakeworkcause": found["invocations"][0]["id"]}
    problem = await emit(rig, {"type": "other"}, {"type": "t", **cause}, status=409)
    assert problem["code"] == "loop_detected"
    assert len(await kept(rig)) == 9


async def test_triggers_are_as_the_store_has_them(rig: Rig) -> None:
    """Whatever of them is remembered: made, changed, paused, enabled or gone a moment ago."""
    function_id = await function_of(rig)
    other = await function_of(rig, "g")

    async def seen() -> set[str | None]:
        (emitted,) = (await emit(rig, {"type": "t", "data": 1}))["events"]
        return {row.trigger_id for row in await made(rig) if row.event_id == emitted["id"]}

    assert await seen() == set()
    (one,) = await triggers_of(rig, function_id)
    assert await seen() == {one}
    (two,) = await triggers_of(rig, other)
    assert await seen() == {one, two}
    await change(rig, one, filter=json.dumps({"data": [2]}))
    assert await seen() == {two}
    await change(rig, one, filter=json.dumps({"data": [1]}))
    await change(rig, two, paused_reason="it failed")
    assert await seen() == {one}
    await change(rig, two, paused_reason=None)
    await change(rig, one, enabled=False)
    assert await seen() == {two}
    async with rig.server.database.writing() as session:
        await session.execute(delete(TriggerRow).where(TriggerRow.id == two))
    assert await seen() == set()
    (three,) = await triggers_of(rig, other)
    await change(rig, one, enabled=True)
    assert await seen() == {one, three}
    async with rig.server.database.writing() as session:
        await session.execute(delete(FunctionRow).where(FunctionRow.id == other))
    assert await seen() == {one}


async def test_triggers_that_change_all_the_time_hold_nothing_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was gone by is never what is there: then it is looked at within the transaction."""
    function_id = await function_of(rig)
    (old,) = await triggers_of(rig, function_id, ["old"])
    await emit(rig, {"type": "old"})
    reads, of = 0, Wishes.of

    async def late(self: Wishes, *given: Any, **named: Any) -> Any:
        nonlocal reads
        found = await of(self, *given, **named)
        reads += 1
        await change(rig, old, config=json.dumps({"types": [f"t{reads}", "new"]}))
        return found

    monkeypatch.setattr(Wishes, "of", late)
    (emitted,) = (await emit(rig, {"type": "new"}))["events"]
    assert emitted["invocations"] == 1
    assert reads == events_module.TRIES + 1


async def test_a_hundred_and_fifty_triggers(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    """The first hundred with the event, the others by the loop, each once; also where that ends in
    between, and where there is no room for a while."""
    limits = Doled(100)
    async with served(folder, hosting, database_url) as functions:
        rig = doled(functions, limits)
        ids = await triggers_of(rig, await function_of(rig), count=150)
        (emitted,) = (await emit(rig, ORDER))["events"]
        assert emitted["invocations"] == 100
        await limits.was_full.wait()
        assert [row.trigger_id for row in await made(rig)] == ids[:100]
        limits.left = 17
        await reached(rig, emitted["id"], made=117, pending=True)
        assert (await emit(rig, ORDER))["events"][0]["invocations"] == 117
        await triggers_of(rig, await function_of(rig, "late"), count=3)
    async with served(folder, hosting, database_url) as functions:
        rig = functions.rig
        await reached(rig, emitted["id"], made=150, pending=False)
        assert [row.trigger_id for row in await made(rig)] == ids
        shown = await rig.ok("GET", f"/v1/events/{emitted['id']}")
        assert len(shown["invocations"]) == 100


async def test_what_has_rules_to_pass_is_made_in_smaller_pieces(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules of a trigger, and of a function: each counts as twenty. The loop makes the rest."""
    monkeypatch.setattr(events_module, "MADE_MOST", 70)
    rule = {"type": "concurrency", "limit": 1}
    plain = await function_of(rig)
    ruled = await function_of(rig, "ruled", settings={"limits": [rule]})
    await triggers_of(rig, plain, ["plain"], count=30)
    ids = await triggers_of(rig, plain, ["own"], count=5, limits=json.dumps([rule]))
    await triggers_of(rig, ruled, ["ruled"], count=5)
    # 30 of 70, then two of 20 each, and then none.
    kinds = ("plain", "own", "ruled")
    answer = await emit(rig, *({"type": each} for each in kinds))
    assert [each["invocations"] for each in answer["events"]] == [30, 2, 0]
    for each, count in zip(answer["events"], (30, 5, 5), strict=True):
        await reached(rig, each["id"], made=count, pending=False)
    rows = [row.trigger_id for row in await made(rig) if row.trigger_id in ids]
    assert rows == ids


async def test_an_event_that_cannot_be_given_holds_up_no_other(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one of its account, nor that of another; nor does an account that cannot."""
    read, turn = FanOut._read, FanOut._next  # pyright: ignore[reportPrivateUsage]
    passes = 0

    def fails(self: FanOut, row: EventRow, after: str) -> Any:
        if row.type == "broken":
            raise RuntimeError("a fault of ours")
        return read(self, row, after)

    async def once_not(self: FanOut, account: AccountId) -> Any:
        nonlocal passes
        passes += 1
        if passes == 1:
            raise RuntimeError("a fault of ours")
        return await turn(self, account)

    monkeypatch.setattr(FanOut, "_read", fails)
    monkeypatch.setattr(events_module, "MADE_MOST", 0)
    await triggers_of(rig, await function_of(rig))
    broken, whole = (await emit(rig, {"type": "broken"}, {"type": "whole"}))["events"]
    await rig.server.automations.fan_out.one_pass()
    await reached(rig, whole["id"], made=1, pending=False)
    await reached(rig, broken["id"], made=0, pending=True)
    monkeypatch.setattr(FanOut, "_next", once_not)
    await rig.server.automations.fan_out.one_pass()
    assert passes > 0


async def test_servers_share_what_is_left(rig: Rig) -> None:
    """However many go on with the same events, each invocation is made once."""
    ids = await triggers_of(rig, await function_of(rig), count=250)
    others = [build_server(rig.settings) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_module, "MADE_MOST", 0)
        answer = await emit(rig, *({"type": "t", "id": str(n)} for n in range(4)))
    assert [each["invocations"] for each in answer["events"]] == [0] * 4
    try:
        for other in others:
            await asyncio.to_thread(other.sealer.open_key)
            await other.database.open()
        while any(row.after is not None for row in await kept(rig)):
            parts = (rig.server, *others)
            await asyncio.gather(*(each.automations.fan_out.one_pass() for each in parts))
    finally:
        for other in others:
            await other.database.close()
    rows = await made(rig)
    assert sorted((row.event_id, row.trigger_id) for row in rows) == sorted(
        (event.id, each) for event in await kept(rig) for each in ids
    )
    assert {row.made for row in await kept(rig)} == {250}


async def test_one_request_with_its_key_emits_once(rig: Rig) -> None:
    """Also where nobody named the events, and where the first was cut off before its answer."""
    await triggers_of(rig, await function_of(rig))
    headers = {"Idempotency-Key": "one"}
    events = [{"type": "t"}, {"type": "t"}, {**ORDER}]
    first = await emit(rig, *events, headers=headers)
    assert await emit(rig, *events, headers=headers) == first
    async with rig.server.database.writing() as session:
        await session.execute(update(IdempotencyRow).values(status=None, body=None))
    assert await emit(rig, *events, headers=headers) == first
    assert len(await kept(rig)) == len(await made(rig)) == 3
    again = await emit(rig, *events, headers={"Idempotency-Key": "two"})
    assert [each["duplicate"] for each in again["events"]] == [False, False, True]
    for kind, status in (("one.happened", 202), ("other.happened", 409)):
        headers = {"Idempotency-Key": "three", "ce-type": kind}
        response = await rig.client.post("/v1/events", content=b"", headers=headers)
        assert response.status_code == status


async def test_the_list(rig: Rig) -> None:
    """Newest first, by type, subject, user and time, a hundred a page; not what is large."""
    await emit(rig, *({"type": "t", "id": str(n)} for n in range(101)))
    await emit(rig, {"type": "order.paid", "subject": "17", "cakeworkuserid": "u"})
    (large,) = (await emit(rig, {"type": "large", "data": "x" * 5_000}))["events"]
    page = await rig.ok("GET", "/v1/events")
    assert page["events"][0]["id"] == large["id"]
    assert "event" not in page["events"][0]
    assert page["events"][1]["event"]["subject"] == "17"
    rest = await rig.ok("GET", "/v1/events", params={"pagination": page["pagination"]})
    ids = [each["id"] for each in (*page["events"], *rest["events"])]
    assert len(ids) == len(set(ids)) == 103
    assert "pagination" not in rest
    for asked in ({"type": "order.paid"}, {"subject": "17"}, {"userId": "u"}):
        found = (await rig.ok("GET", "/v1/events", params=asked))["events"]
        assert [each["type"] for each in found] == ["order.paid"], asked
    at = page["events"][0]["createdAt"]
    assert (await rig.ok("GET", "/v1/events", params={"to": at, "type": "large"}))["events"] == []
    assert len((await rig.ok("GET", "/v1/events", params={"from": at, "type": "large"}))["events"])
    for nothing in ({"type": "\0"}, {"subject": "x\0"}, {"type": "T"}):
        assert (await rig.ok("GET", "/v1/events", params=nothing))["events"] == []
    await rig.refused(400, "GET", "/v1/events", params={"typ": "t"})
    await rig.refused(404, "GET", "/v1/events/evt_01M84JAQ6RGNRXKE5TFB8SJJJE")


async def test_a_filter_is_tried(rig: Rig) -> None:
    body: Json = {"filter": {"data": {"total": [{"numeric": [">", 100]}]}}, "event": ORDER}
    told = await rig.ok("POST", "/v1/events/match", json=body)
    assert told["matches"] is True
    assert len(told["because"]) == 1
    body["event"] = {"type": "order.paid", "data": {"total": 1}}
    assert (await rig.ok("POST", "/v1/events/match", json=body))["matches"] is False
    body["filter"] = {"data": {"total": [{"bigger": 1}]}}
    problem = await rig.refused(400, "POST", "/v1/events/match", json=body)
    assert problem["errors"][0]["field"].startswith("filter.data.total")
    body = {"filter": {}, "event": {"data": "x" * (300 << 10)}}
    await rig.refused(413, "POST", "/v1/events/match", json=body)


async def test_events_are_kept_for_a_day(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then one that comes again is new. What is still to be given to triggers stays."""
    await triggers_of(rig, await function_of(rig), ["waits"])
    room = rig.server.automations.event_room
    rig.server.functions.invocations._limits = Doled(0)  # pyright: ignore[reportPrivateUsage]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_module, "MADE_MOST", 0)
        await emit(rig, ORDER, {"type": "waits"})
    await room.one_pass()
    assert len(await kept(rig)) == 2
    monkeypatch.setattr(room, "_clock", lambda: now_ms() + 24 * 3_600_000 + 1)
    await room.one_pass()
    assert [row.type for row in await kept(rig)] == ["waits"]
    (again,) = (await emit(rig, ORDER))["events"]
    assert again["duplicate"] is False


async def test_the_oldest_go_where_there_are_too_many(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    """So that an account goes on; it is refused only while they come faster than they go."""
    settings = settings_for(folder, database_url, max_events_mb_per_account=16)
    async with running(settings, hosting) as rig:
        refused: Json | None = None
        large = "x" * (250 << 10)
        ids: list[str] = []
        while refused is None and len(ids) < 100:
            events = [{"type": "t", "id": f"{len(ids) + n}", "data": large} for n in range(4)]
            response = await rig.client.post("/v1/events", json={"events": events})
            if response.status_code == 429:
                refused = response.json()
            else:
                ids += [each["id"] for each in response.json()["events"]]
        assert refused is not None and refused["code"] == "queue_full"
        assert "16 MiB" in refused["detail"]
        (again,) = (await emit(rig, {"type": "t", "id": f"{len(ids) - 1}"}))["events"]
        assert again == {"id": ids[-1], "duplicate": True, "invocations": 0}
        await rig.server.automations.event_room.one_pass()
        left = [row.id for row in await kept(rig)]
        assert 12 << 20 > sum(row.bytes for row in await kept(rig)) > 11 << 20
        gone = len(ids) - len(left)
        assert set(left).isdisjoint(ids[: max(0, gone - 4)])

        async def taken() -> Json | None:
            events = {"events": [{"type": "t"}]}
            response = await rig.client.post("/v1/events", json=events)
            return response.json() if response.status_code == 202 else None

        await eventually(taken, "there is room again")


async def test_hostile_bodies_store_nothing(rig: Rig) -> None:
    """Refused as what they are, in time, and nothing of them is kept."""
    statuses: dict[int, int] = {}
    for kind, headers, body in hostile():
        response = await rig.client.post(
            "/v1/events", content=body, headers={"content-type": kind, **headers}
        )
        assert response.status_code in (400, 413), (kind, headers, body[:200], response.text)
        assert response.headers["content-type"] == "application/problem+json"
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
    assert sum(statuses.values()) >= 300
    assert (await kept(rig), await made(rig)) == ([], [])
    await emit(rig, ORDER)


class Doled(WaitingLimits):
    """Room for so many, and no more until the test says so."""

    def __init__(self, left: int) -> None:
        super().__init__(now_ms)
        self.left = left
        self.was_full = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def check_all(self, session: Any, account: str, counts: Mapping[str, int], size: int) -> None:
        """Count, without regard to what ends meanwhile."""
        count = sum(counts.values())
        if count > self.left:
            self._loop.call_soon_threadsafe(self.was_full.set)
            raise QueueFull("There is no room.")
        self.left -= count


async def reached(rig: Rig, event_id: str, **fields: object) -> None:
    await rig.eventually(f"/v1/events/{event_id}", **fields)


def hostile() -> list[tuple[str, dict[str, str], bytes]]:
    """Return bodies that are no events that are taken."""
    values: list[object] = [None, 1, "x", [], {}, True, 1.5, [[]], {"type": None}, {"type": ""}]
    nothing: list[object] = [1, [], {}]
    types = [*nothing, "x" * 257, "\0", "a\nb", "cakework.x", True]
    values += [{"type": each} for each in types]
    for name in ("id", "source", "subject", "time", "datacontenttype", "dataschema"):
        values += [{"type": "t", name: each} for each in (*nothing, "", "x" * 2_000, "\x1b")]
    values += [{"type": "t", "specversion": each} for each in ("0.3", 1.0, "", "2.0")]
    values += [{"type": "t", "time": each} for each in ("now", "2026-13-01T00:00:00Z", "0", "1e9")]
    values += [{"type": "t", "cakeworkuserid": each} for each in ("", "a b", "x" * 129, 1, "ü")]
    values += [{"type": "t", "cakeworkcause": each} for each in ("", "inv_1", "' OR 1=1", 7, None)][
        :4
    ]
    values += [{"type": "t", each: "x"} for each in ("A", "a_b", "a.b", "", "x" * 65, "cakeworkx")]
    values += [{"type": "t", "data_base64": each} for each in (1, "%", "a", "x" * (257 << 10))]
    values += [{"type": "t", "data": 1, "data_base64": "YQ=="}, {"type": "t", "ext": {"a": 1}}]
    values += [{"type": "t", **{f"a{n}": 1 for n in range(65)}}]
    values += [{"type": "t", "data": "x" * (257 << 10)}]
    found: list[tuple[str, dict[str, str], bytes]] = []
    for value in values:
        written = json.dumps(value).encode()
        found.append((ONE, {}, written))
        found.append(("application/json", {}, b'{"events": [' + written + b"]}"))
        found.append((MANY, {}, b'[{"type": "good"}, ' + written + b"]"))
    raw = [b"", b"{", b"\xff", b"nul", b"[" * 100_000, b'{"a":' * 5_000, b"1" * 10_000]
    raw += [b'{"type": "\\ud800"}', b'{"type": "t", "data": NaN}', b'{"type": "t", "data": 1e999}']
    raw += [b'{"type": "t", "data": ' + b"[" * 300 + b"]" * 300 + b"}"]
    raw += [b'{"type": "t", "data": ' + b"9" * 5_000 + b"}"]
    for each in raw:
        found.append((ONE, {}, each))
        found.append((MANY, {}, b"[0, " + each + b"]"))
        found.append(("application/json", {}, b'{"events": [0, ' + each + b"]}"))
    events = b'{"events": [{"type": "t"}]}'
    for kind in ("", "text/plain", "application/xml", "application/cloudevents+avro", "text/json"):
        found.append((kind, {}, events))
    found.append(("application/json", {}, b'{"events": [], "more": 1}'))
    found.append(("application/json", {}, b'[{"type": "t"}]'))
    found.append((MANY, {}, events))
    found.append((ONE, {}, b'[{"type": "t"}]'))
    found.append((MANY, {}, json.dumps([{"type": "t"}] * 1_001).encode()))
    found.append((MANY, {}, b"[" + b"0," * 300_000 + b"0]"))
    found.append((MANY, {}, b" " * (5 << 20)))
    for headers, body in (
        ({"ce-type": ""}, b""),
        ({"ce-type": "x" * 257}, b""),
        ({"ce-type": "cakework.x"}, b""),
        ({"ce-specversion": "1.0"}, b""),
        ({"ce-specversion": "0.3", "ce-type": "t"}, b""),
        ({"ce-type": "%00"}, b""),
        ({"ce-type": "%ff"}, b""),
        ({"ce-type": "t", "ce-data": "1"}, b""),
        ({"ce-type": "t", "ce-datacontenttype": "1"}, b""),
        ({"ce-type": "t", "ce-time": "yesterday"}, b""),
        ({"ce-type": "t", "ce-cakeworkother": "1"}, b""),
        ({"ce-type": "t", "ce-a_b": "1"}, b""),
        ({"ce-type": "t"}, b"{"),
        ({"ce-type": "t"}, b"x" * (257 << 10)),
        ({"ce-type": "t", **{f"ce-a{n}": "1" for n in range(65)}}, b""),
    ):
        found.append(("application/json", headers, body))
    return found


def doled(functions: Functions, limits: Doled) -> Rig:
    """Have a server take no more than there is room for."""
    functions.rig.server.functions.invocations._limits = limits  # pyright: ignore[reportPrivateUsage]
    return functions.rig


async def test_large_events_are_given_to_a_few_triggers_at_a_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each invocation has the event for itself: what that takes in one transaction is bounded, of
    all events in it together, and the rest is the loop's."""
    size = 2_000
    monkeypatch.setattr(events_module, "MADE_BYTES", 7 * size)
    await triggers_of(rig, await function_of(rig), count=20)
    large = [{"type": "a", "data": "x" * size} for _ in range(2)]
    told = await emit(rig, *large, {"type": "a"})
    first, second, small = (each["invocations"] for each in told["events"])
    assert (first, second) == (6, 0)
    assert 0 < small < 20

    async def whole() -> bool:
        return len(await made(rig)) == 60

    await eventually(whole, "all triggers have all events")
    assert {each.made for each in await kept(rig)} == {20}
