"""Cached VMs whose program is kept, through HTTP: snapshots, kept memory, forks, idling, waking."""

import asyncio
from collections.abc import AsyncGenerator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from cakework.domain.errors import Conflict, NotFound, QuotaExceeded, Unavailable
from cakework.domain.ids import AccountId, VmId
from cakework.domain.orders import ExecHook, Hooks, HttpHook, NodeProblem, SnapshotReport
from cakework.router.activity import Activity
from cakework.server.loops.idle import IdleLoop
from cakework.server.loops.leftovers import LeftoverLoop
from cakework.server.services.wakes import Wakes
from cakework.server.store.models import VmRow

from .fake_node import FakeNode
from .rig import DEADLINE_S, Json, Rig, events, running, settings_for, until
from .router_rig import linked

pytestmark = pytest.mark.anyio
CACHE = "/v1/vm/cache"
FULL = (503, NodeProblem(code="no_room", detail="The host is full."))


@pytest.fixture
async def one(folder: Path, node: FakeNode, anyio_backend: str) -> AsyncGenerator[Rig]:
    """A server on SQLite."""
    async with running(settings_for(folder, None, max_vms_per_account=5), node) as served:
        yield served


async def cache(rig: Rig, **fields: Any) -> Json:
    return await rig.ok("POST", CACHE, json={"imageId": await rig.image(), **fields})


async def ready(rig: Rig, **fields: Any) -> Json:
    """Return a cached VM whose snapshot is made."""
    vm = await cache(rig, snapshot="ready", **fields)
    await until(lambda: vm["id"] in rig.node.snapshots, "the node makes the snapshot")
    await rig.node.snapshot_made(vm["id"])
    return await rig.eventually(f"/v1/vm/{vm['id']}", snapshot={"kind": "ready", "state": "made"})


async def started(rig: Rig, **fields: Any) -> Json:
    vm = await cache(rig, **fields)
    return await rig.ok("POST", f"/v1/vm/cached/{vm['id']}/start")


async def test_a_snapshot_is_made_in_the_background_and_used_by_starts(rig: Rig) -> None:
    """cacheVM is answered at once; the order has the hooks; a start begins with the snapshot."""
    hooks = {
        "beforeSnapshot": {"exec": ["/app/warm", "all"]},
        "afterResume": {"http": "/again?x=1"},
    }
    vm = await cache(rig, snapshot="ready", port=80, hooks=hooks, envVars={"A": "1"})
    assert (vm["state"], vm["snapshot"]) == ("stopped", {"kind": "ready", "state": "making"})
    await until(lambda: rig.node.snapshot_orders, "the node has the order")
    order = rig.node.snapshot_orders[0]
    assert (order.run, order.snapshot, order.env, order.port) == (0, "ready", {"A": "1"}, 80)
    wanted = Hooks(
        before_snapshot=ExecHook(argv=["/app/warm", "all"]),
        after_resume=HttpHook(path="/again?x=1"),
    )
    assert order.hooks == wanted
    await rig.node.snapshot_made(vm["id"])
    path = f"/v1/vm/{vm['id']}"
    await rig.eventually(path, snapshot={"kind": "ready", "state": "made"})
    await rig.ok("POST", f"/v1/vm/cached/{vm['id']}/start")
    assert (rig.node.vm_orders[0].run, rig.node.vm_orders[0].snapshot) == (1, "ready")
    assert rig.node.vm_orders[0].hooks == wanted


async def test_a_snapshot_that_fails_says_why_and_starts_begin_afresh(one: Rig) -> None:
    """So does one whose order the node refuses for good; one that it has no room for waits."""
    vm = await cache(one, snapshot="ready")
    await until(lambda: one.node.snapshot_orders, "the node has the order")
    await one.node.snapshot_failed(vm["id"], "It never listened.")
    failed = {"kind": "ready", "state": "failed", "error": "It never listened."}
    await one.eventually(f"/v1/vm/{vm['id']}", snapshot=failed)
    await one.ok("POST", f"/v1/vm/cached/{vm['id']}/start")
    assert one.node.vm_orders[-1].snapshot == "boot"
    one.node.refusal = FULL
    waits = await cache_after(one, 2)
    assert waits["snapshot"]["state"] == "making"
    one.node.refusal = (400, NodeProblem(code="invalid_request", detail="Not with this image."))
    why = {"kind": "ready", "state": "failed", "error": "Not with this image."}
    await one.eventually(f"/v1/vm/{waits['id']}", snapshot=why)


