"""What is kept of functions, and what goes again: the server as it is, on both stores."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from cakework.domain.vms import VmRole, VmState
from cakework.server.clock import now_ms
from cakework.server.functions import keeping
from cakework.server.store.function_models import (
    DraftRow,
    InvocationRow,
    LayerRow,
    RuntimeVmRow,
    SecretRow,
    SourceRow,
    VersionRow,
)
from cakework.server.store.models import ImageRow, VmRow

from .function_node import FunctionNode, source
from .rig import Json, eventually, settings_for
from .test_functions import Functions, served
from .test_together import waiting

pytestmark = pytest.mark.anyio

DAY_MS = 24 * 3_600_000


def code(number: int) -> str:
    return f"def handler(event, context):\n    return {number}\n"


class Kept(Functions):
    """What tests do with functions whose time goes by."""

    async def pass_by(self, ms: int = 0) -> None:
        """Have a pass of the keeping loop, as if so much later."""
        await self.rig.server.functions.keeping.one_pass(now_ms() + ms)

    async def rows(self, table: Any, *which: Any) -> list[Any]:
        async with self.rig.server.database.reading() as session:
            return list(await session.scalars(select(table).where(*which)))

    async def version(self, function_id: str, number: int) -> VersionRow:
        which = VersionRow.function_id == function_id, VersionRow.number == number
        return (await self.rows(VersionRow, *which))[0]

    async def deploy(self, function_id: str, number: int, **fields: Any) -> Json:
        """Deploy one more version, to the end; it answers with its number."""
        path = f"/v1/functions/{function_id}/versions"
        body = {"source": source(code(number)), **fields}
        await self.rig.ok("POST", path, json=body)
        await self.ended(function_id, number, "ready")
        return await self.rig.ok("GET", f"{path}/{number}")

    async def vms(self, *roles: VmRole) -> set[str]:
        """Return which VMs of functions are not destroyed."""
        which = VmRow.role.in_(roles or (VmRole.RUNTIME, VmRole.VERSION, VmRole.INSTANCE))
        return {row.id for row in await self.rows(VmRow, which, VmRow.state != VmState.DESTROYED)}


@pytest.fixture
async def functions(
    folder: Path, tmp_path: Path, anyio_backend: str, database_url: str | None
) -> AsyncGenerator[Kept]:
    async with (
        FunctionNode(settings_for(folder, None), tmp_path).hosting() as node,
        served(folder, node, database_url) as found,
    ):
        yield Kept(found.rig, node)


async def test_older_versions_keep_their_code_and_are_made_anew(
    functions: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshot and layer go; a promotion answers at once, and live moves when it is ready."""
    monkeypatch.setattr(keeping, "READY_KEPT", 1)
    rig = functions.rig
    function_id = await functions.made(code(1))
    one = f"/v1/functions/{function_id}"
    first = await functions.version(function_id, 1)
    await functions.deploy(function_id, 2, promote=False)
    await functions.pass_by()
    # The live one stays, however old it is.
    assert (await functions.version(function_id, 1)).vm_id == first.vm_id
    await rig.ok("POST", f"{one}/promote", json={"version": 2})
    await functions.pass_by()
    shelved = await functions.version(function_id, 1)
    assert (shelved.state, shelved.shelved, shelved.vm_id) == ("ready", True, None)
    assert first.vm_id not in await functions.vms()
    assert (await rig.ok("GET", f"{one}/versions/1"))["snapshot"] == {"state": "none"}
    assert len((await rig.ok("GET", f"{one}/versions/1/source"))["files"]) == 1
    await rig.refused(409, "POST", f"{one}/invoke", json={"version": 1})
    answered = await rig.ok("POST", f"{one}/promote", json={"version": 1})
    assert answered["liveVersion"] == 2
    await functions.ended(function_id, 1, "ready")
    function = await rig.eventually(one, liveVersion=1)
    assert function["state"] == "active"
    assert (await functions.invoke(function_id))["result"] == 1


async def test_the_last_wish_counts(functions: Kept) -> None:
    """A version that is made later than it was promised goes live only if no wish came after."""
    rig = functions.rig
    function_id = await functions.made(code(1))
    one = f"/v1/functions/{function_id}"
    given = source(code(2), **{"requirements.txt": "requests\n"})
    await rig.ok("POST", f"{one}/versions", json={"source": given})
    await rig.ok("POST", f"{one}/promote", json={"version": 1})
    await functions.ended(function_id, 2, "ready")
    assert (await rig.ok("GET", one))["liveVersion"] == 1
    given = source(code(3), **{"requirements.txt": "urllib3\n"})
    await rig.ok("POST", f"{one}/versions", json={"source": given, "promote": False})
    assert (await rig.ok("POST", f"{one}/promote", json={"version": 3}))["liveVersion"] == 1
    await functions.ended(function_id, 3, "ready")
    await rig.eventually(one, liveVersion=3)


