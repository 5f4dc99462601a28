"""What happens on the platform reaches lifecycle triggers, and how a trigger's work ends that."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import update

from cakework.server.store.automation_models import TriggerRow

from .function_node import FunctionNode
from .rig import Json, eventually
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio
FAILS = """\
def handler(event, context):
    if event.get("data") == "fails":
        raise ValueError("no stock")
    return event["type"]
"""
TELLS = """\
def handler(event, context):
    return [event["type"], event["subject"], event["data"].get("reason")]
def failed(event, context):
    return event["subject"]
"""
ONCE = {"retry": {"maxAttempts": 1}}


@pytest.fixture
async def functions(folder: Path, hosting: FunctionNode) -> AsyncGenerator[Functions]:
    async with served(folder, hosting, None) as made:
        yield made


async def trigger(functions: Functions, function_id: str, **fields: object) -> Json:
    body = {"functionId": function_id, **fields}
    return await functions.rig.ok("POST", "/v1/triggers", json=body)


async def tells(functions: Functions, *types: str, **fields: object) -> str:
    """Make a function that is told of ``types``; return its id."""
    function_id = await functions.made(TELLS, name="tells")
    await trigger(functions, function_id, type="lifecycle", config={"types": types}, **fields)
    return function_id


async def runs(functions: Functions, trigger_id: str, data: str) -> Json:
    """Have a trigger make an invocation; return it when it has ended."""
    path = f"/v1/triggers/{trigger_id}/run"
    response = await functions.rig.client.post(path, json={"data": data})
    assert response.status_code == 202, response.text
    return await functions.settled(response.json()["id"])


async def told(functions: Functions, function_id: str, count: int) -> list[Json]:
    """Return the lifecycle invocations of a function, oldest first, when ``count`` have ended."""

    async def look() -> list[Json] | None:
        query = {"functionId": function_id}
        listed = (await functions.rig.ok("GET", "/v1/invocations", params=query))["invocations"]
        found = [each for each in reversed(listed) if each["trigger"] == "lifecycle"]
        ended = all(each["state"] in ("succeeded", "failed") for each in found)
        return found if len(found) >= count and ended else None

    return await eventually(look, f"{count} are told")


async def test_what_fails_for_good_is_told_once_and_so_is_recovery(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    """With the invocation as its data, and the first success after that; no other success."""
    async with served(folder, hosting, database_url) as functions:
        listener = await tells(functions, "cakework.invocation.*")
        works = await functions.made(FAILS, settings=ONCE)
        made = await trigger(functions, works, type="cron", config={"every": 86_400})
        ended = [await runs(functions, made["id"], data) for data in ("x", "fails", "x", "x")]
        found = await told(functions, listener, 2)
        assert [each["result"] for each in found] == [
            ["cakework.invocation.failed", ended[1]["id"], "handler_error"],
            ["cakework.invocation.recovered", ended[2]["id"], None],
        ]
        assert [each["cause"] for each in found] == [
            {"invocationId": ended[1]["id"]},
            {"invocationId": ended[2]["id"]},
        ]
        shown = await functions.rig.ok("GET", f"/v1/triggers/{made['id']}")
        assert shown["consecutiveFailures"] == 0


async def test_a_trigger_that_keeps_failing_pauses_itself(functions: Functions) -> None:
    """After as many in a row as it says; that is told, and it goes on when it is enabled again."""
    listener = await tells(functions, "cakework.trigger.paused")
    works = await functions.made(FAILS, settings=ONCE)
    made = await trigger(functions, works, type="cron", config={"every": 86_400}, pauseAfter=2)
    path = f"/v1/triggers/{made['id']}"
    await runs(functions, made["id"], "fails")
    await runs(functions, made["id"], "x")
    await runs(functions, made["id"], "fails")
    assert (await functions.rig.ok("GET", path))["state"] == "active"
    await runs(functions, made["id"], "fails")
    paused = await functions.rig.ok("GET", path)
    assert (paused["state"], paused["enabled"]) == ("paused", True)
    assert paused["pausedReason"] == "2 invocations in a row failed for good."
    (found,) = await told(functions, listener, 1)
    assert found["result"][:2] == ["cakework.trigger.paused", made["id"]]
    on = await functions.rig.ok("PATCH", path, json={"enabled": True})
    assert (on["state"], on["consecutiveFailures"]) == ("active", 0)


async def test_a_deploy_is_told(functions: Functions) -> None:
    """Of the account's functions, to whom it has asked for."""
    listener = await tells(functions, "cakework.function.*")
    other = await functions.made(FAILS, name="other")
    (found,) = await told(functions, listener, 1)
    assert found["result"][:2] == ["cakework.function.deployed", other]