async def test_a_start_may_come_before_the_snapshot_is_ordered(one: Rig) -> None:
    """It has the snapshot made itself; that its order is refused meanwhile is no failure."""
    await cache(one)
    one.node.refusal = FULL
    vm = await cache_after(one, 1)
    one.node.refusal = None
    await one.ok("POST", f"/v1/vm/cached/{vm['id']}/start")
    assert one.node.vm_orders[-1].snapshot == "ready"
    later = await cache_after(one, 3)
    await until(lambda: later["id"] in one.node.snapshots, "the loop has seen to both")
    making = {"kind": "ready", "state": "making"}
    assert (await one.ok("GET", f"/v1/vm/{vm['id']}"))["snapshot"] == making
    one.node.snapshots[vm["id"]] = SnapshotReport(vm_id=vm["id"], state="made", size_bytes=1000)
    await cache_after(one, 4)
    await one.eventually(f"/v1/vm/{vm['id']}", snapshot={"kind": "ready", "state": "made"})


async def cache_after(rig: Rig, orders: int) -> Json:
    """Cache a VM of the image there is, and return it once the node had so many orders."""
    image_id = (await rig.ok("GET", "/v1/vms"))["vms"][0]["imageId"]
    vm = await rig.ok("POST", CACHE, json={"imageId": image_id, "snapshot": "ready"})
    await until(lambda: len(rig.node.snapshot_orders) >= orders, "the node has the order")
    return await rig.ok("GET", f"/v1/vm/{vm['id']}")


async def test_what_facts_would_have_said_is_asked_for(folder: Path, node: FakeNode) -> None:
    """A server that was away when the snapshot was made, and never gets the fact, finds out."""
    settings = settings_for(folder, None)
    async with running(settings, node) as rig:
        vm = await cache(rig, snapshot="ready")
        await until(lambda: vm["id"] in node.snapshots, "the node has the order")
    node.snapshots[vm["id"]] = node.snapshots[vm["id"]].model_copy(update={"state": "made"})
    async with running(settings, node) as rig:
        await rig.eventually(f"/v1/vm/{vm['id']}", snapshot={"kind": "ready", "state": "made"})
    assert len(node.snapshot_orders) == 1


async def test_a_log_goes_on_while_the_snapshot_is_made(one: Rig) -> None:
    """Lines of its making are in the log, and who follows it is sent away once it is made."""
    vm = await cache(one, snapshot="ready")
    await until(lambda: vm["id"] in one.node.snapshots, "the node makes the snapshot")
    path = f"/v1/vm/{vm['id']}/logs"
    async with one.client.stream("GET", path, params={"follow": "true"}) as response:
        await one.node.push(one.node.line(vm["id"], "warming up"))
        await one.node.snapshot_made(vm["id"])
        seen = [event async for event in events(response)]
    assert [event.message for event in seen if event.name == "message"] == ["warming up"]
    assert seen[-1].name == "end"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"snapshot": "ready", "volumeGB": 1}, "volume"),
        ({"snapshot": "ready", "diskSize": 1}, "volume"),
        ({"snapshot": "warm"}, "snapshot"),
        ({"hooks": {"beforeSnapshot": {"exec": ["/a"]}}}, "beforeSnapshot"),
        ({"snapshot": "ready", "hooks": {"beforeSnapshot": {}}}, "exactly one"),
        ({"hooks": {"afterResume": {"exec": ["/a"], "http": "/"}}, "port": 80}, "exactly one"),
        ({"hooks": {"afterResume": {"http": "/"}}}, "port"),
        ({"hooks": {"afterResume": {"http": "a b"}}, "port": 80}, "http"),
        ({"hooks": {"afterResume": {"exec": []}}}, "exec"),
        ({"hooks": {"afterResume": {"exec": ["/a", "\0"]}}}, "NUL"),
        ({"autoStart": True}, "port"),
        ({"autoStart": "yes", "port": 80}, "autoStart"),
        ({"idleTimeout": 5}, "port"),
        ({"idleTimeout": 0, "port": 80}, "idleTimeout"),
        ({"idleTimeout": 86401, "port": 80}, "idleTimeout"),
    ],
)
async def test_what_does_not_go_together_is_refused(one: Rig, fields: Json, word: str) -> None:
    """With a reason, and nothing is made."""
    body = {"imageId": await one.image(), **fields}
    assert word in str(await one.refused(400, "POST", CACHE, json=body))
    assert (await one.ok("GET", "/v1/vms"))["vms"] == []