async def test_the_oldest_versions_are_retired(
    functions: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their code goes, then their records; never that of the live one, or what work waits for."""
    rig, loop = functions.rig, functions.rig.server.functions.keeping
    monkeypatch.setattr(keeping, "READY_KEPT", 1)
    kept = keeping.KeptOfFunctions(1, 0, 14, 30, 2048)
    monkeypatch.setattr(loop, "_kept", kept)
    function_id = await functions.made(code(1))
    one = f"/v1/functions/{function_id}"
    await functions.deploy(function_id, 2, promote=False)
    await functions.deploy(function_id, 3, promote=False)
    waits = await functions.queue(function_id, version=2, delay=3600)
    await functions.pass_by()
    states = [(await functions.version(function_id, n)).state for n in (1, 2, 3)]
    assert states == ["ready", "ready", "ready"]
    await rig.ok("POST", f"/v1/invocations/{waits['id']}/cancel")
    await functions.pass_by(2 * 3_600_000)
    assert (await functions.version(function_id, 2)).state == "retired"
    await rig.refused(404, "GET", f"{one}/versions/2/source")
    await rig.refused(409, "POST", f"{one}/promote", json={"version": 2})
    await rig.refused(404, "POST", f"{one}/versions", json={"source": {"version": 2}})
    assert len(await functions.rows(SourceRow)) == 2
    assert (await functions.invoke(function_id))["result"] == 1
    monkeypatch.setattr(keeping, "RECORDS_KEPT", 1)
    await functions.pass_by()
    await rig.refused(404, "GET", f"{one}/versions/2")
    assert (await rig.ok("GET", one))["liveVersion"] == 1


async def test_who_has_much_code_loses_the_oldest_of_it(
    functions: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "READY_KEPT", 1)
    function_id = await functions.made(code(1))
    await functions.deploy(function_id, 2)
    await functions.pass_by()
    assert (await functions.version(function_id, 1)).shelved
    monkeypatch.setattr(functions.rig.server.functions.sources, "bytes_max", 100)
    await functions.pass_by()
    states = [(await functions.version(function_id, n)).state for n in (1, 2)]
    assert states == ["retired", "ready"]


async def test_a_deleted_function_leaves_nothing(functions: Kept) -> None:
    """But the records of its invocations, and those for their time."""
    rig = functions.rig
    function_id = await functions.made(code(1))
    one = f"/v1/functions/{function_id}"
    draft = await rig.client.put(f"{one}/draft", json=source("1"), headers={"If-Match": "*"})
    assert draft.status_code == 200
    done = await functions.invoke(function_id)
    async with rig.server.database.writing() as session:
        account = (await functions.rows(InvocationRow))[0].account_id
        session.add(
            SecretRow(
                account_id=account,
                user_id="",
                function_id=function_id,
                name="A",
                sealed=b"",
                fingerprint="",
                shared=False,
                updated_ms=0,
            )
        )
    trial = await rig.ok(
        "POST",
        f"{one}/test",
        json={"source": source(code(2), **{"requirements.txt": "requests"}), "wait": 0},
    )
    await rig.ok("DELETE", one)
    for table in (VersionRow, DraftRow, SecretRow):
        assert await functions.rows(table) == []

    async def gone() -> bool:
        for build_id in functions.node.builds.copy():
            await functions.node.succeed(build_id)
        await functions.pass_by(2 * 3_600_000)
        left = [await functions.rows(each) for each in (SourceRow, LayerRow, RuntimeVmRow)]
        images = await functions.rows(ImageRow, ImageRow.deleted_ms.is_(None))
        return not any([*left, images, await functions.vms()])

    await eventually(gone, "nothing is left")
    assert functions.node.hosted == {}
    ended = await rig.ok("GET", f"/v1/invocations/{trial['id']}")
    assert (ended["state"], ended["reason"]) == ("canceled", "function_deleted")
    assert (await rig.ok("GET", f"/v1/invocations/{done['id']}"))["result"] == 1
    await functions.pass_by(13 * DAY_MS)
    assert len(await functions.rows(InvocationRow)) == 2
    await functions.pass_by(15 * DAY_MS)
    assert await functions.rows(InvocationRow) == []


async def test_work_that_runs_ends_with_its_function(functions: Kept, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    endless = (
        "import time\nfrom pathlib import Path\n"
        f"def handler(event, context):\n    Path({str(begun)!r}).touch()\n    time.sleep(600)\n"
    )
    function_id = await functions.made(endless)
    runs = await functions.queue(function_id)

    async def has_begun() -> bool:
        return begun.exists()

    await eventually(has_begun, "the handler has begun")
    await functions.rig.ok("DELETE", f"/v1/functions/{function_id}")
    ended = await functions.settled(runs["id"])
    assert (ended["state"], ended["reason"]) == ("canceled", "function_deleted")


async def test_dead_letters_stay_longer(functions: Kept) -> None:
    function_id = await functions.made("def handler(event, context):\n    raise ValueError\n")
    dead, settled = [await functions.invoke(function_id) for _ in range(2)]
    discard = {"ids": [settled["id"]]}
    answer = await functions.rig.client.post("/v1/dead-letters/discard", json=discard)
    assert (answer.status_code, answer.json()) == (202, {"matched": 1})
    await functions.pass_by(15 * DAY_MS)
    assert [row.id for row in await functions.rows(InvocationRow)] == [dead["id"]]
    await functions.pass_by(31 * DAY_MS)
    assert await functions.rows(InvocationRow) == []


async def test_what_a_crash_left_is_ended(functions: Kept) -> None:
    """A version's VM and an instance that no record names; runtimes, when they are not used."""
    function_id = await functions.made(code(1), settings={"minInstances": 1})

    async def warm() -> set[str]:
        return await functions.vms(VmRole.INSTANCE)

    instances = await eventually(warm, "it is warm")
    versions = await functions.vms(VmRole.VERSION)
    runtimes = await functions.vms(VmRole.RUNTIME)
    await functions.pass_by()
    assert await functions.vms() == instances | versions | runtimes
    async with functions.rig.server.database.writing() as session:
        await session.execute(update(VersionRow).values(vm_id=None, snapshot_error="not now"))
    await functions.pass_by()
    assert await functions.vms() == instances | runtimes
    await functions.pass_by(25 * 3_600_000)
    assert not await functions.vms(VmRole.RUNTIME)
    assert await functions.rows(RuntimeVmRow) == []
    assert (await functions.invoke(function_id))["result"] == 1
    async with functions.rig.server.database.reading() as session:
        row = await session.get(VersionRow, (function_id, 1))
    assert row is not None
    assert row.state == "ready"


async def test_an_image_that_its_account_deleted_is_built_again(functions: Kept) -> None:
    """A layer is an image of the account's, which may be deleted where no VM has it."""
    rig = functions.rig
    function_id = await functions.made(code(1))
    image_id = (await functions.rows(LayerRow))[0].image_id
    await rig.refused(409, "DELETE", f"/v1/image/{image_id}")
    async with rig.server.database.writing() as session:
        await session.execute(update(VersionRow).values(vm_id=None, snapshot_error="not now"))
    await functions.pass_by(25 * 3_600_000)
    await rig.ok("DELETE", f"/v1/image/{image_id}")
    await functions.deploy(function_id, 2)
    assert (await functions.rows(LayerRow))[0].image_id != image_id
    assert (await functions.invoke(function_id))["result"] == 2


async def test_what_was_taken_for_a_function_that_is_gone_ends(functions: Kept) -> None:
    """As when it was deleted by another process, in between."""
    function_id = await functions.made(code(1))
    waits = await functions.queue(function_id, delay=600)
    async with functions.rig.server.database.writing() as session:
        await session.execute(
            update(InvocationRow).values(function_id="fn_00000000000000000000000000")
        )
    await functions.pass_by()
    ended = await functions.settled(waits["id"])
    assert (ended["state"], ended["reason"]) == ("canceled", "function_deleted")


async def test_the_oldest_invocations_go_where_there_is_much_in_them(
    functions: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is too much, in one pass, however little is removed at once."""
    monkeypatch.setattr(keeping, "INVOCATIONS_AT_ONCE", 5)
    kept = keeping.KeptOfFunctions(5, 0, 14, 30, 1)
    monkeypatch.setattr(functions.rig.server.functions.keeping, "_kept", kept)
    function_id, now = await functions.made(code(1)), now_ms()
    ended: dict[str, Any] = {"state": "succeeded", "kept_bytes": 60_000}
    rows = [waiting(function_id, **ended, ended_ms=now + place) for place in range(30)]
    rows.append(waiting(function_id, kept_bytes=60_000, next_ms=now + DAY_MS))
    async with functions.rig.server.database.writing() as session:
        for row in rows:
            session.add(InvocationRow(**row))
    await functions.pass_by()
    left = await functions.rows(InvocationRow)
    # Three quarters of a MiB.
    assert {row.id for row in left} == {row["id"] for row in rows[-13:]}


async def test_what_invocations_have_in_them_is_counted(functions: Kept) -> None:
    """With what comes of them; of requests to the URL, too (see test_function_urls.py)."""
    code = "def handler(event, context):\n    return event['data'] * 2\n"
    function_id = await functions.made(code)
    await functions.invoke(function_id, "x" * 10_000)
    (row,) = await functions.rows(InvocationRow)
    assert 31_000 < row.kept_bytes == row.weight() < 33_000
