import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from cakework.domain.errors import Unavailable
from cakework.domain.ids import IMAGE_ID_PATTERN, VM_ID_PATTERN, AccountId, ImageId, new_image_id
from cakework.domain.orders import NodeProblem
from cakework.domain.vms import Shape, VmState
from cakework.server.services.vms import NewVm

from .fake_node import FakeNode
from .rig import Rig, eventually, running, settings_for, until

pytestmark = pytest.mark.anyio
START = "/v1/vm/start"


async def test_a_started_vm_has_every_field_of_the_contract(rig: Rig) -> None:
    """startVM answers the whole shape, and getVm and listVMs, in both spellings, the same."""
    image_id = await rig.image()
    vm = await rig.vm(image_id, cpu=2, memory=512, port=8080, envVars={"A": "1"})
    assert re.match(VM_ID_PATTERN, vm["id"])
    assert re.match(IMAGE_ID_PATTERN, vm["imageId"])
    assert re.match(r"^[0-9a-z]{26}\.localhost$", vm["hostname"])
    assert vm["url"] == f"http://{vm['hostname']}:8082/"
    for at in (vm["createdAt"], vm["updatedAt"]):
        assert re.match(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", at)
    expected = {"cpu": 2, "memory": 512, "port": 8080, "volumeGB": 0, "state": "started"}
    assert vm | expected == vm
    assert vm.keys() == {
        *("id", "hostname", "url", "cpu", "memory", "imageId", "state", "port", "volumeGB"),
        *("createdAt", "updatedAt"),
    }
    assert await rig.ok("GET", f"/v1/vm/{vm['id']}") == vm
    for path in ("/v1/vms", "/vms"):
        assert await rig.ok("GET", path) == {"vms": [vm]}
    (order,) = rig.node.vm_orders
    assert order.env == {"A": "1"}
    assert (order.vm_id, order.hostname, order.port) == (vm["id"], vm["hostname"], 8080)


async def test_what_is_not_given_gets_its_default(rig: Rig) -> None:
    """Without cpu and memory a VM has 1 and 256, without a port neither port nor url."""
    vm = await rig.vm(cpu=None, port=None)
    assert (vm["cpu"], vm["memory"]) == (1, 256)
    assert "port" not in vm
    assert "url" not in vm


@pytest.mark.parametrize(
    "fields",
    [
        {"cpu": 8, "memory": 16384, "port": 65535, "volumeGB": 500},
        {"cpu": 1, "memory": 256, "port": 1, "volumeGB": 1},
    ],
)
async def test_the_bounds_themselves_are_taken(
    folder: Path, node: FakeNode, fields: dict[str, int]
) -> None:
    """By startVM and by cacheVM, and they are what the node is asked for."""
    async with running(settings_for(folder, None), node) as rig:
        image_id = await rig.image()
        vm = await rig.vm(image_id, **fields)
        cached = await rig.ok("POST", "/v1/vm/cache", json={"imageId": image_id, **fields})
        await rig.ok("POST", f"/v1/vm/cached/{cached['id']}/start")
        for each, order in zip((vm, cached), node.vm_orders, strict=True):
            assert each | fields == each
            assert order.shape == Shape(cpu=fields["cpu"], memory_mb=fields["memory"])
            assert (order.port, order.volume_gb) == (fields["port"], fields["volumeGB"])


BAD_FIELDS: list[dict[str, Any]] = [
    *({"cpu": bad} for bad in (0, 9, "1", True, 1.5)),
    *({"memory": bad} for bad in (255, 16385, "256")),
    *({"port": bad} for bad in (0, 65536, "80")),
    *({"volumeGB": bad} for bad in (0, 501)),
    *({"envVars": bad} for bad in (list[str](), {"": "x"}, {"A=B": "x"})),
    *({"envVars": bad} for bad in ({"A": "\0"}, {"A": 1})),
    {"envVars": {"A": "x" * 200_000}},
]


@pytest.mark.parametrize("fields", BAD_FIELDS)
async def test_what_is_out_of_range_or_of_another_type_is_refused(
    folder: Path, node: FakeNode, fields: dict[str, Any]
) -> None:
    """400 names the field at fault, and nothing has changed."""
    async with running(settings_for(folder, None), node) as rig:
        problem = await rig.refused(400, "POST", START, json={"imageId": new_image_id(), **fields})
        assert problem["code"] == "invalid_request"
        assert problem["errors"][0]["field"].split(".")[0] in fields
        assert await rig.ok("GET", "/v1/vms") == {"vms": []}
        assert node.vm_orders == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'"x"', b"[" * 100_000, b'{"imageId": 1}']
)
async def test_a_body_that_is_no_order_is_refused(
    folder: Path, node: FakeNode, body: bytes
) -> None:
    """Whatever is sent instead of an order gets 400."""
    async with running(settings_for(folder, None), node) as rig:
        headers = {"Content-Type": "application/json"}
        await rig.refused(400, "POST", START, content=body, headers=headers)


