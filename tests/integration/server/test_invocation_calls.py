"""Calls about invocations: what they show, lists of them, followed as they change, dead letters."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, update

from cakework.domain.ids import AccountId, FunctionId
from cakework.server.clock import now_ms
from cakework.server.functions import dead_letters as dead_letters_module
from cakework.server.functions.invocations import NewInvocation
from cakework.server.functions.waiting import WaitingLimits
from cakework.server.store.function_models import FunctionRow, InvocationRow

from .fake_node import FakeNode
from .function_node import FunctionNode, source
from .rig import Json, Rig, events, eventually, running, settings_for
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio
OURS = AccountId("default")
ECHO = """\
def handler(event, context):
    data = event.get("data")
    if data == "bytes":
        return b"\\x00\\xff"
    if data == "raise":
        raise ValueError("\\x01" * 60_000)
    if data == "large":
        return "x" * 70_000
    if data == "middling":
        return "x" * 5_000
    return {"data": data, "nothing": None}
"""


@pytest.fixture
async def functions(
    folder: Path, tmp_path: Path, database_url: str | None, anyio_backend: str
) -> AsyncGenerator[Functions]:
    async with (
        FunctionNode(settings_for(folder, None), tmp_path).hosting() as node,
        served(folder, node, database_url) as made,
    ):
        yield made


async def dead_letters(functions: Functions, function_id: str, count: int) -> list[str]:
    """Put dead letters on record; returns their ids, oldest first."""
    server = functions.rig.server
    ids: list[str] = []
    for number in range(count):
        new = NewInvocation({"data": number}, delay_s=600)
        row = await server.functions.invocations.take(OURS, FunctionId(function_id), new)
        ids.append(row.id)
    async with server.database.writing() as session:
        await session.execute(
            update(InvocationRow)
            .where(InvocationRow.id.in_(ids))
            .values(state="failed", reason="timeout", ended_ms=InvocationRow.created_ms)
        )
    return ids


async def listed(rig: Rig, path: str, **params: Any) -> list[str]:
    return [each["id"] for each in (await rig.ok("GET", path, params=params))["invocations"]]


@pytest.mark.contract("getInvocation", "getInvocationEvent", "getInvocationResult")
async def test_what_is_large_has_an_address_of_its_own(functions: Functions) -> None:
    """Events and results of up to 64 KiB are shown, of up to 4 KiB in lists too; any are fetched
    as they are."""
    function_id, rig = await functions.made(ECHO), functions.rig
    small = await functions.invoke(function_id, {"a": None})
    assert small["result"] == {"data": {"a": None}, "nothing": None}
    assert (small["maxAttempts"], small["attempt"]) == (1, 1)
    assert small["queuedMs"] >= 0
    assert small["durationMs"] == small["attempts"][-1]["durationMs"]
    middling, large = [await functions.invoke(function_id, data) for data in ("middling", "large")]
    assert len(middling["result"]) == 5_000
    assert "result" not in large
    found = await rig.ok("GET", f"/v1/invocations/{large['id']}/result")
    assert found == "x" * 70_000
    page = await rig.ok("GET", "/v1/invocations")
    assert [each.get("result") for each in page["invocations"]] == [None, None, small["result"]]
    assert page["invocations"][2] == small

    response = await rig.client.get(f"/v1/invocations/{small['id']}/result")
    assert response.headers["content-type"] == "application/json"
    raw = await functions.invoke(function_id, "bytes")
    response = await rig.client.get(f"/v1/invocations/{raw['id']}/result")
    assert response.content == b"\x00\xff"
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-content-type-options"] == "nosniff"

    much = await functions.invoke(function_id, "y" * 70_000)
    assert "event" not in much
    event = await rig.ok("GET", f"/v1/invocations/{much['id']}/event")
    assert (event["data"], event["id"]) == ("y" * 70_000, much["id"])

    failed = await functions.invoke(function_id, "raise")
    assert failed["error"]["type"] == "ValueError"
    assert 1_000 < len(failed["error"]["message"]) <= 16_384
    problem = await rig.refused(404, "GET", f"/v1/invocations/{failed['id']}/result")
    assert problem["code"] == "not_found"


@pytest.mark.contract("listDeadLetters", "replayDeadLetters", "discardDeadLetters")
async def test_dead_letters_are_replayed_at_a_rate_and_discarded(functions: Functions) -> None:
    """The oldest first; those whose turn has not come are still listed, and may be discarded."""
    function_id, rig = await functions.made(ECHO), functions.rig
    first, *others = await dead_letters(functions, function_id, 4)
    assert await listed(rig, "/v1/dead-letters") == [*reversed(others), first]
    assert await listed(rig, "/v1/dead-letters", reason="crash") == []
    body: Json = {"filter": {"functionId": function_id, "reason": "timeout"}, "perSecond": 0.001}
    response = await rig.client.post("/v1/dead-letters/replay", json=body)
    assert (response.status_code, response.json()) == (202, {"matched": 4})

    async def replayed() -> list[Json] | None:
        page = await rig.ok("GET", "/v1/invocations", params={"functionId": function_id})
        return [each for each in page["invocations"] if each.get("replayOf")] or None

    (again,) = await eventually(replayed, "the first is replayed")
    assert (again["replayOf"], again["trigger"]) == (first, "replay")
    assert (await functions.settled(again["id"]))["result"]["data"] == 0
    assert await listed(rig, "/v1/dead-letters") == others[::-1]

    body = {"filter": {"to": "2000-01-01"}}
    response = await rig.client.post("/v1/dead-letters/discard", json=body)
    assert (response.status_code, response.json()) == (202, {"matched": 0})
    response = await rig.client.post("/v1/dead-letters/discard", json={"filter": {}})
    assert response.json() == {"matched": 3}
    assert await listed(rig, "/v1/dead-letters") == []
    async with rig.server.database.reading() as session:
        due = select(InvocationRow.id).where(InvocationRow.replay_ms.is_not(None))
        assert list(await session.scalars(due)) == []
    wrong: list[Json] = [{}, {"ids": [first], "filter": {}}]
    for body in wrong:
        problem = await rig.refused(400, "POST", "/v1/dead-letters/discard", json=body)
        assert "one of ids and filter" in problem["detail"]


async def test_many_dead_letters_of_one_account_keep_no_other_s_waiting(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are due, and since when: accounts take turns."""
    server, turns = functions.rig.server, list[str]()
    monkeypatch.setattr(dead_letters_module, "AT_ONCE", 3)
    take = server.functions.invocations.take

    async def noted(account: AccountId, *args: Any) -> InvocationRow:
        turns.append(account)
        return await take(account, *args)

    await server.keys.create("test", AccountId("other"))
    *many, last = await dead_letters(functions, await functions.made(ECHO), 10)
    monkeypatch.setattr(server.functions.invocations, "take", noted)
    async with server.database.writing() as session:
        which = update(InvocationRow).where(InvocationRow.id.in_(many))
        await session.execute(which.values(replay_ms=1))
        which = update(InvocationRow).where(InvocationRow.id == last)
        await session.execute(which.values(replay_ms=2, account_id="other"))

    async def all_had() -> bool | None:
        return len(turns) == 10 or None

    await eventually(all_had, "each had its turn")
    assert turns.index("other") < 2


