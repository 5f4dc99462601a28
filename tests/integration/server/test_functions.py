"""Functions, from code to an answer: the server as it is, adapters as they are, a node in between
that starts these in the place of VMs."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import event, select, update
from sqlalchemy.engine import Engine

from cakework.domain.ids import VmId
from cakework.server.clock import Clock, now_ms
from cakework.server.functions.machines import FAILED_MS
from cakework.server.store.function_models import (
    FunctionRow,
    InstanceRow,
    InvocationRow,
    VersionRow,
)
from cakework.server.store.models import VmRow

from .function_node import FunctionNode, Loaded, source
from .rig import Json, Rig, eventually, running, settings_for, until

pytestmark = pytest.mark.anyio

COUNT = """\
import os
calls = 0
def handler(event, context):
    global calls
    calls += 1
    return {"calls": calls, "data": event.get("data"), "by": context.user_id}
"""


class Functions:
    """What tests do with functions."""

    def __init__(self, rig: Rig, node: FunctionNode) -> None:
        self.rig = rig
        self.node = node

    async def made(self, code: str = COUNT, **fields: Any) -> str:
        """Make a function with a version that is live; return its id."""
        body = {"name": "f", "runtime": "python3.11", "source": source(code), **fields}
        function = await self.rig.ok("POST", "/v1/functions", json=body)
        await self.ended(function["id"], 1, "ready")
        return function["id"]

    async def ended(self, function_id: str, number: int, state: str) -> Json:
        """Return a version when it is ready or failed, which must be ``state``."""
        for build_id in self.node.builds.copy():
            await self.node.succeed(build_id)

        async def look() -> Json | None:
            for build_id in self.node.builds.copy():
                await self.node.succeed(build_id)
            version = await self.rig.ok("GET", f"/v1/functions/{function_id}/versions/{number}")
            return version if version["state"] != "building" else None

        version = await eventually(look, f"version {number} is made")
        assert version["state"] == state, version
        return version

    async def invoke(self, function_id: str, data: Any = None, **fields: Any) -> Json:
        """Invoke and wait."""
        body = {"data": data, **fields}
        return await self.rig.ok("POST", f"/v1/functions/{function_id}/invoke", json=body)

    async def queue(self, function_id: str, data: Any = None, **fields: Any) -> Json:
        """Invoke without waiting."""
        body = {"data": data, "mode": "async", **fields}
        path = f"/v1/functions/{function_id}/invoke"
        response = await self.rig.client.post(path, json=body)
        assert response.status_code == 202, response.text
        return response.json()

    async def settled(self, invocation_id: str) -> Json:
        """Return an invocation when it has ended."""

        async def look() -> Json | None:
            path, params = f"/v1/invocations/{invocation_id}", {"wait": 20}
            found = await self.rig.ok("GET", path, params=params)
            return found if found["state"] not in ("queued", "running", "waiting") else None

        return await eventually(look, f"{invocation_id} has ended")

    async def instances(self) -> list[InstanceRow]:
        """Return what instances are on record."""
        async with self.rig.server.database.reading() as session:
            return list(await session.scalars(select(InstanceRow)))


@contextlib.asynccontextmanager
async def served(
    folder: Path, node: FunctionNode, database_url: str | None, clock: Clock = now_ms
) -> AsyncGenerator[Functions]:
    """Serve once more, on what is there."""
    async with running(settings_for(folder, database_url), node, clock) as rig:

        async def loaded(vm_id: str) -> Loaded:
            async with rig.server.database.reading() as session:
                row = await session.scalar(select(VersionRow).where(VersionRow.vm_id == vm_id))
                assert row is not None
                function = await session.get(FunctionRow, row.function_id)
            settings: dict[str, Any] = json.loads(function.settings) if function else {}
            return Loaded(row.entry, row.signature or "", settings.get("concurrency", 1))

        node.loaded = loaded
        yield Functions(rig, node)


@pytest.fixture
async def functions(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> AsyncGenerator[Functions]:
    async with served(folder, hosting, database_url) as made:
        yield made


async def test_code_becomes_an_answer(functions: Functions) -> None:
    """One instance serves one call after the other; each is on record with what it did."""
    function_id = await functions.made()
    first = await functions.invoke(function_id, {"n": 1})
    assert (first["state"], first["result"]) == (
        "succeeded",
        {"calls": 1, "data": {"n": 1}, "by": None},
    )
    assert [(a["attempt"], a["outcome"], a["start"]) for a in first["attempts"]] == [
        (1, "succeeded", "fork")
    ]
    second = await functions.invoke(function_id, {"n": 2})
    assert second["result"]["calls"] == 2
    assert second["attempts"][0]["start"] == "warm"
    found = await functions.rig.ok("GET", f"/v1/invocations/{second['id']}")
    assert found == second
    assert functions.rig.node.vm_orders[-1].fork_of is not None
    listed = await functions.rig.ok("GET", "/v1/invocations", params={"functionId": function_id})
    assert [each["id"] for each in listed["invocations"]] == [second["id"], first["id"]]


async def test_what_cannot_be_imported_fails_and_what_is_live_stays(functions: Functions) -> None:
    function_id = await functions.made()
    path = f"/v1/functions/{function_id}/versions"
    await functions.rig.ok("POST", path, json={"source": source("import nothing_there\n")})
    failed = await functions.ended(function_id, 2, "failed")
    assert "No module named 'nothing_there'" in failed["error"]
    assert 'File "' in failed["error"]
    assert (await functions.invoke(function_id))["version"] == 1
    assert (await functions.rig.ok("GET", f"/v1/functions/{function_id}"))["liveVersion"] == 1


async def test_a_new_version_takes_over_and_the_old_one_comes_back(functions: Functions) -> None:
    function_id = await functions.made()
    path = f"/v1/functions/{function_id}"
    code = "def handler(event, context):\n    return 'two'\n"
    await functions.rig.ok("POST", f"{path}/versions", json={"source": source(code)})
    await functions.ended(function_id, 2, "ready")
    assert (await functions.invoke(function_id))["result"] == "two"
    same = await functions.rig.ok("POST", f"{path}/versions", json={"source": source(code)})
    assert same["version"] == 2
    await functions.rig.ok("POST", f"{path}/promote", json={"version": 1})
    assert (await functions.invoke(function_id))["result"]["calls"] == 1
    assert len(functions.node.build_orders) == 1


@pytest.mark.parametrize(
    ("code", "reason", "retriable"),
    [
        ("raise ValueError('no')", "handler_error", True),
        ("raise cakework_functions.NonRetriable('never')", "non_retriable", False),
        ("os._exit(3)", "crash", None),
        ("return {1, 2}", "bad_answer", False),
        ("return 'x' * 2_000_000", "result_too_large", False),
    ],
)
async def test_how_it_failed_is_told(
    functions: Functions, code: str, reason: str, retriable: bool | None
) -> None:
    head = "import os, cakework_functions\ndef handler(event, context):\n    "
    function_id = await functions.made(head + code + "\n")
    failed = await functions.invoke(function_id)
    assert (failed["state"], failed["reason"]) == ("failed", reason)
    if retriable is not None:
        assert failed["error"]["retriable"] is retriable
    dead = await functions.rig.ok("GET", "/v1/dead-letters")
    assert [each["id"] for each in dead["invocations"]] == [failed["id"]]
    assert await functions.instances() == []


async def test_queued_work_is_tried_again_in_another_instance(
    functions: Functions, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    code = (
        "from pathlib import Path\n"
        f"mark = Path({str(mark)!r})\n"
        "def handler(event, context):\n"
        "    if not mark.exists():\n"
        "        mark.touch()\n"
        "        raise ValueError('not yet')\n"
        "    return context.attempt\n"
    )
    function_id = await functions.made(code, settings={"retry": {"minDelay": 1, "factor": 1}})
    queued = await functions.queue(function_id)
    ended = await functions.settled(queued["id"])
    assert (ended["state"], ended["result"]) == ("succeeded", 2)
    assert [a["outcome"] for a in ended["attempts"]] == ["handler_error", "succeeded"]
    assert len({a["vmId"] for a in ended["attempts"]}) == 2
    assert (await functions.rig.ok("GET", "/v1/dead-letters"))["invocations"] == []


async def test_what_takes_too_long_is_ended(functions: Functions) -> None:
    code = "import time\ndef handler(event, context):\n    time.sleep(600)\n"
    function_id = await functions.made(code, settings={"timeout": 1})
    late = await functions.invoke(function_id)
    assert (late["state"], late["reason"]) == ("failed", "timeout")
    assert await functions.instances() == []
    assert functions.node.hosted == {}


async def test_an_attempt_goes_on_when_the_server_ends(
    folder: Path, hosting: FunctionNode, database_url: str | None, tmp_path: Path
) -> None:
    """It runs once, and the next server has its answer."""
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    code = (
        "import time\nfrom pathlib import Path\n"
        f"begun, gate = Path({str(begun)!r}), Path({str(gate)!r})\n"
        "def handler(event, context):\n"
        "    with begun.open('a') as file:\n"
        "        file.write('x')\n"
        "    while not gate.exists():\n"
        "        time.sleep(0.01)\n"
        "    return 'done'\n"
    )
    async with served(folder, hosting, database_url) as before:
        function_id = await before.made(code)
        queued = await before.queue(function_id)
        await until(begun.exists, "the handler has begun")
    async with served(folder, hosting, database_url) as after:
        found = await after.rig.ok("GET", f"/v1/invocations/{queued['id']}")
        assert found["state"] == "running"
        gate.touch()
        ended = await after.settled(queued["id"])
    assert (ended["state"], ended["result"], ended["attempt"]) == ("succeeded", "done", 1)
    assert begun.read_text() == "x"


async def test_work_of_a_vm_that_ended_while_no_server_ran_is_tried_again(
    folder: Path, hosting: FunctionNode, database_url: str | None, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    code = (
        "import time\nfrom pathlib import Path\n"
        f"begun = Path({str(begun)!r})\n"
        "def handler(event, context):\n"
        "    if begun.exists():\n"
        "        return context.attempt\n"
        "    begun.touch()\n"
        "    time.sleep(600)\n"
    )
    async with served(folder, hosting, database_url) as before:
        retry = {"minDelay": 1, "factor": 1}
        function_id = await before.made(code, settings={"retry": retry})
        queued = await before.queue(function_id)
        await until(begun.exists, "the handler has begun")
    for hosted in hosting.hosted.values():
        hosted.process.kill()
    async with served(folder, hosting, database_url) as after:
        ended = await after.settled(queued["id"])
    assert (ended["state"], ended["result"]) == ("succeeded", 2)


async def test_end_users_of_an_account_s_function_share_no_instance(functions: Functions) -> None:
    function_id = await functions.made()
    calls = [
        (await functions.invoke(function_id, userId=user))["result"]["calls"]
        for user in ("a", "b", "a")
    ]
    assert calls == [1, 1, 2]
    rows = await functions.instances()
    assert sorted(row.user_id for row in rows) == ["a", "b"]


async def test_an_instance_may_serve_one_call_alone(functions: Functions) -> None:
    function_id = await functions.made(settings={"isolation": "invocation"})
    calls = [(await functions.invoke(function_id))["result"]["calls"] for _ in range(3)]
    assert calls == [1, 1, 1]


async def test_there_are_no_more_instances_than_may_be(
    functions: Functions, tmp_path: Path
) -> None:
    """More work waits for its turn; all of it is done."""
    code = (
        "import os, time\nfrom pathlib import Path\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "def handler(event, context):\n"
        "    mine = folder / f'running-{os.getpid()}'\n"
        "    mine.touch()\n"
        "    count = len(list(folder.glob('running-*')))\n"
        "    time.sleep(0.05)\n"
        "    mine.unlink()\n"
        "    return count\n"
    )
    function_id = await functions.made(code, settings={"maxInstances": 2})
    queued = [await functions.queue(function_id, n) for n in range(12)]
    ended = [await functions.settled(each["id"]) for each in queued]
    assert {each["state"] for each in ended} == {"succeeded"}
    assert max(each["result"] for each in ended) <= 2
    assert len({each["attempts"][0]["vmId"] for each in ended}) <= 2


async def test_work_is_canceled_before_and_while_it_runs(
    functions: Functions, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    code = (
        "import time\nfrom pathlib import Path\n"
        f"begun = Path({str(begun)!r})\n"
        "def handler(event, context):\n"
        "    begun.touch()\n"
        "    time.sleep(600)\n"
    )
    function_id = await functions.made(code)
    later = await functions.queue(function_id, delay=600)
    canceled = await functions.rig.ok("POST", f"/v1/invocations/{later['id']}/cancel")
    assert (canceled["state"], canceled["attempt"]) == ("canceled", 0)
    runs = await functions.queue(function_id)
    await until(begun.exists, "the handler has begun")
    await functions.rig.ok("POST", f"/v1/invocations/{runs['id']}/cancel")
    ended = await functions.settled(runs["id"])
    assert (ended["state"], ended["reason"]) == ("canceled", "canceled_by_caller")


async def test_a_lost_snapshot_costs_no_call(functions: Functions) -> None:
    """The instance is forked from the runtime and given the code; the snapshot is made again."""
    function_id = await functions.made(settings={"isolation": "invocation"})
    async with functions.rig.server.database.reading() as session:
        version = await session.get(VersionRow, (function_id, 1))
    assert version is not None
    assert version.vm_id is not None
    functions.node.no_fork_of.add(version.vm_id)
    assert (await functions.invoke(function_id))["result"]["calls"] == 1

    async def look() -> bool:
        async with functions.rig.server.database.reading() as session:
            row = await session.get(VersionRow, (function_id, 1))
        return row is not None and row.vm_id not in (None, version.vm_id)

    await eventually(look, "there is another snapshot")


async def test_what_is_live_is_read_when_it_has_changed(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at each pass; and then other settings, and a lost snapshot, have another made."""
    monkeypatch.setattr("cakework.server.functions.deploys.WHOLE_MS", 1 << 40)
    monkeypatch.setattr("cakework.server.functions.deploys.LATE_MS", 2_000)
    function_id = await functions.made()
    server, passes = functions.rig.server, list[str]()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "snapshot_error IS NULL" in statement:
            passes.append("read")
        elif "UNION" in statement and "function_versions.updated_ms >=" in statement:
            passes.append("looked")

    async def version() -> VersionRow:
        async with server.database.reading() as session:
            return await session.get_one(VersionRow, (function_id, 1))

    async def rests() -> bool:
        return passes[-3:] == ["looked"] * 3

    async def is_made() -> bool:
        row = await version()
        return row.vm_id not in (None, before.vm_id) and row.made_with is not None

    event.listen(Engine, "before_cursor_execute", note)
    try:
        await eventually(rests, "nothing is read of what has not changed")
        before = await version()
        body = {"settings": {"memory": 512}}
        await functions.rig.ok("PATCH", f"/v1/functions/{function_id}", json=body)
        await eventually(is_made, "there is one of the new settings")
        await eventually(rests, "that is over")
        before = await version()
        await server.functions.deploys.make_again(before)
        await eventually(is_made, "there is another one")
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def test_a_runtime_that_could_not_be_started_is_tried_again(functions: Functions) -> None:
    """Not at once, which would be in vain; and however often it is asked for meanwhile."""
    functions.node.no_runtime = "no disk"
    body = {"name": "f", "runtime": "python3.11", "source": source(COUNT)}
    function_id = (await functions.rig.ok("POST", "/v1/functions", json=body))["id"]
    path = f"/v1/functions/{function_id}/versions"
    told = "The runtime could not be started: no disk"
    assert (await functions.ended(function_id, 1, "failed"))["error"] == told
    functions.node.no_runtime = None
    again = {"source": source(COUNT + "# again")}
    await functions.rig.ok("POST", path, json=again)
    assert (await functions.ended(function_id, 2, "failed"))["error"] == told
    assert len(functions.node.snapshot_orders) == 1
    async with functions.rig.server.database.writing() as session:
        since = VmRow.updated_ms - FAILED_MS
        await session.execute(update(VmRow).values(created_ms=since, updated_ms=since))
    await functions.rig.ok("POST", path, json={"source": source(COUNT + "# once more")})
    await functions.ended(function_id, 3, "ready")
    assert (await functions.invoke(function_id))["result"]["calls"] == 1


