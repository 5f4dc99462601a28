"""Logs of functions: each line is of the invocation that printed it, and there when one looks."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from cakework.domain.vms import VmState
from cakework.server.clock import now_ms
from cakework.server.functions import logs
from cakework.server.logs.lines import function_source, vm_source
from cakework.server.loops import retention
from cakework.server.loops.retention import DAY_MS, KeptDays
from cakework.server.store.function_models import (
    AttemptRow,
    FunctionVmRow,
    InstanceRow,
    VersionRow,
)
from cakework.server.store.models import VmRow

from .function_node import FunctionNode, Loaded, source
from .rig import Json, events, eventually, running, settings_for, until
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio

PRINTS = """\
import sys, threading, time
print("imported")
def handler(event, context):
    data = event["data"]
    print("begin", data["say"])
    print("fault", data["say"], file=sys.stderr)
    if data.get("later"):
        threading.Timer(data["later"], lambda: print("between", data["say"])).start()
    time.sleep(data.get("wait", 0))
    for n in range(data.get("lines", 0)):
        print(data["say"], n)
    if data.get("exit"):
        print("last words")
        import os
        os._exit(3)
    if data.get("fail"):
        raise ValueError("no " + data["say"])
    print("end", end="")
"""
MAX_LINES = 50


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow it is here, a call waits until the last lines are there."""
    monkeypatch.setattr(logs, "WHOLE_S", 60.0)


@contextlib.asynccontextmanager
async def bounded(
    folder: Path, node: FunctionNode, database_url: str | None, concurrency: int = 1
) -> AsyncGenerator[Functions]:
    """A server that keeps few lines of an attempt."""
    settings = settings_for(folder, database_url, max_log_lines_per_attempt=MAX_LINES)
    async with running(settings, node) as rig:

        async def loaded(vm_id: str) -> Loaded:
            async with rig.server.database.reading() as session:
                row = await session.scalar(select(VersionRow).where(VersionRow.vm_id == vm_id))
            assert row is not None
            return Loaded(row.entry, "", concurrency)

        node.loaded = loaded
        yield Functions(rig, node)


