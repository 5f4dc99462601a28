"""Which instances there are, and what they serve: begun at once, in turns, within what there is."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from cakework.server.functions import attempts as attempts_module
from cakework.server.functions import instances as instances_module
from cakework.server.functions.dispatch import DispatchLoop
from cakework.server.functions.instances import Instances
from cakework.server.store.function_models import (
    AttemptRow,
    InstanceRow,
    InstanceState,
    InvocationRow,
)

from .function_node import FunctionNode
from .rig import Json, eventually, settings_for, until
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio

GATED = """\
import time
from pathlib import Path
folder = Path({folder!r})
def handler(event, context):
    (folder / f"began-{{event['data']}}").touch()
    while not (folder / f"go-{{event['data']}}").exists():
        time.sleep(0.005)
    return event["data"]
"""


@pytest.fixture
async def functions(folder: Path, tmp_path: Path, anyio_backend: str) -> AsyncGenerator[Functions]:
    """A server on SQLite, with a node that starts adapters."""
    node = FunctionNode(settings_for(folder, None), tmp_path)
    async with node.hosting(), served(folder, node, None) as made:
        yield made


def no_dispatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the loop start nothing from now on."""

    async def nothing(_: DispatchLoop) -> None:
        return None

    monkeypatch.setattr(DispatchLoop, "_start_due", nothing)


def vm_of(invocation: Json) -> str:
    return invocation["attempts"][-1]["vmId"]


async def gone(functions: Functions, vm_id: str) -> None:
    await until(lambda: vm_id not in functions.node.hosted, "the instance is gone")