async def test_what_is_deleted_takes_its_work_and_instances_with_it(functions: Functions) -> None:
    function_id = await functions.made()
    await functions.invoke(function_id)
    waiting = await functions.queue(function_id, delay=600)
    await functions.rig.ok("DELETE", f"/v1/functions/{function_id}")
    ended = await functions.settled(waiting["id"])
    assert (ended["state"], ended["reason"]) == ("canceled", "function_deleted")
    await functions.rig.refused(404, "GET", f"/v1/functions/{function_id}")

    async def gone() -> bool:
        return not await functions.instances()

    await eventually(gone, "its instances are gone")


async def test_a_dead_letter_is_replayed_or_discarded(functions: Functions, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = (
        "from pathlib import Path\n"
        f"mark = Path({str(mark)!r})\n"
        "def handler(event, context):\n"
        "    if not mark.exists():\n"
        "        raise ValueError('not yet')\n"
        "    return event['data']\n"
    )
    function_id = await functions.made(code)
    first, second = [await functions.invoke(function_id, n) for n in (1, 2)]
    mark.touch()
    rig = functions.rig
    response = await rig.client.post("/v1/dead-letters/replay", json={"ids": [first["id"]]})
    assert (response.status_code, response.json()) == (202, {"matched": 1})

    async def replayed() -> str | None:
        listed = await rig.ok("GET", "/v1/invocations", params={"functionId": function_id})
        return next((each["id"] for each in listed["invocations"] if "replayOf" in each), None)

    again = await functions.settled(await eventually(replayed, "it is replayed"))
    assert (again["result"], again["replayOf"], again["trigger"]) == (1, first["id"], "replay")
    response = await rig.client.post("/v1/dead-letters/discard", json={"ids": [second["id"]]})
    assert (response.status_code, response.json()) == (202, {"matched": 1})
    assert (await rig.ok("GET", "/v1/dead-letters"))["invocations"] == []


async def test_vms_of_functions_are_no_vms_of_the_account(functions: Functions) -> None:
    function_id = await functions.made()
    await functions.invoke(function_id)
    assert (await functions.rig.ok("GET", "/v1/vms"))["vms"] == []


async def test_nothing_of_another_account_is_reached(functions: Functions) -> None:
    function_id = await functions.made()
    theirs: httpx2.AsyncClient
    async with await functions.rig.other_account() as theirs:
        for method, path in (
            ("GET", f"/v1/functions/{function_id}"),
            ("GET", f"/v1/functions/{function_id}/versions/1/source"),
            ("POST", f"/v1/functions/{function_id}/invoke"),
        ):
            response = await theirs.request(method, path, json={} if method == "POST" else None)
            assert response.status_code == 404, (path, response.text)


async def test_no_room_costs_no_attempt(functions: Functions) -> None:
    function_id = await functions.made()
    functions.node.full_after = 0
    queued = await functions.queue(function_id)
    await until(lambda: functions.node.vm_orders[-1].fork_of, "a start was tried")
    await asyncio.sleep(0)
    async with functions.rig.server.database.reading() as session:
        row = await session.get(InvocationRow, queued["id"])
    assert row is not None
    assert (row.state, row.attempt) == ("queued", 0)
    functions.node.full_after = None
    ended = await functions.settled(queued["id"])
    assert (ended["state"], ended["attempt"]) == ("succeeded", 1)
    assert VmId(ended["attempts"][0]["vmId"]) in functions.node.hosted