async def test_a_dead_letter_is_replayed_once_though_many_ask(functions: Functions) -> None:
    """By the loop of bulk replays, and by its own call, all at once."""
    function_id, rig = await functions.made(ECHO), functions.rig
    (dead,) = await dead_letters(functions, function_id, 1)
    passes = rig.server.functions.dead_letters.one_pass
    async with rig.server.database.writing() as session:
        await session.execute(update(InvocationRow).values(replay_ms=0))
    await asyncio.gather(*(passes() for _ in range(5)))
    page = await rig.ok("GET", "/v1/invocations", params={"functionId": function_id})
    assert [each.get("replayOf") for each in page["invocations"]] == [dead, None]
    assert await listed(rig, "/v1/dead-letters") == []


async def test_dead_letters_without_a_live_version_stay(functions: Functions) -> None:
    """They are tried at their turn; those whose function is deleted are not even counted."""
    function_id, rig = await functions.made(ECHO), functions.rig
    (dead,) = await dead_letters(functions, function_id, 1)
    async with rig.server.database.writing() as session:
        await session.execute(update(FunctionRow).values(live_version=None))
    response = await rig.client.post("/v1/dead-letters/replay", json={"ids": [dead]})
    assert response.json() == {"matched": 1}

    async def looked_at() -> bool:
        async with rig.server.database.reading() as session:
            row = await session.get(InvocationRow, dead)
        return row is not None and row.replay_ms is None

    await eventually(looked_at, "it was tried")
    await rig.ok("DELETE", f"/v1/functions/{function_id}")
    for which in ({"ids": [dead]}, {"filter": {}}):
        response = await rig.client.post("/v1/dead-letters/replay", json=which)
        assert response.json() == {"matched": 0}
    assert await looked_at(), "and not marked"
    assert await listed(rig, "/v1/dead-letters") == [dead]


