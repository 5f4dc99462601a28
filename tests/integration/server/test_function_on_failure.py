"""What failed for good goes to its function's error handler, once, with what was to be done."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from cakework.server.functions import failures
from cakework.server.services.rooms import Rooms
from cakework.server.store.function_models import InvocationRow

from .function_node import FunctionNode, source
from .rig import Json, eventually
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio
CODE = """\
def handler(event, context):
    if (event.get("data") or {}).get("fails"):
        raise ValueError("no stock")
    return "done"
def failed(event, context):
    data = event["data"]
    if data["invocation"]["functionId"] == context.function_id:
        raise RuntimeError("cannot help myself")
    return [event["type"], event["subject"], data, context.user_id]
"""
FAILS = {"fails": True}


@pytest.fixture
async def functions(folder: Path, hosting: FunctionNode) -> AsyncGenerator[Functions]:
    async with served(folder, hosting, None) as made:
        yield made


async def handled_by(functions: Functions, handler: str, **fields: Any) -> str:
    """Make a function that tries once, and whose failures go to ``handler``."""
    settings = {"retry": {"maxAttempts": 1}, "onFailure": {"functionId": handler}}
    return await functions.made(CODE, settings=settings, **fields)


async def of(functions: Functions, function_id: str, trigger: str) -> list[Json]:
    """Return the invocations of a function with a trigger, oldest first."""
    query = {"functionId": function_id}
    listed = (await functions.rig.ok("GET", "/v1/invocations", params=query))["invocations"]
    return [each for each in reversed(listed) if each["trigger"] == trigger]


async def handling(functions: Functions, handler: str, failed: Json) -> Json:
    """Return the one invocation by which a failure is handled, when it has ended."""

    async def look() -> list[Json]:
        found = await of(functions, handler, "failure")
        return [each for each in found if each["cause"] == {"invocationId": failed["id"]}]

    found = await eventually(look, "the failure is handed over")
    assert len(found) == 1
    return await functions.settled(found[0]["id"])


async def test_what_fails_for_good_is_handed_over_once(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    """With the invocation, its event and its error; what succeeds, or is given up, is not."""
    async with served(folder, hosting, database_url) as functions:
        handler = await functions.made(CODE, name="handler")
        function_id = await handled_by(functions, handler)
        await functions.invoke(function_id, {})
        later = await functions.queue(function_id, FAILS, delay=600)
        await functions.rig.ok("POST", f"/v1/invocations/{later['id']}/cancel")
        tested = {"source": source(CODE), "data": FAILS}
        await functions.rig.ok("POST", f"/v1/functions/{function_id}/test", json=tested)
        assert await of(functions, handler, "failure") == []
        failed = await functions.settled(
            (await functions.queue(function_id, FAILS, userId="ada"))["id"]
        )
        handled = await handling(functions, handler, failed)
        assert (handled["depth"], handled["userId"]) == (1, "ada")
        kind, subject, data, user = handled["result"]
        assert (kind, subject, user) == ("cakework.invocation.failed", failed["id"], "ada")
        assert data["event"] == failed["event"]
        assert data["error"] == failed["error"]
        shown = {name: told for name, told in failed.items() if name != "event"}
        assert data["invocation"] == shown
        dead = await functions.rig.ok("GET", "/v1/dead-letters")
        assert [each["id"] for each in dead["invocations"]] == [failed["id"]]


async def test_what_a_handler_fails_at_goes_no_further(functions: Functions) -> None:
    """Neither to itself nor to another: it is a dead letter of its own."""
    function_id = await functions.made(CODE, settings={"retry": {"maxAttempts": 1}})
    own = {"settings": {"onFailure": {"functionId": function_id}}}
    await functions.rig.ok("PATCH", f"/v1/functions/{function_id}", json=own)
    failed = await functions.invoke(function_id, FAILS)
    handled = await handling(functions, function_id, failed)
    assert (handled["state"], handled["error"]["message"]) == ("failed", "cannot help myself")
    dead = (await functions.rig.ok("GET", "/v1/dead-letters"))["invocations"]
    assert {each["id"] for each in dead} == {failed["id"], handled["id"]}
    assert len(await of(functions, function_id, "failure")) == 1
    # Nor to a function that is gone, or whose settings do not name it any more.
    none = {"settings": {"onFailure": None}}
    await functions.rig.ok("PATCH", f"/v1/functions/{function_id}", json=none)
    await functions.invoke(function_id, FAILS)
    assert len(await of(functions, function_id, "failure")) == 1


async def test_what_is_too_deep_too_large_too_late_or_too_much(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain ends; a large event is pointed at; what no attempt was made of has an error, too; and
    where as much waits as may, the failure is settled all the same."""
    handler = await functions.made(CODE, name="handler")
    function_id = await handled_by(functions, handler)

    async def ended(**values: int) -> Json:
        queued = await functions.queue(function_id, FAILS, delay=600)
        async with functions.rig.server.database.writing() as session:
            which = update(InvocationRow).where(InvocationRow.id == queued["id"])
            await session.execute(which.values(next_ms=0, **values))
        return await functions.settled(queued["id"])

    deep = await handling(functions, handler, await ended(depth=8))
    assert (deep["state"], deep["reason"], deep["depth"]) == ("failed", "loop", 9)
    assert deep["attempts"] == []
    late = await ended(ttl_ms=1)
    assert (late["state"], late["reason"]) == ("expired", "ttl")
    data = (await handling(functions, handler, late))["result"][2]
    assert data["error"]["message"] == "It expired: ttl."
    large = {**FAILS, "padding": "x" * failures.EVENT_BYTES_MAX}
    failed = await functions.invoke(function_id, large)
    data = (await handling(functions, handler, failed))["result"][2]
    assert "event" not in data
    assert (await functions.rig.ok("GET", data["eventPath"]))["data"] == large
    assert data["error"] == failed["error"]

    def has_room(_: object, key: str, *__: object) -> bool:
        return key != handler

    monkeypatch.setattr(Rooms, "take", has_room)
    before = len(await of(functions, handler, "failure"))
    failed = await functions.invoke(function_id, FAILS)
    assert (failed["state"], failed["reason"]) == ("failed", "handler_error")
    assert len(await of(functions, handler, "failure")) == before