async def test_half_a_character_is_refused(rig: Rig) -> None:
    """A lone surrogate, which JSON can spell and UTF-8 cannot, gets 400 and not 500."""
    body = b'{"imageId": "%s", "envVars": {"A": "\\ud800"}}' % new_image_id().encode()
    headers = {"Content-Type": "application/json"}
    await rig.refused(400, "POST", START, content=body, headers=headers)


@pytest.mark.parametrize("image_id", ["", "nope", "0" * 26, "\0", "é" * 40])
async def test_an_unknown_image_is_not_there(rig: Rig, image_id: str) -> None:
    """Starting from what is no image of the account's gets 404."""
    await rig.refused(404, "POST", START, json={"imageId": image_id})


async def test_the_image_of_an_unfinished_or_failed_build_is_not_there(rig: Rig) -> None:
    """An image exists once its build has succeeded."""
    build_id = (await rig.build())["buildId"]
    await until(lambda: rig.node.build_orders, "the node has the order")
    image_id = rig.node.build_orders[0].image_id
    await rig.refused(404, "POST", START, json={"imageId": image_id})
    await rig.node.fail(build_id, "no")
    await rig.eventually(f"/v1/image/build/{build_id}", status="failed")
    await rig.refused(404, "POST", START, json={"imageId": image_id})


async def test_a_program_that_ended_at_once_is_answered_as_it_is(rig: Rig) -> None:
    """The answer to a start is never ``created``: it is stopped, with exit code and reason."""
    rig.node.ends_at_once = True
    vm = await rig.vm()
    assert (vm["state"], vm["exitCode"], vm["reason"]) == ("stopped", 3, "The program ended.")


async def test_no_room_leaves_nothing(rig: Rig) -> None:
    """The node's no_room becomes 503 with its Retry-After, and no VM is left."""
    image_id = await rig.image()
    rig.node.refusal = (503, NodeProblem(code="no_room", detail="The host is full."))
    response = await rig.client.post(START, json={"imageId": image_id})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "7"
    assert response.json()["code"] == "no_room"
    assert await rig.ok("GET", "/v1/vms") == {"vms": []}


@pytest.mark.parametrize(
    ("code", "status"),
    [("invalid_request", 400), ("conflict", 409), ("not_found", 409), ("internal_error", 500)],
)
async def test_other_refusals_of_the_node_leave_nothing(
    folder: Path, node: FakeNode, code: str, status: int
) -> None:
    """Each gets its status; what went wrong inside the node is not told to the caller."""
    async with running(settings_for(folder, None), node) as rig:
        image_id = await rig.image()
        node.refusal = (500, NodeProblem(code=code, detail="a secret path"))
        problem = await rig.refused(status, "POST", START, json={"imageId": image_id})
        assert ("a secret path" in problem["detail"]) == (code in ("invalid_request", "conflict"))
        assert await rig.ok("GET", "/v1/vms") == {"vms": []}


async def test_an_unreachable_node_is_503_and_what_it_began_is_ended(
    folder: Path, database_url: str | None
) -> None:
    """A start whose answer is never seen is destroyed when the node is back."""
    settings = settings_for(folder, database_url)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        async with node.serving():
            image_id = await rig.image()
            node.may_answer.clear()
            start = asyncio.create_task(rig.client.post(START, json={"imageId": image_id}))
            await until(lambda: node.vm_orders, "the order has arrived")
        assert (await start).status_code == 503
        vm_id = node.vm_orders[0].vm_id
        node.may_answer.set()
        async with node.serving():
            await rig.eventually(f"/v1/vm/{vm_id}", state="destroyed")
            await until(lambda: not node.vms, "what the node began after all is ended too")
            assert vm_id in node.stops


async def test_a_start_that_was_given_up_is_not_taken_up_again(
    folder: Path, database_url: str | None
) -> None:
    """The request, repeated after it was cut off, gets another VM, not the one that is ended."""
    settings = settings_for(folder, database_url)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        async with node.serving():
            new = NewVm(ImageId(await rig.image()), Shape())
        with pytest.raises(Unavailable):
            await rig.server.vms.start(AccountId("default"), new, "token")
        async with node.serving():
            row = (await rig.server.vms.start(AccountId("default"), new, "token")).row
            assert row.state == VmState.STARTED
            first, second = (await rig.ok("GET", "/v1/vms"))["vms"]
            assert first["id"] == row.id
            await rig.eventually(f"/v1/vm/{second['id']}", state="destroyed")
            assert set(node.vms) == {row.id}


async def test_stopping_destroys_and_stopping_again_changes_nothing(rig: Rig) -> None:
    """stopVM answers ``destroyed`` each time; the node is asked once; log and record stay."""
    vm = await rig.vm()
    first = await rig.ok("POST", f"/v1/vm/{vm['id']}/stop")
    assert first["state"] == "destroyed"
    assert await rig.ok("POST", f"/v1/vm/{vm['id']}/stop") == first
    assert rig.node.stops == [vm["id"]]
    assert await rig.ok("GET", f"/v1/vm/{vm['id']}") == first