@pytest.mark.contract("listInvocations")
async def test_invocations_are_followed_as_they_change(functions: Functions) -> None:
    """Each change, only of what was asked for, from then on, or behind the last event seen."""
    function_id, rig = await functions.made(ECHO), functions.rig
    before = await functions.invoke(function_id)
    params = {"functionId": function_id, "follow": "true"}
    async with rig.client.stream("GET", "/v1/invocations", params=params) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        stream = events(response)
        assert (await anext(stream)).data == "following"
        made = await functions.invoke(function_id, "a")
        states: list[str] = []
        last = 0
        async for event in stream:
            if event.name == "comment":
                continue
            told, last = json.loads(event.data), int(event.id or "0")
            assert told["id"] == made["id"]
            states.append(told["state"])
            if told["state"] == "succeeded":
                assert told == made
                break
        assert states == sorted(states, key=["queued", "running", "succeeded"].index)
    headers = {"Last-Event-ID": str(last - 1)}
    async with rig.client.stream(
        "GET", "/v1/invocations", params={**params, "state": "succeeded"}, headers=headers
    ) as response:
        ids: set[str] = set()
        async for event in events(response):
            if event.name == "message":
                ids.add(json.loads(event.data)["id"])
            if made["id"] in ids:
                break
    assert ids <= {before["id"], made["id"]}
    problem = await rig.refused(400, "GET", "/v1/invocations?follow=true&pagination=x")
    assert problem["errors"][0]["field"] == "pagination"


async def test_nobody_follows_what_is_anothers(functions: Functions) -> None:
    """Nor more than an account may, logs and invocations together."""
    function_id, rig = await functions.made(ECHO), functions.rig
    params = {"follow": "true"}
    theirs: httpx2.AsyncClient
    async with await rig.other_account() as theirs:
        address = "/v1/invocations"
        async with theirs.stream("GET", address, params=params) as response:
            stream = events(response)
            await anext(stream)
            await functions.invoke(function_id)
            new = NewInvocation({}, delay_s=600)
            row = await rig.server.functions.invocations.take(OURS, FunctionId(function_id), new)
            async with rig.server.database.writing() as session:
                session.add(_theirs(row, rig.server.sealer.seal(b"{}", f"event:{THEIRS}")))
            async for event in stream:
                if event.name == "message":
                    assert json.loads(event.data)["id"] == THEIRS
                    break


THEIRS = "inv_" + "7" * 26


def _theirs(row: InvocationRow, event: bytes) -> InvocationRow:
    """Return a record of the other account's, as new as this one."""
    names = [column.key for column in InvocationRow.__table__.columns]
    values = {name: getattr(row, name) for name in names}
    changes = {"id": THEIRS, "account_id": "other", "event_sealed": event}
    return InvocationRow(**{**values, **changes, "updated_ms": row.updated_ms + 1})


async def test_as_many_are_followed_as_may(folder: Path, node: FakeNode) -> None:
    """Logs and invocations count together; a connection that ends makes room."""
    settings = settings_for(folder, None, max_followed_logs_per_account=1)
    async with running(settings, node) as rig:
        params = {"follow": "true"}
        async with rig.client.stream("GET", "/v1/invocations", params=params) as response:
            following = events(response)
            await anext(following)
            problem = await rig.refused(429, "GET", "/v1/invocations", params=params)
            assert problem["code"] == "quota_exceeded"
            vm = await rig.vm()
            await rig.refused(429, "GET", f"/v1/vm/{vm['id']}/logs", params=params)

        async def free() -> bool:
            async with rig.client.stream("GET", "/v1/invocations", params=params) as response:
                return response.status_code == 200

        await eventually(free, "there is room again")


async def test_pages_hide_and_repeat_nothing(functions: Functions) -> None:
    function_id, rig = await functions.made(ECHO), functions.rig
    ids = await dead_letters(functions, function_id, 103)
    for path in ("/v1/invocations", "/v1/dead-letters"):
        first = await rig.ok("GET", path)
        params = {"pagination": first["pagination"]}
        second = await rig.ok("GET", path, params=params)
        found = [each["id"] for each in (*first["invocations"], *second["invocations"])]
        assert found == sorted(ids, reverse=True)
        assert (len(first["invocations"]), "pagination" in second) == (100, False)
    await rig.refused(400, "GET", "/v1/invocations?from=2026-02-31T00:00:00Z")
    assert await listed(rig, "/v1/invocations", to="2001-01-01") == []