async def test_a_call_that_finds_an_instance_free_is_begun_as_it_is_taken(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the loop; and the next one as well."""
    function_id = await functions.made()
    first = await functions.invoke(function_id)
    no_dispatch(monkeypatch)
    for calls in (2, 3):
        again = await functions.invoke(function_id)
        assert (again["result"]["calls"], vm_of(again)) == (calls, vm_of(first))
        assert await functions.rig.ok("GET", f"/v1/invocations/{again['id']}") == again


@pytest.mark.parametrize("soon_s", [600.0, 0.0])
async def test_a_call_waits_a_moment_for_the_place_of_one_that_was_answered(
    functions: Functions, monkeypatch: pytest.MonkeyPatch, soon_s: float
) -> None:
    """Whose lines are not marked yet; when that takes too long, it has an instance started."""
    monkeypatch.setattr(attempts_module, "SOON_S", soon_s)
    function_id = await functions.made()
    functions.node.marks_at_once = len(functions.node.marks) + 1
    first = await functions.invoke(function_id)
    assert first["state"] == "succeeded"
    asked = asyncio.Event()
    coming = Instances.coming

    def counted(*given: Any) -> int:
        asked.set()
        return coming(*given)

    monkeypatch.setattr(Instances, "coming", counted)
    second = await functions.queue(function_id)
    await asked.wait()
    if soon_s:
        functions.node.may_mark_more.set()
    else:
        await until(lambda: len(functions.node.hosted) == 2, "another is started")
        functions.node.may_mark_more.set()
    ended = await functions.settled(second["id"])
    if soon_s:
        assert (ended["result"]["calls"], vm_of(ended)) == (2, vm_of(first))
        assert list(functions.node.hosted) == [vm_of(first)]


async def test_no_call_is_begun_before_one_that_waits(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    function_id = await functions.made()
    await functions.invoke(function_id)
    no_dispatch(monkeypatch)
    waits = await functions.queue(function_id)
    late = await functions.invoke(function_id, wait=0.1)
    assert (late["state"], late["attempts"]) == ("queued", [])
    monkeypatch.undo()
    ended = [await functions.settled(each["id"]) for each in (waits, late)]
    begun = [each["result"]["calls"] for each in ended]
    assert begun == [2, 3]


async def test_what_is_to_come_later_keeps_nobody_waiting(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    function_id = await functions.made()
    await functions.invoke(function_id)
    no_dispatch(monkeypatch)
    await functions.queue(function_id, delay=600)
    assert (await functions.invoke(function_id))["result"]["calls"] == 2


async def drains(functions: Functions) -> None:
    """Return when an instance that is at work takes no more."""

    async def look() -> bool:
        rows = await functions.instances()
        return any(row.state == InstanceState.DRAINING and row.running for row in rows)

    await eventually(look, "an instance makes way")


async def test_one_who_floods_does_not_keep_another_from_starting(
    functions: Functions, tmp_path: Path
) -> None:
    """An instance of the one's makes way after its attempt, where there may be no more."""
    code = GATED.format(folder=str(tmp_path))
    function_id = await functions.made(code, settings={"maxInstances": 1})
    many = [await functions.queue(function_id, n, userId="floods") for n in range(4)]
    await until((tmp_path / "began-0").exists, "the first runs")
    other = await functions.queue(function_id, "other", userId="other")
    await drains(functions)
    for name in ("go-0", "go-other"):
        (tmp_path / name).touch()
    assert (await functions.settled(other["id"]))["state"] == "succeeded"
    for n in range(1, 4):
        (tmp_path / f"go-{n}").touch()
    ended = [await functions.settled(each["id"]) for each in many]
    assert {each["state"] for each in ended} == {"succeeded"}


async def test_instances_are_left_after_so_many_invocations_or_so_long(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances_module, "SERVED_MAX", 2)
    function_id = await functions.made()
    ended = [await functions.invoke(function_id) for _ in range(3)]
    assert [each["result"]["calls"] for each in ended] == [1, 2, 1]
    await gone(functions, vm_of(ended[0]))
    async with functions.rig.server.database.writing() as session:
        await session.execute(update(InstanceRow).values(until_ms=1))
    assert (await functions.invoke(function_id))["result"]["calls"] == 1
    await gone(functions, vm_of(ended[2]))


async def test_instances_of_other_settings_go_when_they_are_idle(functions: Functions) -> None:
    function_id = await functions.made()
    first = await functions.invoke(function_id)
    patch = {"envVars": {"REGION": "us"}}
    await functions.rig.ok("PATCH", f"/v1/functions/{function_id}", json={"settings": patch})
    await gone(functions, vm_of(first))
    assert (await functions.invoke(function_id))["result"]["calls"] == 1


async def test_an_instance_is_kept_warm_and_others_go_when_they_are_idle(
    functions: Functions, tmp_path: Path
) -> None:
    settings = {"minInstances": 1, "idleTimeout": 1, "maxInstances": 2}
    function_id = await functions.made(GATED.format(folder=str(tmp_path)), settings=settings)

    async def idle() -> list[InstanceRow]:
        rows = await functions.instances()
        return [row for row in rows if row.state == InstanceState.IDLE]

    assert len(await eventually(idle, "one is there before anybody asks")) == 1
    queued = [await functions.queue(function_id, n) for n in range(2)]
    await until(lambda: len(list(tmp_path.glob("began-*"))) == 2, "both run at once")
    for n in range(2):
        (tmp_path / f"go-{n}").touch()
    vms = {vm_of(await functions.settled(each["id"])) for each in queued}

    async def one_left() -> bool:
        return len(vms & functions.node.hosted.keys()) == 1

    await eventually(one_left, "one has gone")
    assert [row.vm_id in vms for row in await idle()] == [True]


async def test_as_many_are_kept_warm_as_are_to_be(functions: Functions) -> None:
    """One that has ended is replaced, also while another waits for work."""
    function_id = await functions.made(settings={"minInstances": 2})

    async def both() -> set[str] | None:
        rows = await functions.instances()
        idle = {row.vm_id for row in rows if row.state == InstanceState.IDLE}
        return idle if len(idle) == len(rows) == 2 else None

    first, second = sorted(await eventually(both, "two are there"))
    await functions.node.kill(first)

    async def replaced() -> bool:
        found = await both()
        return found is not None and first not in found

    await eventually(replaced, "two are there again")
    assert second in functions.node.hosted
    assert (await functions.invoke(function_id))["state"] == "succeeded"


async def test_what_cannot_be_begun_ends_no_instance(functions: Functions) -> None:
    """Those that are kept warm serve on."""
    function_id = await functions.made(settings={"minInstances": 3})

    async def warm() -> set[str] | None:
        rows = await functions.instances()
        idle = {row.vm_id for row in rows if row.state == InstanceState.IDLE}
        return idle if len(idle) == 3 else None

    vms = await eventually(warm, "three are there")
    bad = (await functions.queue(function_id, delay=600))["id"]
    database = functions.rig.server.database
    async with database.writing() as session:
        # An attempt of this number is there already, which there should not be.
        there = AttemptRow(
            invocation_id=bad, attempt=1, version=1, vm_id="", start="fork", started_ms=0
        )
        session.add(there)
        await session.execute(
            update(InvocationRow).where(InvocationRow.id == bad).values(next_ms=1)
        )

    async def put_off() -> bool:
        async with database.reading() as session:
            row = await session.get(InvocationRow, bad)
        return row is not None and row.next_ms > row.created_ms

    await eventually(put_off, "it is put off")
    done = [await functions.invoke(function_id) for _ in range(3)]
    assert {each["state"] for each in done} == {"succeeded"}
    assert vms <= functions.node.hosted.keys()
    assert {row.vm_id for row in await functions.instances()} == vms


async def test_several_run_at_once_in_one_instance(functions: Functions, tmp_path: Path) -> None:
    settings = {"concurrency": 2, "maxInstances": 1}
    function_id = await functions.made(GATED.format(folder=str(tmp_path)), settings=settings)
    queued = [await functions.queue(function_id, n) for n in range(3)]
    await until(lambda: len(list(tmp_path.glob("began-*"))) == 2, "two run at once")
    rows = await functions.instances()
    assert [row.running for row in rows] == [2]
    for n in range(3):
        (tmp_path / f"go-{n}").touch()
    ended = [await functions.settled(each["id"]) for each in queued]
    assert len({vm_of(each) for each in ended}) == 1


async def test_idle_instances_make_room(functions: Functions) -> None:
    """For another function's, the one used longest ago first; for a VM of the account's, too."""
    ids = [await functions.made(name=name) for name in ("a", "b", "c")]
    old, new = [vm_of(await functions.invoke(each)) for each in ids[:2]]
    functions.node.full_after = 2
    third = await functions.invoke(ids[2])
    assert third["state"] == "succeeded"
    assert old not in functions.node.hosted
    assert new in functions.node.hosted
    vm = await functions.rig.vm(functions.node.vm_orders[-1].image_id)
    assert vm["state"] == "started"
    assert new not in functions.node.hosted
    assert vm_of(third) in functions.node.hosted


async def test_work_of_more_functions_than_there_is_room_for_is_all_done(
    functions: Functions,
) -> None:
    ids = [await functions.made(name=f"f{n}") for n in range(5)]
    functions.node.full_after = 2
    queued = [await functions.queue(each, n) for n in range(4) for each in ids]
    ended = [await functions.settled(each["id"]) for each in queued]
    assert {(each["state"], each["attempt"]) for each in ended} == {("succeeded", 1)}


async def test_functions_take_turns_where_room_is_short(
    functions: Functions, tmp_path: Path
) -> None:
    """The one that has all of it, and enough to do, gives some up after the attempt that runs."""
    greedy = await functions.made(GATED.format(folder=str(tmp_path)), name="greedy")
    other = await functions.made(name="other")
    functions.node.full_after = 2
    many = [await functions.queue(greedy, n) for n in range(6)]
    await until(lambda: len(list(tmp_path.glob("began-*"))) == 2, "it has all room")
    first = await functions.queue(other)
    await drains(functions)
    for n in range(2):
        (tmp_path / f"go-{n}").touch()
    assert (await functions.settled(first["id"]))["state"] == "succeeded"
    for n in range(2, 6):
        (tmp_path / f"go-{n}").touch()
    ended = [await functions.settled(each["id"]) for each in many]
    assert {each["state"] for each in ended} == {"succeeded"}


async def test_an_instance_that_was_given_work_meanwhile_does_not_go(
    functions: Functions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen idle a moment ago may be at work."""
    function_id = await functions.made(GATED.format(folder=str(tmp_path)))
    queued = await functions.queue(function_id, 1)
    await until((tmp_path / "began-1").exists, "it runs")
    (row,) = await functions.instances()
    looked = asyncio.Event()

    def seen(_: Instances, _session: Any) -> list[str]:
        looked.set()
        return [row.vm_id]

    monkeypatch.setattr(Instances, "_unneeded", seen)
    await looked.wait()
    looked.clear()
    await looked.wait()
    (tmp_path / "go-1").touch()
    ended = await functions.settled(queued["id"])
    assert (ended["state"], ended["attempt"]) == ("succeeded", 1), ended


async def test_work_for_a_function_that_is_gone_ends(functions: Functions) -> None:
    """However it came to be recorded."""
    function_id = await functions.made()
    row = await functions.queue(function_id, delay=600)
    async with functions.rig.server.database.writing() as session:
        changes = {"function_id": "fn_" + "0" * 26, "next_ms": 1}
        await session.execute(
            update(InvocationRow).where(InvocationRow.id == row["id"]).values(**changes)
        )
    ended = await functions.settled(row["id"])
    assert (ended["state"], ended["reason"]) == ("canceled", "function_deleted")


async def test_an_instance_whose_place_nobody_freed_goes(functions: Functions) -> None:
    """Its server was killed after it had settled the attempt."""
    function_id = await functions.made()
    first = await functions.invoke(function_id)
    async with functions.rig.server.database.writing() as session:
        busy = {"state": InstanceState.BUSY, "running": 1, "used_ms": 1}
        await session.execute(update(InstanceRow).values(**busy))
    await gone(functions, vm_of(first))
    assert (await functions.invoke(function_id))["result"]["calls"] == 1


async def test_an_attempt_that_never_reached_its_handler_is_begun_again(
    functions: Functions,
) -> None:
    """With the same number, and nobody's work waits behind it."""
    function_id = await functions.made()
    first = await functions.invoke(function_id)
    functions.node.hosted[vm_of(first)].ports[8079] = 1
    again = await functions.invoke(function_id)
    assert (again["state"], again["attempt"], again["result"]["calls"]) == ("succeeded", 1, 1)
    assert len(again["attempts"]) == 1
