"""What functions' VMs reach: what their orders say of it, and what becomes of a change."""

from typing import Any

import pytest
from sqlalchemy import update

from cakework.domain.orders import VmOrder
from cakework.server.store.function_models import VersionRow
from cakework.server.store.models import VmRow

from .function_node import source
from .rig import Json, eventually, until
from .test_functions import COUNT, Functions, functions

__all__ = ["functions"]
pytestmark = pytest.mark.anyio


def of(functions: Functions, vm_id: str | None) -> VmOrder:
    """Return the order by which a VM was started."""
    return next(order for order in functions.node.vm_orders if order.vm_id == vm_id)


def of_instance(functions: Functions, invocation: Json) -> VmOrder:
    assert invocation["state"] == "succeeded", invocation
    return of(functions, invocation["attempts"][-1]["vmId"])


async def snapshot_of(functions: Functions, function_id: str, but: str | None = None) -> str:
    """Return the VM of the first version once it has one, another than ``but``."""

    async def look() -> str | None:
        async with functions.rig.server.database.reading() as session:
            row = await session.get(VersionRow, (function_id, 1))
        made = row is not None and row.made_with is not None and row.vm_id != but
        return row.vm_id if row is not None and made else None

    return await eventually(look, "there is a snapshot")


async def changed(functions: Functions, function_id: str, **settings: Any) -> Json:
    path = f"/v1/functions/{function_id}"
    return (await functions.rig.ok("PATCH", path, json={"settings": settings}))["settings"]


async def gone(functions: Functions, vm_ids: set[str | None]) -> None:
    await until(lambda: not vm_ids & functions.node.hosted.keys(), "what was made before is gone")


async def test_all_that_runs_code_reaches_what_the_function_says(functions: Functions) -> None:
    """The VM of its version, where it is imported, and instances; the runtime reaches nothing."""
    for name, given in (("open", {}), ("shut", {"egress": "none"})):
        egress = given.get("egress", "internet")
        function_id = await functions.made(name=name, settings=given)
        version = of(functions, await snapshot_of(functions, function_id))
        assert (version.egress, version.forkable) == (egress, True)
        instance = of_instance(functions, await functions.invoke(function_id))
        assert (instance.egress, instance.fork_of) == (egress, version.vm_id)
        (runtime,) = functions.node.snapshot_orders
        assert (runtime.egress, version.fork_of) == ("none", runtime.vm_id)


async def test_a_change_replaces_what_was_made_with_the_other(functions: Functions) -> None:
    """The next call finds an instance that reaches what it may now, whether there is a snapshot of
    that kind yet or not; what had the other goes, the VM of the version too."""
    function_id = await functions.made()
    vm_id: str | None = None
    before: str | None = None
    for egress in ("internet", "none", "internet"):
        assert (await changed(functions, function_id, egress=egress))["egress"] == egress
        instance = of_instance(functions, await functions.invoke(function_id))
        assert instance.egress == egress
        assert instance.vm_id != before
        old = vm_id
        vm_id = await snapshot_of(functions, function_id, but=old)
        assert of(functions, vm_id).egress == egress
        await gone(functions, {old, before} - {None})
        assert old not in functions.node.snapshots
        before = instance.vm_id


async def test_without_a_snapshot_of_its_kind_code_is_imported_without_egress_too(
    functions: Functions,
) -> None:
    function_id = await functions.made(settings={"egress": "none", "snapshot": "none"})
    instance = of_instance(functions, await functions.invoke(function_id))
    (runtime,) = functions.node.snapshot_orders
    assert (instance.egress, instance.fork_of) == ("none", runtime.vm_id)


async def test_a_trial_reaches_what_the_function_does(functions: Functions) -> None:
    function_id = await functions.made(settings={"egress": "none"})
    path = f"/v1/functions/{function_id}/test"
    done = await functions.rig.ok("POST", path, json={"source": source(COUNT)})
    assert of_instance(functions, await functions.settled(done["id"])).egress == "none"


async def test_a_transform_reaches_nothing_unless_it_is_to(functions: Functions) -> None:
    """As its answer says; and a change of something else leaves it so."""
    function_id = await functions.made(kind="transform", settings={"timeout": 30})
    assert of(functions, await snapshot_of(functions, function_id)).egress == "none"
    assert (await changed(functions, function_id, timeout=20))["egress"] == "none"
    path = f"/v1/functions/{function_id}"
    assert (await functions.rig.ok("GET", path))["settings"]["egress"] == "none"
    assert (await changed(functions, function_id, egress="internet"))["egress"] == "internet"
    asked = await functions.made(name="g", kind="transform", settings={"egress": "internet"})
    assert of(functions, await snapshot_of(functions, asked)).egress == "internet"


async def test_a_runtime_that_had_egress_is_not_forked_from(functions: Functions) -> None:
    """Those of an earlier version had, whatever code runs in them at their start."""
    first = await functions.made()
    async with functions.rig.server.database.writing() as session:
        await session.execute(
            update(VmRow).where(VmRow.role == "runtime").values(egress="internet")
        )
    second = await functions.made(name="g", settings={"egress": "none"})
    parents = [
        of(functions, await snapshot_of(functions, each)).fork_of for each in (first, second)
    ]
    assert parents == [order.vm_id for order in functions.node.snapshot_orders]
    assert parents[0] != parents[1]


async def test_what_is_no_egress_is_refused(functions: Functions) -> None:
    body = {"name": "f", "runtime": "python3.11", "settings": {"egress": "host"}}
    answer = await functions.rig.client.post("/v1/functions", json=body)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "settings.egress"