async def test_what_is_refused_has_a_code_and_changed_nothing(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = functions.rig
    body = {"name": "f", "runtime": "python3.11", "source": source("", **{"a.txt": "a"})}
    body["source"]["files"].pop(0)  # type: ignore[index]
    await rig.refused(400, "POST", "/v1/functions", json=body)
    assert (await rig.ok("GET", "/v1/functions"))["functions"] == []

    for content in ("\u00fc", "a", "a=b="):
        file = {"dir": ".", "name": "main.py", "content": content, "encoding": "base64"}
        body = {"name": "f", "runtime": "python", "source": {"files": [file]}}
        problem = await rig.refused(400, "POST", "/v1/functions", json=body)
        assert problem["errors"][0]["field"] == "source.files.0.content"

    empty = (await rig.ok("POST", "/v1/functions", json={"name": "f", "runtime": "node"}))["id"]
    problem = await rig.refused(409, "POST", f"/v1/functions/{empty}/invoke", json={})
    assert problem["code"] == "no_live_version"

    function_id = await functions.made(ECHO, name="g")
    await functions.queue(function_id, delay=600)
    for whose in ("function", "account"):
        limits = WaitingLimits(now_ms, **{f"per_{whose}": 1})
        monkeypatch.setattr(rig.server.functions.invocations, "_limits", limits)
        path = f"/v1/functions/{function_id}/invoke"
        problem = await rig.refused(429, "POST", path, json={"mode": "async"})
        assert problem["code"] == "queue_full"
        assert problem["detail"].startswith(f"The {whose} has 1 ")


async def test_an_account_that_keeps_as_much_as_it_may_begins_nothing_either(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing of it waits: what has an instance at once has an event and a result, too."""
    rig, function_id = functions.rig, await functions.made(ECHO)
    await functions.invoke(function_id)
    limits = WaitingLimits(now_ms, mb_per_account=0)
    monkeypatch.setattr(rig.server.functions.invocations, "_limits", limits)
    for mode in ("sync", "async"):
        path = f"/v1/functions/{function_id}/invoke"
        problem = await rig.refused(429, "POST", path, json={"mode": mode})
        assert problem["code"] == "queue_full"
    assert len((await rig.ok("GET", "/v1/invocations"))["invocations"]) == 1
    monkeypatch.undo()
    assert (await functions.invoke(function_id))["attempts"][0]["start"] == "warm"


async def test_settings_are_as_strict_as_any_body(rig: Rig) -> None:
    """Text is no number; an unknown word is told with the one meant, at any depth."""
    made = {"name": "f", "runtime": "python3.11"}
    cases: list[tuple[Any, str, str]] = [
        ({"memory": "512"}, "settings.memory", "valid integer"),
        ({"cpu": True}, "settings.cpu", "valid integer"),
        ({"memry": 512}, "settings.memry", "did you mean memory?"),
        ({"retry": {"maxAttempt": 1}}, "settings.retry.maxAttempt", "did you mean maxAttempts?"),
        ({"retry": {"maxAttempts": 99}}, "settings.retry.maxAttempts", "less than or equal to 20"),
        ({"onFailure": {"id": "fn"}}, "settings.onFailure.id", "is unknown"),
        ({"retry": {"on": ["rain"]}}, "settings.retry.on.0", "should be"),
        ([], "settings", "should be"),
    ]
    for settings, field, told in cases:
        problem = await rig.refused(
            400, "POST", "/v1/functions", json={**made, "settings": settings}
        )
        faults = {each["field"]: each["message"] for each in problem["errors"]}
        assert told in faults.get(field, ""), faults
    whole = {"memory": 512, "isolation": "user", "secrets": ["A"], "retry": {"on": ["timeout"]}}
    function = await rig.ok("POST", "/v1/functions", json={**made, "settings": whole})
    assert whole.items() <= {**function["settings"], "retry": whole["retry"]}.items()
    assert function["settings"]["retry"]["on"] == ["timeout"]
    path = f"/v1/functions/{function['id']}"
    changed = await rig.ok("PATCH", path, json={"settings": {"timeout": 5}})
    assert changed["settings"] == {**function["settings"], "timeout": 5}
