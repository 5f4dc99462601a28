"""cacheVM, startCachedVM, stopCachedVM, destroyCachedVM, getCachedVMLogs, through HTTP."""

import asyncio
import re
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cakework.domain.errors import Unavailable
from cakework.domain.ids import IMAGE_ID_PATTERN, VM_ID_PATTERN, AccountId, VmId, new_image_id
from cakework.domain.orders import NodeProblem
from cakework.domain.vms import VmState
from cakework.server.loops.vms import VmLoop
from cakework.server.store.models import VmRow

from .fake_node import FakeNode
from .rig import Json, Rig, running, settings_for, until

pytestmark = pytest.mark.anyio
CACHE = "/v1/vm/cache"
FULL = (503, NodeProblem(code="no_room", detail="The host is full."))


@pytest.fixture
async def one(folder: Path, node: FakeNode, anyio_backend: str) -> AsyncGenerator[Rig]:
    """A server on SQLite."""
    async with running(settings_for(folder, None), node) as served:
        yield served


async def cache(rig: Rig, image_id: str | None = None, **fields: Any) -> Json:
    body = {"imageId": image_id or await rig.image(), **fields}
    return await rig.ok("POST", CACHE, json=body)


async def call(rig: Rig, vm: Json, what: str) -> Json:
    return await rig.ok("POST", f"/v1/vm/cached/{vm['id']}/{what}")


async def state_of(rig: Rig, vm: Json) -> str:
    return (await rig.ok("GET", f"/v1/vm/{vm['id']}"))["state"]


async def test_a_cached_vm_has_every_field_of_the_contract(one: Rig) -> None:
    """cacheVM answers the whole shape, stopped; getVm and listVMs the same; nothing runs yet."""
    env = {"A": "1"}
    vm = await cache(one, cpu=2, memory=512, port=8080, envVars=env, diskSize=3)
    assert re.match(VM_ID_PATTERN, vm["id"])
    assert re.match(IMAGE_ID_PATTERN, vm["imageId"])
    assert re.match(r"^[0-9a-z]{26}\.localhost$", vm["hostname"])
    assert vm["url"] == f"http://{vm['hostname']}:8082/"
    expected = {"cpu": 2, "memory": 512, "port": 8080, "volumeGB": 3, "state": "stopped"}
    assert vm | expected == vm
    assert vm.keys() == {
        *("id", "hostname", "url", "cpu", "memory", "imageId", "state", "port", "volumeGB"),
        *("createdAt", "updatedAt"),
    }
    assert await one.ok("GET", f"/v1/vm/{vm['id']}") == vm
    assert await one.ok("GET", "/v1/vms", params={"status": "stopped"}) == {"vms": [vm]}
    assert (one.node.vm_orders, one.node.volumes) == ([], set())


async def test_the_volumes_size_has_two_names(one: Rig) -> None:
    """diskSize and volumeGB mean the same; without either there is none; two sizes are refused."""
    image_id = await one.image()
    for fields, size in (
        ({"diskSize": 1}, 1),
        ({"volumeGB": 500}, 500),
        ({"diskSize": 2, "volumeGB": 2}, 2),
        ({}, 0),
        ({"diskSize": None, "volumeGB": None}, 0),
    ):
        assert (await cache(one, image_id, **fields))["volumeGB"] == size
    body = {"imageId": image_id, "diskSize": 1, "volumeGB": 2}
    problem = await one.refused(400, "POST", CACHE, json=body)
    assert "diskSize" in problem["detail"]


@pytest.mark.parametrize(
    "fields",
    [
        *({"diskSize": bad} for bad in (0, 501, "1", 1.5)),
        *({"volumeGB": bad} for bad in (0, 501)),
        *({"cpu": bad} for bad in (0, 9)),
        *({"memory": bad} for bad in (255, 16385)),
        {"port": 0},
        {"envVars": {"A=B": "x"}},
    ],
)
async def test_what_is_out_of_range_is_refused(
    folder: Path, node: FakeNode, fields: dict[str, Any]
) -> None:
    """400 names the field at fault, and nothing has changed."""
    async with running(settings_for(folder, None), node) as rig:
        problem = await rig.refused(400, "POST", CACHE, json={"imageId": new_image_id(), **fields})
        assert problem["errors"][0]["field"].split(".")[0] in fields
        assert await rig.ok("GET", "/v1/vms") == {"vms": []}


@pytest.mark.parametrize("image_id", ["", "nope", "0" * 26])
async def test_an_unknown_image_is_not_there(one: Rig, image_id: str) -> None:
    """Caching what is no image of the account's gets 404."""
    await one.refused(404, "POST", CACHE, json={"imageId": image_id})