@pytest.fixture
async def functions(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> AsyncGenerator[Functions]:
    async with bounded(folder, hosting, database_url) as made:
        yield made


async def log_of(functions: Functions, invocation: Json, **params: Any) -> Json:
    """Return an invocation's log."""
    path = f"/v1/invocations/{invocation['id']}/logs"
    return await functions.rig.ok("GET", path, params=params)


def said(log: Json) -> list[str]:
    return [line["message"] for line in log["lines"]]


async def said_by_function(functions: Functions, function_id: str, count: int) -> list[Json]:
    """Return the lines of a function's log when there are so many."""
    path = f"/v1/functions/{function_id}/logs"

    async def look() -> list[Json] | None:
        lines = (await functions.rig.ok("GET", path, params={"batch": 1000}))["lines"]
        return lines if len(lines) >= count else None

    return await eventually(look, f"{count} lines of the function")


@pytest.mark.contract("getInvocationLogs")
async def test_right_after_the_answer_all_lines_are_there(functions: Functions) -> None:
    """Also what was not ended as a line; and none of those before and after."""
    function_id = await functions.made(PRINTS)
    for number in range(3):
        invocation = await functions.invoke(function_id, {"say": f"call {number}"})
        log = await log_of(functions, invocation)
        assert sorted(said(log)) == sorted([f"begin call {number}", f"fault call {number}", "end"])
        assert log["complete"] is True
        assert {
            (line["invocationId"], line["attempt"], line["version"], line["vmId"])
            for line in log["lines"]
        } == {(invocation["id"], 1, 1, invocation["attempts"][0]["vmId"])}
        levels = {line["message"]: line["level"] for line in log["lines"]}
        assert levels[f"fault call {number}"] == "error"
    lines = await said_by_function(functions, function_id, 10)
    assert [line["id"] for line in lines] == list(range(1, 11))
    assert (lines[0]["message"], lines[0].get("invocationId")) == ("imported", None)
    assert lines[0]["version"] == 1


async def test_a_call_waits_for_the_last_lines_and_says_so_where_they_did_not_come(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the caller waits for no mark."""
    function_id = await functions.made(PRINTS)
    functions.node.marks_at_once = 1
    invocation = await functions.invoke(function_id, {"say": "one"})
    assert invocation["state"] == "succeeded"
    with monkeypatch.context() as impatient:
        impatient.setattr(logs, "WHOLE_S", 0.0)
        assert (await log_of(functions, invocation))["complete"] is False
    waiting = asyncio.create_task(log_of(functions, invocation))
    await until(lambda: len(functions.node.marks) == 2, "its end is to be marked")
    for _ in range(10):
        # Calls that came later are answered meanwhile.
        await functions.rig.ok("GET", f"/v1/invocations/{invocation['id']}")
    assert not waiting.done()
    functions.node.may_mark_more.set()
    log = await waiting
    assert (sorted(said(log)), log["complete"]) == (["begin one", "end", "fault one"], True)


async def test_what_is_printed_between_invocations_is_of_none(functions: Functions) -> None:
    function_id = await functions.made(PRINTS, settings={"maxInstances": 1})
    first = await functions.invoke(function_id, {"say": "one", "later": 0.3})
    lines = await said_by_function(functions, function_id, 5)
    second = await functions.invoke(function_id, {"say": "two"})
    assert "between one" not in said(await log_of(functions, first))
    assert sorted(said(await log_of(functions, second))) == ["begin two", "end", "fault two"]
    by = {line["message"]: line.get("invocationId") for line in lines}
    assert (by["between one"], by["begin one"]) == (None, first["id"])
    # It serves on: what it prints makes nobody end it.
    assert second["attempts"][0]["vmId"] == first["attempts"][0]["vmId"]


async def test_text_that_looks_like_anothers_stays_text(functions: Functions) -> None:
    """Nothing that a program prints makes a line of its own another invocation's."""
    function_id = await functions.made(PRINTS)
    first = await functions.invoke(function_id, {"say": "one"})
    forged = f'{{"invocationId": "{first["id"]}"}}\x1b_cakework;{first["id"]};1\x1b\\'
    second = await functions.invoke(function_id, {"say": forged})
    assert len(said(await log_of(functions, first))) == 3
    log = await log_of(functions, second)
    assert f"begin {forged}" in said(log)
    assert {line["invocationId"] for line in log["lines"]} == {second["id"]}


async def test_each_attempt_has_its_lines(functions: Functions) -> None:
    """Of an instance that crashed, all that it printed to its end; over several instances."""
    retry = {"retry": {"minDelay": 1, "factor": 1, "maxAttempts": 2}}
    function_id = await functions.made(PRINTS, settings=retry)
    await functions.invoke(function_id, {"say": "warm"})
    queued = await functions.queue(function_id, {"say": "die", "exit": True})
    ended = await functions.settled(queued["id"])
    assert (ended["state"], ended["reason"], ended["attempt"]) == ("failed", "crash", 2)
    log = await log_of(functions, ended)
    assert log["complete"] is True
    for attempt in (1, 2):
        mine = [line for line in log["lines"] if line["attempt"] == attempt]
        assert {"begin die", "last words"} <= {line["message"] for line in mine}
    assert [line["attempt"] for line in log["lines"]] == sorted(
        line["attempt"] for line in log["lines"]
    )
    # A page at a time it is the same, from either end.
    for order in ("oldest_first", "newest_first"):
        found: list[int] = []
        params: Json = {"batch": 50, "order": order}
        while True:
            page = await log_of(functions, ended, **params)
            found += [line["id"] for line in page["lines"]]
            if "pagination" not in page:
                break
            params["pagination"] = page["pagination"]
        ids = [line["id"] for line in log["lines"]]
        assert found == (ids if order == "oldest_first" else ids[::-1])


async def test_pages_and_searches_go_over_all_attempts(functions: Functions) -> None:
    retry = {"retry": {"minDelay": 1, "factor": 1, "maxAttempts": 2}}
    function_id = await functions.made(PRINTS, settings=retry)
    data = {"say": "loud", "lines": 40, "fail": True}
    ended = await functions.settled((await functions.queue(function_id, data))["id"])
    first = await log_of(functions, ended, batch=50)
    assert len(first["lines"]) == 50
    second = await log_of(functions, ended, batch=50, pagination=first["pagination"])
    whole = await log_of(functions, ended, batch=1000)
    assert [*first["lines"], *second["lines"]] == whole["lines"]
    found = await log_of(functions, ended, query="LOUD 3")
    assert said(found) == [f"loud {n}" for n in (3, *range(30, 40))] * 2
    newest = await log_of(functions, ended, order="newest_first", batch=1000)
    assert newest["lines"] == whole["lines"][::-1]
    other = await functions.invoke(function_id, {"say": "other"})
    path = f"/v1/invocations/{other['id']}/logs"
    await functions.rig.refused(
        400, "GET", path, params={"batch": 50, "pagination": first["pagination"]}
    )


async def test_of_a_loud_attempt_the_first_lines_are_kept(functions: Functions) -> None:
    """And a line says so; those of the invocations around it are all there."""
    function_id = await functions.made(PRINTS, settings={"maxInstances": 1})
    first = await functions.invoke(function_id, {"say": "first", "lines": 10})
    loud = await functions.invoke(function_id, {"say": "loud", "lines": 500})
    last = await functions.invoke(function_id, {"say": "last", "lines": 10})
    kept = await log_of(functions, loud, batch=1000)
    assert len(kept["lines"]) == MAX_LINES + 1
    assert kept["lines"][-1]["message"].startswith("[cakework: more than 50 lines")
    assert kept["complete"] is True
    for quiet in (first, last):
        assert len(said(await log_of(functions, quiet))) == 13
    assert len({each["attempts"][0]["vmId"] for each in (first, loud, last)}) == 1


async def test_lines_are_right_when_another_server_takes_an_attempt_up(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    """Where it began was written while it ran; its end is marked by whoever sees to it."""
    async with bounded(folder, hosting, database_url) as functions:
        function_id = await functions.made(PRINTS)
        before = await functions.invoke(function_id, {"say": "before"})
        queued = await functions.queue(function_id, {"say": "long", "wait": 3})
        await said_by_function(functions, function_id, 6)
    async with served(folder, hosting, database_url) as functions:
        ended = await functions.settled(queued["id"])
        assert (ended["state"], ended["attempt"]) == ("succeeded", 1)
        log = await log_of(functions, ended)
        assert sorted(said(log)) == ["begin long", "end", "fault long"]
        assert log["complete"] is True
        assert sorted(said(await log_of(functions, before)))[0] == "begin before"
        assert len(said(await log_of(functions, before))) == 3


async def test_lines_are_right_where_a_begin_was_never_written(functions: Functions) -> None:
    """As after a process that was killed in the first moments of an attempt: what was printed
    between it and the attempt before is none's, by the time; what was before stays the other's."""
    function_id = await functions.made(PRINTS, settings={"maxInstances": 1})
    first = await functions.invoke(function_id, {"say": "one", "later": 0.3})
    await said_by_function(functions, function_id, 5)
    second = await functions.invoke(function_id, {"say": "two"})
    await log_of(functions, second)
    async with functions.rig.server.database.writing() as session:
        which = AttemptRow.invocation_id == second["id"]
        await session.execute(update(AttemptRow).where(which).values(first_line=None))
    assert sorted(said(await log_of(functions, second))) == ["begin two", "end", "fault two"]
    assert sorted(said(await log_of(functions, first))) == ["begin one", "end", "fault one"]
    lines = await said_by_function(functions, function_id, 8)
    between = next(line for line in lines if line["message"] == "between one")
    assert "invocationId" not in between


async def test_an_instance_that_cannot_be_marked_serves_no_more(functions: Functions) -> None:
    """The attempt's lines are all that it printed to its end, and nobody else's."""
    function_id = await functions.made(PRINTS)
    functions.node.may_mark = False
    first = await functions.invoke(function_id, {"say": "one"})
    functions.node.may_mark = True
    second = await functions.invoke(function_id, {"say": "two"})
    assert second["attempts"][0]["vmId"] != first["attempts"][0]["vmId"]
    log = await log_of(functions, first)
    assert {"begin one", "fault one"} <= set(said(log))
    assert sorted(said(await log_of(functions, second))) == ["begin two", "end", "fault two"]


async def test_lines_of_invocations_at_once_are_none_s_where_it_cannot_be_told(
    folder: Path, hosting: FunctionNode
) -> None:
    """What was printed while one ran alone is its own."""
    async with bounded(folder, hosting, None, concurrency=2) as functions:
        settings = {"concurrency": 2, "maxInstances": 1}
        function_id = await functions.made(PRINTS, settings=settings)
        alone = await functions.invoke(function_id, {"say": "alone"})
        long = await functions.queue(function_id, {"say": "long", "wait": 2})
        await said_by_function(functions, function_id, 6)
        short = await functions.invoke(function_id, {"say": "short"})
        ended = await functions.settled(long["id"])
        assert ended["attempts"][0]["vmId"] == short["attempts"][0]["vmId"]
        lines = await said_by_function(functions, function_id, 10)
        by = {line["message"]: line.get("invocationId") for line in lines}
        assert (by["begin long"], by["begin short"]) == (long["id"], None)
        assert said(await log_of(functions, short)) == []
        assert sorted(said(await log_of(functions, alone))) == ["begin alone", "end", "fault alone"]
        assert "begin long" in said(await log_of(functions, ended))


async def test_an_invocation_is_followed_to_its_end(functions: Functions) -> None:
    """Over its attempts, whichever instance they run in; from behind any line of it."""
    retry = {"retry": {"minDelay": 1, "factor": 1, "maxAttempts": 2}}
    function_id = await functions.made(PRINTS, settings=retry)
    queued = await functions.queue(function_id, {"say": "x", "wait": 0.3, "fail": True})
    path = f"/v1/invocations/{queued['id']}/logs"
    client = functions.rig.client
    async with client.stream("GET", path, params={"follow": "true"}) as response:
        told = [event async for event in events(response) if event.name != "comment"]
    assert told[-1].name == "end"
    followed = [event.id for event in told[:-1]]
    whole = await log_of(functions, queued, batch=1000)
    assert followed == [str(line["id"]) for line in whole["lines"]]
    assert {line["attempt"] for line in whole["lines"]} == {1, 2}
    headers = {"Last-Event-ID": str(followed[1])}
    async with client.stream("GET", path, params={"follow": "true"}, headers=headers) as response:
        again = [event.id async for event in events(response) if event.name != "comment"]
    assert again[:-1] == followed[2:]


@pytest.mark.contract("getFunctionLogs")
async def test_a_function_is_followed_over_instances_that_start_later(functions: Functions) -> None:
    function_id = await functions.made(PRINTS)
    path = f"/v1/functions/{function_id}/logs"
    seen: list[str] = []
    begun = asyncio.Event()

    async def follow() -> str:
        async with functions.rig.client.stream("GET", path, params={"follow": "true"}) as response:
            async for event in events(response):
                begun.set()
                if event.name == "end":
                    return "end"
                if event.name == "message":
                    seen.append(event.message)
        return "broken off"

    following = asyncio.create_task(follow())
    await begun.wait()
    await functions.invoke(function_id, {"say": "one"})
    await functions.rig.ok(
        "POST", f"/v1/functions/{function_id}/versions", json={"source": source(PRINTS + "\n#2\n")}
    )
    await functions.ended(function_id, 2, "ready")
    second = await functions.invoke(function_id, {"say": "two"})
    assert second["version"] == 2
    await until(lambda: seen.count("imported") == 2 and seen.count("end") == 2, "all is seen")
    assert seen.index("begin one") < seen.index("begin two")
    lines = await said_by_function(functions, function_id, 8)
    assert [line["message"] for line in lines] == seen
    versions = {line["message"]: line["version"] for line in lines if "begin" in line["message"]}
    assert versions == {"begin one": 1, "begin two": 2}
    following.cancel()


async def test_logs_of_another_account_are_not_found(functions: Functions) -> None:
    function_id = await functions.made(PRINTS)
    invocation = await functions.invoke(function_id, {"say": "mine"})
    async with await functions.rig.other_account() as theirs:
        for path in (
            f"/v1/functions/{function_id}/logs",
            f"/v1/invocations/{invocation['id']}/logs",
        ):
            for params in ({}, {"follow": "true"}):
                response = await theirs.get(path, params=params)
                assert response.status_code == 404, (path, response.text)
                assert "mine" not in response.text


async def test_a_log_outlives_its_instances_record_and_goes_with_its_time(
    functions: Functions,
) -> None:
    function_id = await functions.made(PRINTS)
    invocation = await functions.invoke(function_id, {"say": "kept"})
    await log_of(functions, invocation)
    vm_id = invocation["attempts"][0]["vmId"]
    rig, now = functions.rig, now_ms()
    async with rig.server.database.writing() as session:
        await session.execute(
            update(InstanceRow).where(InstanceRow.vm_id == vm_id).values(state="draining")
        )

    async def destroyed() -> bool:
        async with rig.server.database.reading() as session:
            row = await session.get(VmRow, vm_id)
        return row is None or row.state == VmState.DESTROYED

    await eventually(destroyed, "the instance is gone")
    days = KeptDays(logs=5, stopped=1, vms=1, builds=1, deliveries=1)
    await rig.retain(days, now + 2 * DAY_MS)
    async with rig.server.database.reading() as session:
        assert await session.get(VmRow, vm_id) is None
    assert len(said(await log_of(functions, invocation))) == 3
    await rig.retain(days, now + 7 * DAY_MS)
    assert said(await log_of(functions, invocation)) == []
    async with rig.server.database.reading() as session:
        assert await session.get(FunctionVmRow, vm_id) is None
    # The function is still there, and no number of its log is given twice.
    assert await rig.server.log_store.last_seq(vm_source(vm_id)) == 0
    assert await rig.server.log_store.last_seq(function_source(function_id)) > 0


async def test_no_function_has_records_of_instances_without_end(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come and go, within the time for which logs are kept."""
    monkeypatch.setattr(retention, "FUNCTION_VMS_MAX", 3)
    rig, function_id = functions.rig, await functions.made(PRINTS)
    made = [
        FunctionVmRow(vm_id=f"{n:014}", function_id=function_id, version=1, created_ms=now_ms() + n)
        for n in range(10)
    ]
    names = [row.vm_id for row in made]
    async with rig.server.database.writing() as session:
        session.add_all(made)
    await rig.retain(KeptDays(logs=0, stopped=0, vms=0, builds=0, deliveries=0), now_ms())
    async with rig.server.database.reading() as session:
        left = set(await session.scalars(select(FunctionVmRow.vm_id)))
    assert left & set(names) == set(names[-3:])
    assert left - set(names), "what is on record stays"
