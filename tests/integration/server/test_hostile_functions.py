"""An account that means ill: what its functions hold up of others, and take of what is everybody's.

What takes long is held here by the test, where a hostile account would have code that does."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from cakework.domain.functions import FunctionSettings
from cakework.domain.ids import AccountId, InvocationId
from cakework.server import clock as server_clock
from cakework.server.functions import changes, invocations
from cakework.server.functions.adapter import Adapter, Answer
from cakework.server.functions.dispatch import STARTS_AT_ONCE
from cakework.server.functions.instances import Instances
from cakework.server.functions.invocations import InvocationFilter
from cakework.server.logs.followers import Followers
from cakework.server.store.function_models import (
    FunctionRow,
    InstanceRow,
    InvocationRow,
    VersionRow,
)

from .function_node import FunctionNode
from .rig import eventually, until
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio


@pytest.fixture
async def functions(folder: Path, hosting: FunctionNode) -> AsyncGenerator[Functions]:
    async with served(folder, hosting, None) as made:
        yield made


async def test_starts_that_never_end_hold_up_their_account_alone(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, with an end user each."""
    rig = functions.rig
    hostile = await functions.made(settings={"maxInstances": 200})
    held: list[str] = []
    start = Instances.start

    async def slow(self: Instances, row: InstanceRow, settings: FunctionSettings) -> None:
        if row.function_id == hostile:
            held.append(row.vm_id)
            await asyncio.Event().wait()
        await start(self, row, settings)

    monkeypatch.setattr(Instances, "start", slow)
    for number in range(STARTS_AT_ONCE + 4):
        await functions.queue(hostile, userId=f"user-{number}")

    async def begun() -> bool:
        return len(held) >= STARTS_AT_ONCE // 2

    await eventually(begun, "as many start as may")
    async with await rig.other_account() as theirs:
        mine, rig.client = rig.client, theirs
        other = await functions.made(name="theirs")
        assert (await functions.invoke(other))["state"] == "succeeded"
        rig.client = mine
    assert len(held) == STARTS_AT_ONCE // 2


async def test_who_waits_in_great_numbers_asks_the_store_as_one(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is told all the same of what another process has ended."""
    monkeypatch.setattr(invocations, "LOOK_S", 0.05)
    function_id = await functions.made()
    waits = await functions.queue(function_id, delay=3600)
    server = functions.rig.server
    asked = 0

    def heard(_c: object, _u: object, statement: str, *_: object) -> None:
        nonlocal asked
        asked += "FROM invocations" in statement and "WHERE invocations.id" in statement

    for engine in server.database.engines:
        event.listen(engine, "before_cursor_execute", heard)
    account, invocation_id = AccountId("default"), InvocationId(waits["id"])
    wait = server.functions.invocations.wait
    rows = await asyncio.gather(*(wait(account, invocation_id, 1.0) for _ in range(40)))
    assert {row.state for row in rows} == {"queued"}
    assert asked <= 2 * 40 + 1.0 / 0.025
    waiting = asyncio.gather(*(wait(account, invocation_id, 60.0) for _ in range(3)))
    async with server.database.writing() as session:
        row = await session.get_one(InvocationRow, invocation_id)
        row.state, row.ended_ms = "canceled", row.created_ms
    assert {row.state for row in await waiting} == {"canceled"}


async def test_many_who_follow_what_does_not_change_look_once(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each is told what changes."""
    monkeypatch.setattr(changes, "LOOK_S", 0.05)
    function_id = await functions.made()
    server = functions.rig.server
    made = changes.Changes(
        server.database, server.functions.invocations, Followers(), server_clock.now_ms
    )
    count, asked, quiet = 20, 0, 0
    told: list[set[str]] = [set() for _ in range(count)]

    def heard(_c: object, _u: object, statement: str, *_: object) -> None:
        nonlocal asked
        asked += "ORDER BY invocations.updated_ms" in statement

    async def follow(mine: set[str]) -> None:
        nonlocal quiet
        account, every = AccountId("default"), InvocationFilter()
        async for found in made.follow(account, every, None, 1000, heartbeat_s=0.5):
            if found == "quiet":
                quiet += 1
            elif not isinstance(found, int):
                mine |= {each.row.id for each in found}

    following = [asyncio.create_task(follow(mine)) for mine in told]
    for engine in server.database.engines:
        event.listen(engine, "before_cursor_execute", heard)
    await until(lambda: quiet >= 2 * count, "all have looked many times")
    # Each as it began, and the first time.
    assert asked <= 2 * count
    waits = await functions.queue(function_id, delay=3600)
    await until(lambda: all(waits["id"] in mine for mine in told), "all are told")
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)


async def test_settings_are_read_once_however_many_functions_are_looked_at(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each second all that is live is; to read 64 KiB of variables takes a millisecond."""
    code = "import os\ndef handler(event, context):\n    return os.environ['A']\n"
    function_id = await functions.made(code, settings={"envVars": {"A": "1"}})
    server, read = functions.rig.server, 0
    look, settings = FunctionSettings.model_validate, {"envVars": {"A": "2"}}

    def counted(*args: Any, **more: Any) -> FunctionSettings:
        nonlocal read
        read += 1
        return look(*args, **more)

    monkeypatch.setattr(FunctionSettings, "model_validate", counted)
    for _ in range(20):
        await server.functions.deploys.one_pass()
    assert read <= 1
    await functions.rig.ok("PATCH", f"/v1/functions/{function_id}", json={"settings": settings})
    assert (await functions.invoke(function_id))["result"] == "2"

    async def made() -> bool:
        async with server.database.reading() as session:
            version = await session.get_one(VersionRow, (function_id, 1))
            function = await session.get_one(FunctionRow, function_id)
        return version.made_with == server.functions.functions.settings(function).made_with

    await eventually(made, "the snapshot is of the new settings")


async def test_an_answer_that_waits_to_be_read_came_in_time(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long others of the account keep it waiting, with what is large of theirs."""
    turn, waits = asyncio.Event(), asyncio.Event()
    read = Adapter._read  # pyright: ignore[reportPrivateUsage]

    async def in_turn(
        self: Adapter, line: bytes, account: str, checked: Callable[[Answer], Answer]
    ) -> Answer:
        waits.set()
        await turn.wait()
        return await read(self, line, account, checked)

    code = "def handler(event, context):\n    return 'in time'\n"
    function_id = await functions.made(code, settings={"timeout": 3})
    monkeypatch.setattr(Adapter, "_read", in_turn)
    taken = await functions.queue(function_id)
    await waits.wait()
    async with functions.rig.server.database.reading() as session:
        row = await session.get(InvocationRow, taken["id"])
    assert row is not None
    assert row.deadline_ms is not None
    deadline_ms = row.deadline_ms

    async def late() -> bool | None:
        return server_clock.now_ms() > deadline_ms + 200 or None

    await eventually(late, "its time is over")
    turn.set()
    found = await functions.settled(taken["id"])
    assert (found["state"], found["result"]) == ("succeeded", "in time")
    last = found["attempts"][-1]
    assert (last["attempt"], last["outcome"]) == (row.attempt, "succeeded")
    assert [each.vm_id for each in await functions.instances()] == [row.vm_id]