async def test_stopping_what_ended_by_itself_destroys_it(rig: Rig) -> None:
    """A VM that is ``stopped`` keeps exit code and reason, and stopVM makes it ``destroyed``."""
    vm = await rig.vm()
    await rig.node.stopped(vm["id"], "The program ended.", 137)
    path = f"/v1/vm/{vm['id']}"
    await rig.eventually(path, state="stopped", exitCode=137, reason="The program ended.")
    gone = await rig.ok("POST", f"{path}/stop")
    assert (gone["state"], gone["exitCode"]) == ("destroyed", 137)
    assert rig.node.stops == []


async def test_stopping_while_starting_waits_for_the_start(rig: Rig) -> None:
    """A stop that overtakes a start leaves no VM behind."""
    image_id = await rig.image()
    rig.node.may_answer.clear()
    start = asyncio.create_task(rig.client.post(START, json={"imageId": image_id}))
    await until(lambda: rig.node.vm_orders, "the order has arrived")
    vm_id = rig.node.vm_orders[0].vm_id
    stop = asyncio.create_task(rig.client.post(f"/v1/vm/{vm_id}/stop"))
    rig.node.may_answer.set()
    assert (await start).status_code == 200
    assert (await stop).json()["state"] == "destroyed"
    assert rig.node.vms == {}


async def test_a_client_that_goes_away_leaves_a_whole_vm(rig: Rig) -> None:
    """A start whose caller hangs up is carried to its end."""
    image_id = await rig.image()
    rig.node.may_answer.clear()
    start = asyncio.create_task(rig.client.post(START, json={"imageId": image_id}))
    await until(lambda: rig.node.vm_orders, "the order has arrived")
    start.cancel()
    await asyncio.wait([start])
    rig.node.may_answer.set()
    await rig.eventually(f"/v1/vm/{rig.node.vm_orders[0].vm_id}", state="started")


async def test_the_quota_counts_what_runs(folder: Path, node: FakeNode) -> None:
    """One VM more than the account may have gets 429; one that stopped makes room."""
    async with running(settings_for(folder, None, max_vms_per_account=2), node) as rig:
        image_id = await rig.image()
        first = await rig.vm(image_id)
        await rig.vm(image_id)
        problem = await rig.refused(429, "POST", START, json={"imageId": image_id})
        assert problem["code"] == "quota_exceeded"
        await rig.ok("POST", f"/v1/vm/{first['id']}/stop")
        await rig.vm(image_id)


async def test_the_quota_holds_for_starts_at_once(folder: Path, database_url: str | None) -> None:
    """Of ten starts at the same time exactly as many succeed as the account may have."""
    settings = settings_for(folder, database_url, max_vms_per_account=3)
    async with FakeNode(settings.node_socket).serving() as node, running(settings, node) as rig:
        image_id = await rig.image()
        calls = [rig.client.post(START, json={"imageId": image_id}) for _ in range(10)]
        statuses = [response.status_code for response in await asyncio.gather(*calls)]
        assert sorted(statuses) == [200] * 3 + [429] * 7


async def test_vms_are_filtered_by_image_and_state(rig: Rig) -> None:
    """imageId and status choose; an unknown image gives an empty list, a wrong state 400."""
    image_id, other = await rig.image(), await rig.image()
    vm = await rig.vm(image_id)
    await rig.vm(other)
    assert (await rig.ok("GET", "/v1/vms", params={"imageId": image_id}))["vms"] == [vm]
    gone = await rig.ok("POST", f"/v1/vm/{vm['id']}/stop")
    for path in ("/v1/vms", "/vms"):
        found = await rig.ok("GET", path, params={"status": "destroyed"})
        assert found["vms"] == [gone]
    for unknown in ("0" * 26, "x\0", ""):
        assert await rig.ok("GET", "/v1/vms", params={"imageId": unknown}) == {"vms": []}
    problem = await rig.refused(400, "GET", "/v1/vms", params={"status": "asleep"})
    assert problem["errors"][0]["field"] == "status"


async def test_routes_follow_the_state_of_vms(rig: Rig) -> None:
    """The router's map, and ``url``, know a VM with a port from its start until it is destroyed."""
    vm = await rig.vm(port=80)
    hostname = vm["hostname"]
    route = rig.server.routes.find(f"{hostname.upper()}:8082")
    assert route is not None
    assert (route.vm_id, route.port, route.state) == (vm["id"], 80, VmState.STARTED)
    await rig.node.stopped(vm["id"], "The program ended.", 0)

    async def stopped() -> bool:
        found = rig.server.routes.find(hostname)
        return found is not None and found.state is VmState.STOPPED

    await eventually(stopped, "the route says that the VM stopped")
    assert "url" in await rig.ok("GET", f"/v1/vm/{vm['id']}")
    gone = await rig.ok("POST", f"/v1/vm/{vm['id']}/stop")
    assert rig.server.routes.find(hostname) is None
    assert "url" not in gone
    without = await rig.vm()
    assert rig.server.routes.find(without["hostname"]) is None


async def test_routes_are_there_after_a_restart(folder: Path, node: FakeNode) -> None:
    """A server that starts brings in the VMs of its store."""
    settings = settings_for(folder, None)
    async with running(settings, node) as rig:
        vm = await rig.vm(port=80)
    async with running(settings, node) as rig:
        assert rig.server.routes.find(vm["hostname"]) is not None