async def test_it_is_started_and_stopped_again_and_again(rig: Rig) -> None:
    """Each start is a run of its own with the environment, port, hostname and volume of before."""
    vm = await cache(rig, port=80, envVars={"SECRET": "s3"}, volumeGB=2)
    for run in (1, 2, 3):
        started = await call(rig, vm, "start")
        assert started["state"] == "started"
        assert "exitCode" not in started
        assert "reason" not in started
        assert (started["hostname"], started["port"]) == (vm["hostname"], 80)
        order = rig.node.vm_orders[-1]
        assert (order.run, order.volume_gb, order.volume_kept) == (run, 2, True)
        assert (order.env, order.hostname, order.port) == ({"SECRET": "s3"}, vm["hostname"], 80)
        stopped = await call(rig, vm, "stop")
        assert (stopped["state"], stopped["exitCode"]) == ("stopped", 143)
        assert stopped["reason"]
    assert rig.node.volumes == {vm["id"]}


async def test_it_stops_when_its_program_ends_and_can_be_started_again(one: Rig) -> None:
    """`stopped` carries exit code and reason, which are gone once it is started again."""
    vm = await cache(one)
    path = f"/v1/vm/{vm['id']}"
    await call(one, vm, "start")
    await one.node.stopped(vm["id"], "The program ended.", 7, run=1)
    await one.eventually(path, state="stopped", exitCode=7, reason="The program ended.")
    assert await call(one, vm, "stop") == await one.ok("GET", path)
    again = await call(one, vm, "start")
    assert again["state"] == "started"
    assert "exitCode" not in again
    one.node.ends_at_once = True
    await call(one, vm, "stop")
    at_once = await call(one, vm, "start")
    assert (at_once["state"], at_once["exitCode"]) == ("stopped", 3)


async def test_doing_it_again_is_no_error_and_changes_nothing(one: Rig) -> None:
    """Starting what runs, stopping what is stopped, destroying what is destroyed answer as is."""
    vm = await cache(one, volumeGB=1)
    assert await call(one, vm, "stop") == vm
    for what in ("start", "stop", "start", "destroy"):
        first = await call(one, vm, what)
        orders = len(one.node.vm_orders), len(one.node.stops)
        assert await call(one, vm, what) == first
        assert (len(one.node.vm_orders), len(one.node.stops)) == orders
    assert await call(one, vm, "stop") == first


@pytest.mark.parametrize("path", ["/v1/vm/cached/{}/destroy", "/v1/vm/{}/destroy"])
@pytest.mark.parametrize("one_time", [False, True])
async def test_destroying_ends_it_for_good_and_frees_the_volume(
    one: Rig, path: str, one_time: bool
) -> None:
    """In both spellings, for both kinds; record and log stay, it cannot be started again."""
    if one_time:
        vm = await one.vm(volumeGB=1)
    else:
        vm = await cache(one, volumeGB=1)
        await call(one, vm, "start")
        assert one.node.volumes == {vm["id"]}
    await one.node.push(one.node.line(vm["id"], "last words"))
    gone = await one.ok("POST", path.format(vm["id"]))
    assert gone["state"] == "destroyed"
    assert (one.node.vms, one.node.volumes) == ({}, set())
    assert await one.ok("POST", path.format(vm["id"])) == gone
    assert await one.messages(f"/v1/vm/{vm['id']}/logs", 1) == ["last words"]
    await one.refused(409, "POST", f"/v1/vm/cached/{vm['id']}/start")
    assert await one.ok("GET", f"/v1/vm/{vm['id']}") == gone


async def test_calls_for_the_other_kind_say_which_call_to_use(one: Rig) -> None:
    """stopVM on a cached VM, and cached calls on a one-time VM, get 409 and change nothing."""
    cached, one_time = await cache(one), await one.vm()
    await call(one, cached, "start")
    problem = await one.refused(409, "POST", f"/v1/vm/{cached['id']}/stop")
    assert problem["code"] == "conflict"
    assert "/v1/vm/cached/{id}/stop" in problem["detail"]
    for what in ("start", "stop"):
        problem = await one.refused(409, "POST", f"/v1/vm/cached/{one_time['id']}/{what}")
        assert "stopVM" in problem["detail"]
    assert [await state_of(one, vm) for vm in (cached, one_time)] == ["started", "started"]


async def test_no_room_leaves_it_stopped_as_it_was(rig: Rig) -> None:
    """503 with Retry-After; exit code and reason of the last run stay; it starts later."""
    vm = await cache(rig)
    await call(rig, vm, "start")
    before = await call(rig, vm, "stop")
    rig.node.refusal = FULL
    response = await rig.client.post(f"/v1/vm/cached/{vm['id']}/start")
    assert (response.status_code, response.json()["code"]) == (503, "no_room")
    assert response.headers["retry-after"] == "7"
    after = await rig.ok("GET", f"/v1/vm/{vm['id']}")
    assert {**after, "updatedAt": ""} == {**before, "updatedAt": ""}
    rig.node.refusal = None
    assert (await call(rig, vm, "start"))["state"] == "started"