async def test_only_what_matches_is_told(functions: Functions) -> None:
    """The filter goes by all of the event."""
    pattern = {"data": {"functionId": ["fn_" + "0" * 26]}}
    listener = await tells(functions, "cakework.invocation.failed", filter=pattern)
    works = await functions.made(FAILS, settings=ONCE)
    await functions.invoke(works, "fails")
    query = {"functionId": listener}
    assert await functions.rig.ok("GET", "/v1/invocations", params=query) == {"invocations": []}


async def test_what_a_listener_fails_at_is_told_to_none(functions: Functions) -> None:
    """Not to itself and not to others, whose failures would be twice as many each time."""
    code = "def handler(event, context):\n    raise ValueError('again')\n"
    listener = await functions.made(code, settings=ONCE)
    config = {"types": ["cakework.invocation.failed"]}
    for _ in range(2):
        await trigger(functions, listener, type="lifecycle", config=config)
    await functions.invoke(listener, "begin")
    found = await told(functions, listener, 2)
    assert [(each["depth"], each["reason"]) for each in found] == [(1, "handler_error")] * 2
    dead = (await functions.rig.ok("GET", "/v1/dead-letters"))["invocations"]
    assert len(dead) == 3


async def test_what_cannot_be_told_counts_all_the_same(functions: Functions) -> None:
    """A trigger's row that cannot be read any more, or a queue that is full: the end is written."""
    listener = await tells(functions, "cakework.invocation.failed")
    works = await functions.made(FAILS, settings=ONCE)
    async with functions.rig.server.database.writing() as session:
        of_it = update(TriggerRow).where(TriggerRow.function_id == listener)
        await session.execute(of_it.values(filter='{"data": [{"nothing": "of ours"}]}'))
    failed = await functions.invoke(works, "fails")
    assert (failed["state"], failed["reason"]) == ("failed", "handler_error")
    query = {"functionId": listener}
    assert await functions.rig.ok("GET", "/v1/invocations", params=query) == {"invocations": []}


async def test_a_triggers_failures_go_to_its_own_handler(functions: Functions) -> None:
    """Which comes before the function's."""
    ours, theirs = await functions.made(TELLS, name="ours"), await functions.made(TELLS, name="no")
    works = await functions.made(FAILS, settings={**ONCE, "onFailure": {"functionId": theirs}})
    handler = {"functionId": ours}
    made = await trigger(functions, works, type="cron", config={"every": 86_400}, onFailure=handler)
    failed = await runs(functions, made["id"], "fails")

    async def look() -> list[Json]:
        listed = await functions.rig.ok("GET", "/v1/invocations", params={"functionId": ours})
        return listed["invocations"]

    (handled,) = await eventually(look, "it is handed over")
    assert (await functions.settled(handled["id"]))["result"] == failed["id"]
    listed = await functions.rig.ok("GET", "/v1/invocations", params={"functionId": theirs})
    assert listed == {"invocations": []}


async def test_a_trigger_brings_its_own_policy(functions: Functions) -> None:
    """It goes before the function's, and the record says how many attempts there may be."""
    works = await functions.made(FAILS, settings={"retry": {"maxAttempts": 5}})
    made = await trigger(
        functions, works, type="cron", config={"every": 86_400}, retry={"maxAttempts": 1}
    )
    failed = await runs(functions, made["id"], "fails")
    assert (failed["state"], failed["attempt"], failed["maxAttempts"]) == ("failed", 1, 1)