async def test_memory_is_kept_until_the_next_start(rig: Rig) -> None:
    """keep=memory stops with the memory kept, whatever facts come; a stop leaves it so; a start
    goes on from it, and then it is used up."""
    vm = await started(rig)
    path, stop = f"/v1/vm/{vm['id']}", f"/v1/vm/cached/{vm['id']}/stop"
    asleep = await rig.ok("POST", stop, params={"keep": "memory"})
    assert (asleep["state"], asleep["memoryKept"]) == ("stopped", True)
    assert asleep["reason"] == "Stopped on request, with its memory kept."
    await until(lambda: not rig.node.facts, "the facts are applied")
    assert {**asleep, "updatedAt": None} == {**await rig.ok("GET", path), "updatedAt": None}
    for params in ({}, {"keep": "memory"}):
        assert (await rig.ok("POST", stop, params=params))["memoryKept"]
    rig.node.refusal = FULL
    await rig.refused(503, "POST", f"/v1/vm/cached/{vm['id']}/start")
    rig.node.refusal = None
    assert (await rig.ok("GET", path))["memoryKept"]
    assert "memoryKept" not in await rig.ok("POST", f"/v1/vm/cached/{vm['id']}/start")
    assert rig.node.vms[vm["id"]].began == "memory"
    await rig.ok("POST", stop)
    assert "memoryKept" not in await rig.ok("GET", path)


async def test_a_vm_whose_memory_cannot_be_kept_goes_on(one: Rig) -> None:
    """The call says why; other ways to keep are refused; so are VMs of startVM."""
    vm = await started(one)
    one.node.keeps = NodeProblem(code="conflict", detail="It has no room for that.")
    stop = f"/v1/vm/cached/{vm['id']}/stop"
    problem = await one.refused(409, "POST", stop, params={"keep": "memory"})
    assert "no room for that" in problem["detail"]
    await one.refused(400, "POST", stop, params={"keep": "disk"})
    assert (await one.ok("GET", f"/v1/vm/{vm['id']}"))["state"] == "started"
    other = await one.vm(vm["imageId"])
    await one.refused(409, "POST", f"/v1/vm/cached/{other['id']}/stop", params={"keep": "memory"})


async def test_destroying_removes_what_is_kept(one: Rig) -> None:
    """Snapshot and memory; what a crash left is removed by the loop, what is unknown is not."""
    vm = await ready(one)
    await one.ok("POST", f"/v1/vm/cached/{vm['id']}/start")
    await one.ok("POST", f"/v1/vm/cached/{vm['id']}/stop", params={"keep": "memory"})
    await one.ok("POST", f"/v1/vm/cached/{vm['id']}/destroy")
    assert (one.node.snapshots, one.node.memories) == ({}, set())
    one.node.memories |= {vm["id"], "0" * 14}
    await LeftoverLoop(one.server.database, one.server.node).one_pass()
    assert one.node.memories == {"0" * 14}


async def fork(rig: Rig, vm: Json, count: int, **request: Any) -> list[Json]:
    path = f"/v1/vm/cached/{vm['id']}/fork"
    return (await rig.ok("POST", path, json={"count": count}, **request))["vms"]