async def test_quotas_hold(folder: Path, node: FakeNode) -> None:
    """So many cached VMs, running or not, and so many VMs of both kinds started."""
    settings = settings_for(folder, None, max_cached_vms_per_account=2, max_vms_per_account=1)
    async with running(settings, node) as rig:
        image_id = await rig.image()
        first, second = await cache(rig, image_id), await cache(rig, image_id)
        problem = await rig.refused(429, "POST", CACHE, json={"imageId": image_id})
        assert problem["code"] == "quota_exceeded"
        await call(rig, first, "start")
        await rig.refused(429, "POST", f"/v1/vm/cached/{second['id']}/start")
        await rig.refused(429, "POST", "/v1/vm/start", json={"imageId": image_id})
        assert await state_of(rig, second) == "stopped"
        await call(rig, first, "destroy")
        await call(rig, second, "start")
        await cache(rig, image_id)


async def test_what_is_said_of_an_earlier_run_changes_nothing(rig: Rig) -> None:
    """Facts of run 1 that come late leave run 2 as it is; its own are believed."""
    vm = await cache(rig)
    for what in ("start", "stop", "start"):
        await call(rig, vm, what)
    await rig.node.stopped(vm["id"], "Old news.", 1, run=1)
    await rig.node.started(vm["id"], run=1)
    await rig.node.push(rig.node.line(vm["id"], "after"))
    await rig.messages(f"/v1/vm/{vm['id']}/logs", 1)
    assert await state_of(rig, vm) == "started"
    await rig.node.stopped(vm["id"], "Over.", 5, run=2)
    await rig.eventually(f"/v1/vm/{vm['id']}", state="stopped", exitCode=5, reason="Over.")


async def test_its_log_goes_through_all_runs(one: Rig) -> None:
    """getCachedVMLogs answers as getVMLogs; lines of later runs follow those of earlier ones."""
    vm = await cache(one)
    path = f"/v1/vm/cached/{vm['id']}/logs"
    assert await one.ok("GET", path) == {"lines": []}
    for run in (1, 2):
        await call(one, vm, "start")
        await one.node.push(one.node.line(vm["id"], f"run {run}"))
        await one.node.stopped(vm["id"], "Over.", 0, run=run)
        await one.eventually(f"/v1/vm/{vm['id']}", state="stopped")
    assert await one.messages(path, 2) == ["run 1", "run 2"]
    assert [order.lines_before for order in one.node.vm_orders] == [0, 1]
    assert await one.ok("GET", path) == await one.ok("GET", f"/v1/vm/{vm['id']}/logs")


async def test_a_stop_that_overtakes_a_start_waits_for_it(one: Rig) -> None:
    """Calls on one VM are carried out one after the other; it ends as the last one says."""
    vm = await cache(one)
    one.node.may_answer.clear()
    start = asyncio.create_task(call(one, vm, "start"))
    await until(lambda: one.node.vm_orders, "the order has arrived")
    stop = asyncio.create_task(call(one, vm, "stop"))
    one.node.may_answer.set()
    assert (await start)["state"] == "started"
    assert (await stop)["state"] == "stopped"
    assert one.node.vms == {}


async def test_a_start_that_is_never_answered_is_stopped(
    folder: Path, database_url: str | None
) -> None:
    """503; when the node is back the VM is ended there, stopped, and can be started again."""
    settings = settings_for(folder, database_url)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        async with node.serving():
            vm = await cache(rig)
            node.may_answer.clear()
            start = asyncio.create_task(rig.client.post(f"/v1/vm/cached/{vm['id']}/start"))
            await until(lambda: node.vm_orders, "the order has arrived")
        assert (await start).status_code == 503
        node.may_answer.set()
        async with node.serving():
            stopped = await rig.eventually(f"/v1/vm/{vm['id']}", state="stopped")
            assert stopped["reason"]
            rig.server.vms.hint()
            await until(lambda: node.vms == {}, "nothing of it runs")
            assert (await call(rig, vm, "start"))["state"] == "started"
            assert node.vm_orders[-1].run == 2


