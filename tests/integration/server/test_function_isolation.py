"""What one call leaves in its instance, no other end user's sees, and no other account's."""

from pathlib import Path

import pytest
from sqlalchemy import select

from cakework.server.functions import assembly
from cakework.server.store.models import VmRow

from .function_node import FunctionNode, source
from .rig import until
from .test_functions import Functions, functions, served

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
__all__ = ["functions"]
KEEPS = """\
import os
seen = []
def handler(event, context):
    seen.append(context.user_id)
    os.environ["LEFT"] = os.environ.get("LEFT", "") + str(context.user_id)
    return {"seen": seen, "left": os.environ["LEFT"]}
"""


@pytest.mark.parametrize("isolation", ["user", "function"])
async def test_no_end_user_sees_what_another_s_call_left(
    functions: Functions, isolation: str
) -> None:
    """In an account's function, whatever its settings say, and however calls come."""
    function_id = await functions.made(
        KEEPS, settings={"isolation": isolation, "maxInstances": 3, "idleTimeout": 3600}
    )
    users = ["ann", "bob", "eve"]
    queued = [
        (user, await functions.queue(function_id, userId=user)) for _ in range(4) for user in users
    ]
    for user, each in queued:
        ended = await functions.settled(each["id"])
        assert ended["state"] == "succeeded", ended
        assert set(ended["result"]["seen"]) == {user}
        assert ended["result"]["left"] == user * len(ended["result"]["seen"])
    alone = (await functions.invoke(function_id))["result"]["seen"]
    assert alone == [None]


async def test_no_call_sees_what_another_left_where_each_is_alone(functions: Functions) -> None:
    function_id = await functions.made(KEEPS, settings={"isolation": "invocation"})
    queued = [await functions.queue(function_id, userId="ann") for _ in range(4)]
    ended = [await functions.settled(each["id"]) for each in queued]
    assert [each["result"] for each in ended] == [{"seen": ["ann"], "left": "ann"}] * 4
    assert len({each["attempts"][0]["vmId"] for each in ended}) == 4


async def test_no_fork_begins_in_another_account_s_memory(functions: Functions) -> None:
    """The same code of two accounts is in two layers, runtimes and versions."""
    await functions.invoke(await functions.made(KEEPS))
    rig = functions.rig
    async with await rig.other_account() as theirs:
        body = {"name": "f", "runtime": "python3.11", "source": source(KEEPS)}
        made = (await theirs.post("/v1/functions", json=body)).json()
        path = f"/v1/functions/{made['id']}"
        version = {"state": "building"}
        while version["state"] == "building":
            for build_id in functions.node.builds.copy():
                await functions.node.succeed(build_id)
            version = (await theirs.get(f"{path}/versions/1")).json()
        done = (await theirs.post(f"{path}/invoke", json={})).json()
    assert (version["state"], done["state"]) == ("ready", "succeeded")
    async with rig.server.database.reading() as session:
        vms = {row.id: row for row in await session.scalars(select(VmRow))}
    forks = [row for row in vms.values() if row.fork_of is not None]
    assert len(forks) >= 4
    assert {row.account_id for row in forks} == {"default", "other"}
    for row in forks:
        assert vms[row.fork_of or ""].account_id == row.account_id
    for order in functions.node.vm_orders:
        if order.fork_of is not None:
            assert vms[order.fork_of].account_id == vms[order.vm_id].account_id


async def test_vms_that_nothing_names_are_ended_and_no_others(
    folder: Path,
    hosting: FunctionNode,
    database_url: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a function that was deleted, its version's VM with its snapshot; looked for all the time,
    what is made and serves meanwhile goes on."""
    monkeypatch.setattr(assembly, "KEEPING_PERIOD_S", 0.05)
    async with served(folder, hosting, database_url) as functions:
        kept = await functions.made(name="kept")
        for _ in range(3):
            assert (await functions.invoke(kept))["state"] == "succeeded"
        assert (await functions.invoke(kept))["result"]["calls"] == 4
        before = set(hosting.snapshots)
        deleted = await functions.made(name="deleted")
        assert len(set(hosting.snapshots) - before) == 1
        await functions.rig.ok("DELETE", f"/v1/functions/{deleted}")
        await until(lambda: set(hosting.snapshots) == before, "the deleted one's snapshot is gone")
        assert (await functions.invoke(kept))["state"] == "succeeded"