async def test_forks_are_vms_of_their_own(rig: Rig) -> None:
    """Each with its id, hostname and the parent's environment, port and hooks; stopVM ends them;
    the same key makes them once."""
    hooks = {"afterResume": {"exec": ["/again"]}}
    parent = await ready(rig, port=80, envVars={"A": "1"}, memory=512, hooks=hooks)
    key = {"headers": {"Idempotency-Key": "k"}}
    forks = await fork(rig, parent, 3, **key)
    assert await fork(rig, parent, 3, **key) == forks
    assert len({vm["id"] for vm in forks} | {parent["id"]}) == 4
    assert len({vm["hostname"] for vm in forks} | {parent["hostname"]}) == 4
    for vm in forks:
        assert (vm["state"], vm["forkOf"], vm["memory"]) == ("started", parent["id"], 512)
        assert "snapshot" not in vm
    for order in rig.node.vm_orders:
        assert (order.fork_of, order.run, order.env) == (parent["id"], 1, {"A": "1"})
        assert order.hooks.after_resume == ExecHook(argv=["/again"])
    await rig.ok("POST", f"/v1/vm/cached/{parent['id']}/destroy")
    assert rig.node.snapshots == {}
    assert (await rig.ok("POST", f"/v1/vm/{forks[0]['id']}/stop"))["state"] == "destroyed"
    assert len(rig.node.vms) == 2


async def test_only_a_snapshot_that_is_made_is_forked(one: Rig) -> None:
    """Else 409 says what to do; counts are bounded; others' VMs are not there."""
    plain, making = await cache(one), await cache(one, snapshot="ready")
    for vm, word in ((plain, "snapshot: ready"), (making, "still being made")):
        path = f"/v1/vm/cached/{vm['id']}/fork"
        assert word in (await one.refused(409, "POST", path, json={"count": 1}))["detail"]
    path = f"/v1/vm/cached/{plain['id']}/fork"
    for count in (0, 101, "1", None):
        await one.refused(400, "POST", path, json={"count": count})
    async with await one.other_account() as other:
        assert (await other.post(path, json={"count": 1})).status_code == 404


async def test_forks_are_all_or_none(one: Rig) -> None:
    """Beyond the quota nothing is begun; without room what was started is ended again."""
    parent = await ready(one)
    path = f"/v1/vm/cached/{parent['id']}/fork"
    await one.refused(429, "POST", path, json={"count": 6})
    assert one.node.vm_orders == []
    one.node.full_after = 2
    problem = await one.refused(503, "POST", path, json={"count": 5})
    assert problem["code"] == "no_room"
    assert one.node.vms == {}
    left = (await one.ok("GET", "/v1/vms"))["vms"]
    assert {vm["state"] for vm in left if "forkOf" in vm} <= {"destroyed"}


async def test_a_snapshot_that_the_host_lost_is_made_anew(one: Rig) -> None:
    """The fork is refused and says so, and none is left."""
    parent = await ready(one)
    del one.node.snapshots[parent["id"]]
    path = f"/v1/vm/cached/{parent['id']}/fork"
    assert "anew" in (await one.refused(409, "POST", path, json={"count": 2}))["detail"]
    await until(lambda: parent["id"] in one.node.snapshots, "the node makes it anew")
    await one.node.snapshot_made(parent["id"])
    made = {"kind": "ready", "state": "made"}
    await one.eventually(f"/v1/vm/{parent['id']}", snapshot=made)
    assert len(await fork(one, parent, 2)) == len(one.node.vms) == 2


async def test_forks_that_were_cut_off_are_had_once(one: Rig) -> None:
    """A request that is gone while the node is at work is carried on with by its repetition."""
    parent = await ready(one)
    one.node.may_answer.clear()

    def ask() -> asyncio.Task[list[VmRow]]:
        work = one.server.forks.fork(AccountId("default"), VmId(parent["id"]), 3, "t" * 32)
        return asyncio.create_task(work)

    cut_off = ask()
    await until(lambda: len(one.node.vm_orders) == 3, "the orders are given")
    cut_off.cancel()
    await asyncio.wait([cut_off])
    one.node.may_answer.set()
    rows = await ask()
    assert {row.state for row in rows} == {"started"}
    assert {row.id for row in rows} == set(one.node.vms)
    assert len(rows) == 3