async def test_only_functions_that_may_be_told_are_taken(functions: Functions) -> None:
    """Not another account's, nor another end user's, nor one that there is not. One that is
    gone by then is told of nothing."""
    rig = functions.rig
    handler = await functions.made(CODE, name="handler")
    body = {"name": "theirs", "runtime": "python3.11"}
    bobs = await rig.ok("POST", "/v1/functions", json={**body, "userId": "bob"})
    async with await rig.other_account() as other:
        theirs = (await other.post("/v1/functions", json=body)).json()
    for name in ("fn_" + "0" * 26, theirs["id"], bobs["id"]):
        settings = {"onFailure": {"functionId": name}}
        for user in ({}, {"userId": "ada"}):
            asked = {**body, "name": "mine", **user, "settings": settings}
            problem = await rig.refused(400, "POST", "/v1/functions", json=asked)
            assert problem["errors"][0]["field"] == "settings.onFailure.functionId"
        path = f"/v1/functions/{handler}"
        await rig.refused(400, "PATCH", path, json={"settings": settings})
    own = {"onFailure": {"functionId": bobs["id"]}}
    await rig.ok("PATCH", f"/v1/functions/{bobs['id']}", json={"settings": own})
    function_id = await handled_by(functions, handler)
    await rig.ok("DELETE", f"/v1/functions/{handler}")
    failed = await functions.invoke(function_id, FAILS)
    assert failed["state"] == "failed"
    assert await of(functions, handler, "failure") == []


async def test_what_a_handler_failed_at_goes_to_it_again(functions: Functions) -> None:
    """A replay goes to the handler that the first went to, by itself and with others."""
    handler = await functions.made(CODE, name="handler")
    failed = await functions.invoke(await handled_by(functions, handler), FAILS)
    handled = await handling(functions, handler, failed)
    path = f"/v1/invocations/{handled['id']}/replay"
    again = await functions.rig.ok("POST", path)
    ended = await functions.settled(again["id"])
    assert ended["result"][:2] == ["cakework.invocation.failed", failed["id"]]
    twice = await functions.rig.ok("POST", f"/v1/invocations/{again['id']}/replay")
    assert (await functions.settled(twice["id"]))["result"] == ended["result"]