async def test_a_start_that_was_given_up_is_begun_anew(
    folder: Path, database_url: str | None
) -> None:
    """The request, repeated after it was cut off, starts the VM and does not find it stopped."""
    settings = settings_for(folder, database_url)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        async with node.serving():
            vm = await cache(rig)
        start = partial(rig.server.cached_vms.start, AccountId("default"), VmId(vm["id"]), "token")
        with pytest.raises(Unavailable):
            await start()
        async with node.serving():
            await rig.eventually(f"/v1/vm/{vm['id']}", state="stopped")
            row = (await start()).row
            assert (row.state, row.run) == (VmState.STARTED, 2)


async def test_destroying_while_the_node_is_away_is_done_when_it_is_back(
    folder: Path, database_url: str | None
) -> None:
    """503 at first, no start is taken any more, and then VM and volume are gone."""
    settings = settings_for(folder, database_url)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        async with node.serving():
            vm = await cache(rig, volumeGB=1)
            await call(rig, vm, "start")
        await rig.refused(503, "POST", f"/v1/vm/cached/{vm['id']}/destroy")
        for what in ("start", "stop"):
            await rig.refused(409, "POST", f"/v1/vm/cached/{vm['id']}/{what}")
        async with node.serving():
            await rig.eventually(f"/v1/vm/{vm['id']}", state="destroyed")
            assert (node.vms, node.volumes) == ({}, set())


async def test_a_start_or_stop_cut_off_by_a_crash_is_carried_on(
    folder: Path, node: FakeNode
) -> None:
    """The next server gives the order of a start again, and ends what was to be stopped."""
    settings = settings_for(folder, None)
    async with running(settings, node) as rig:
        starting, stopping = await cache(rig), await cache(rig)
        await call(rig, stopping, "start")
        async with rig.server.database.writing() as session:
            for vm, values in (
                (starting, {"state": "created", "wanted": "started", "run": 1}),
                (stopping, {"wanted": "stopped"}),
            ):
                row = await session.get(VmRow, vm["id"])
                for name, value in values.items():
                    setattr(row, name, value)
    async with running(settings, node) as rig:
        await rig.eventually(f"/v1/vm/{starting['id']}", state="started")
        await rig.eventually(f"/v1/vm/{stopping['id']}", state="stopped")
    assert set(node.vms) == {starting["id"]}


async def test_an_idempotent_start_is_done_once(rig: Rig) -> None:
    """The same key starts no second run, also when its answer was lost before it was kept."""
    vm = await cache(rig)
    headers = {"Idempotency-Key": "again"}
    path = f"/v1/vm/cached/{vm['id']}/start"
    first = await rig.ok("POST", path, headers=headers)
    assert await rig.ok("POST", path, headers=headers) == first
    token = await _start_token(rig, vm)
    await call(rig, vm, "stop")
    row = (await rig.server.cached_vms.start(AccountId("default"), VmId(vm["id"]), token)).row
    assert (row.state, row.run) == (VmState.STOPPED, 1)
    made = [await cache(rig, vm["imageId"]) for _ in range(2)]
    assert made[0]["id"] != made[1]["id"]


async def _start_token(rig: Rig, vm: Json) -> str:
    async with rig.server.database.reading() as session:
        token = await session.scalar(select(VmRow.start_token).where(VmRow.id == vm["id"]))
    assert token
    return token


async def test_an_idempotent_cache_makes_one_vm(one: Rig) -> None:
    """The same key and body answer alike and make one VM."""
    body, headers = {"imageId": await one.image()}, {"Idempotency-Key": "one"}
    first = await one.ok("POST", CACHE, json=body, headers=headers)
    assert await one.ok("POST", CACHE, json=body, headers=headers) == first
    assert (await one.ok("GET", "/v1/vms"))["vms"] == [first]


async def test_a_cached_vm_that_the_node_lost_is_stopped(one: Rig) -> None:
    """Missing in two passes running, the same run; one started again meanwhile is not lost."""
    vm = await cache(one)
    loop = VmLoop(
        *(one.server.database, one.server.node, one.server.vm_states),
        *(one.server.vms, one.server.cached_vms),
    )
    await call(one, vm, "start")
    one.node.vms.clear()
    await loop.one_pass()
    await call(one, vm, "stop")
    await call(one, vm, "start")
    one.node.vms.clear()
    await loop.one_pass()
    assert await state_of(one, vm) == "started"
    await loop.one_pass()
    assert await state_of(one, vm) == "stopped"


async def test_routes_lead_to_it_in_every_run(one: Rig) -> None:
    """The hostname stays with it, with its state, until it is destroyed."""
    vm = await cache(one, port=80)
    for what, state in (("stop", "stopped"), ("start", "started"), ("stop", "stopped")):
        await call(one, vm, what)
        route = one.server.routes.find(vm["hostname"])
        assert route is not None
        assert route.state == state
    await call(one, vm, "destroy")
    assert one.server.routes.find(vm["hostname"]) is None