async def test_idle_vms_are_put_to_rest(one: Rig) -> None:
    """When no request came for so long: not while one is under way, nor right after it, nor while
    there is no router to say. The server's own loop, which has the real time, has none to put to
    rest meanwhile."""
    vm = await started(one, port=80, idleTimeout=1000)
    now = [0.0]
    loop = IdleLoop(one.server.routes, one.server.gates, one.server.cached_vms, lambda: now[0])
    first, second = Activity(lambda: now[0]), Activity(lambda: now[0])
    path = f"/v1/vm/{vm['id']}"

    async def state_at(moment: float) -> str:
        now[0] = moment
        await loop.one_pass()
        return (await one.ok("GET", path))["state"]

    assert await state_at(0) == await state_at(3000) == "started"
    async with linked(one.settings, first), linked(one.settings, second):
        assert await state_at(3990) == "started"
        async with second.visit(vm["id"], inf):
            assert await state_at(5000) == "started"
        assert await state_at(5990) == "started"
        one.node.keeps = NodeProblem(code="conflict", detail="not now")
        assert await state_at(6000) == "started"
        one.node.keeps = None
        assert await state_at(6990) == "started"
        assert await state_at(7000) == "stopped"
        async with asyncio.timeout(DEADLINE_S):
            async with first.visit(vm["id"], inf), second.visit(vm["id"], inf):
                pass
    asleep = await one.ok("GET", path)
    assert asleep["reason"] == "Idle: no request for 1000 s. Its memory is kept."
    assert asleep["memoryKept"]
    assert asleep["idleTimeout"] == 1000


async def test_a_program_that_keeps_ending_is_woken_later_and_later(one: Rig) -> None:
    """One start for all who wait; then a pause that doubles; none after a stop on request."""
    vm = await cache(one, port=80, autoStart=True)
    now = [100.0]
    wakes = Wakes(one.server.database, one.server.cached_vms, one.server.space, lambda: now[0])
    one.node.ends_at_once = True
    outcomes = await asyncio.gather(
        *(wakes.wake(vm["id"]) for _ in range(9)), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {Conflict}
    assert len(one.node.vm_orders) == 1
    for pause in (1, 2, 4):
        with pytest.raises(Unavailable) as caught:
            await wakes.wake(vm["id"])
        assert caught.value.retry_after_s == pause
        now[0] += pause
        with pytest.raises(Conflict):
            await wakes.wake(vm["id"])
    one.node.ends_at_once = False
    now[0] += 8
    await wakes.wake(vm["id"])
    await one.server.cached_vms.suspend(AccountId("default"), VmId(vm["id"]))
    await wakes.wake(vm["id"])
    assert one.node.vms[vm["id"]].began == "memory"
    for _ in range(3):
        await one.ok("POST", f"/v1/vm/cached/{vm['id']}/stop")
        await wakes.wake(vm["id"])
    await one.ok("POST", f"/v1/vm/cached/{vm['id']}/destroy")
    with pytest.raises(NotFound):
        await wakes.wake(vm["id"])


async def test_a_vm_is_not_woken_beyond_the_quota(one: Rig) -> None:
    """Its account is told so, and when there is room it is woken without a pause."""
    vm = await cache(one, port=80, autoStart=True)
    others = [await one.vm(vm["imageId"]) for _ in range(5)]
    wakes = Wakes(one.server.database, one.server.cached_vms, one.server.space)
    with pytest.raises(QuotaExceeded):
        await wakes.wake(vm["id"])
    await one.ok("POST", f"/v1/vm/{others[0]['id']}/stop")
    await wakes.wake(vm["id"])
    assert (await one.ok("GET", f"/v1/vm/{vm['id']}"))["state"] == "started"
