"""The node's API: every call, what it answers, and how it refuses."""

import asyncio
import json
import resource
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from cakework.domain.ids import new_vm_id
from cakework.domain.orders import DialAnswer, VmOrder
from cakework.node.sockets import connect
from tests.integration.node.node_process import NodeProcess, running_node
from tests.integration.node.vm_site import Yard, until
from tests.integration.open_files import open_files

pytestmark = pytest.mark.anyio

ECHO = "while :; do busybox nc -l -p 8080 -e cat; done"


@pytest.fixture
async def node(yard: Yard, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    async with running_node(yard, tmp_path / "data") as node:
        yield node


async def vm_order(node: NodeProcess, yard: Yard, script: str) -> VmOrder:
    image_id = await yard.put_image(node.images, script)
    return VmOrder(vm_id=new_vm_id(), image_id=image_id, hostname="vm.localhost")


def dial(node: NodeProcess, vm_id: str, port: int) -> tuple[DialAnswer, list[int]]:
    """Ask the dial socket for a connection."""
    with connect(node.folder / "run" / "dial.sock") as client:
        client.settimeout(60)
        client.sendall(json.dumps({"vm_id": vm_id, "port": port}).encode() + b"\n")
        data, fds, _, _ = socket.recv_fds(client, 4096, 1)
        return DialAnswer.model_validate_json(data), fds


async def test_health_and_sockets(node: NodeProcess) -> None:
    """It says what it is; its sockets are root's and the server's group's alone."""
    status, health = node.call("GET", "/v1/health")
    assert (status, health["ready"], health["accelerator"]) == (200, True, "tcg")
    assert (health["vms"], health["builds"]) == (0, 0)
    for name in ("node.sock", "dial.sock"):
        info = (node.folder / "run" / name).stat()
        assert stat.S_IMODE(info.st_mode) == 0o660
        assert info.st_uid == 0


async def test_a_vm_by_its_calls(node: NodeProcess, yard: Yard) -> None:
    """Ordered, listed, asked for, stopped; afterwards it is known, and listed no more."""
    order = await vm_order(node, yard, "exec sleep 600")
    report = await node.order(order)
    assert report.state == "started"
    assert {"disks", "machine", "run"} <= report.phases_ms.keys()
    path = f"/v1/vms/{order.vm_id}"
    assert node.call("GET", path) == (200, node.call("GET", "/v1/vms")[1][0])
    assert node.call("DELETE", f"/v1/volumes/{order.vm_id}")[0] == 409
    assert node.call("POST", f"{path}/mark") == (200, {"seq": 0})
    snapshot = {"snapshot_id": "one"}
    taken = node.call("POST", f"{path}/snapshot", snapshot)
    assert taken == node.call("GET", f"/v1/snapshots/{order.vm_id}")
    assert (taken[0], taken[1]["state"]) == (200, "made")
    status, stopped = node.call("POST", f"{path}/stop", {"grace_s": 0})
    assert (status, stopped["state"]) == (200, "stopped")
    assert node.call("POST", f"{path}/stop")[1] == node.call("GET", path)[1] == stopped
    assert node.call("GET", "/v1/vms") == (200, [])
    assert node.call("POST", f"{path}/mark")[0] == 409
    assert node.call("POST", f"{path}/snapshot", snapshot) == taken
    assert node.call("POST", f"{path}/snapshot", {"snapshot_id": "two"})[0] == 409
    assert node.call("DELETE", f"/v1/volumes/{order.vm_id}") == (200, {})


async def test_images_are_listed_and_removed(node: NodeProcess, yard: Yard) -> None:
    """One that was being removed when the node was killed is gone at its next start; a VM that
    runs keeps its own."""
    ids = [await yard.put_image(node.images, "exec sleep 600") for _ in range(3)]
    listed = [{"image_id": image_id} for image_id in sorted(ids)]
    assert node.call("GET", "/v1/images") == (200, listed)
    order = VmOrder(vm_id=new_vm_id(), image_id=ids[0], hostname="vm.localhost")
    await node.order(order)
    for _ in range(2):
        assert node.call("DELETE", f"/v1/images/{ids[0]}") == (200, {})
    assert node.call("GET", f"/v1/vms/{order.vm_id}")[1]["state"] == "started"
    node.kill()
    half_removed = node.images.folder / ".removing-x"
    half_removed.mkdir()
    node.images.path(ids[1]).rename(half_removed / ids[1])
    await node.start()
    assert node.call("GET", "/v1/images") == (200, [{"image_id": ids[2]}])
    assert [path.name for path in node.images.folder.iterdir()] == [ids[2]]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/vms/00000000000000", None, 404, "not_found"),
        ("POST", "/v1/vms/00000000000000/stop", {}, 404, "not_found"),
        ("POST", "/v1/vms/00000000000000/stop", {"grace_s": -1}, 400, "invalid_request"),
        ("POST", "/v1/vms/00000000000000/stop", {"grace_s": 1e9}, 400, "invalid_request"),
        ("POST", "/v1/vms/00000000000000/mark", None, 404, "not_found"),
        ("POST", "/v1/vms/0/snapshot", {"snapshot_id": "one"}, 404, "not_found"),
        ("POST", "/v1/vms/0/snapshot", {"snapshot_id": "../one"}, 400, "invalid_request"),
        ("PUT", "/v1/vms/a", {"vm_id": "a"}, 400, "invalid_request"),
        ("PUT", "/v1/vms/a", {"vm_id": "a", "image_id": "i", "hostname": "h"}, 404, "not_found"),
        (
            "PUT",
            "/v1/vms/b",
            {"vm_id": "a", "image_id": "i", "hostname": "h"},
            400,
            "invalid_request",
        ),
        ("PUT", "/v1/vms/a", {"vm_id": "a", "image_id": "../i", "hostname": "h"}, 404, "not_found"),
        ("PUT", "/v1/builds/b", {"build_id": "b"}, 400, "invalid_request"),
        ("DELETE", "/v1/images/a.b", None, 400, "invalid_request"),
        ("DELETE", "/v1/volumes/a.b", None, 400, "invalid_request"),
        ("GET", "/v1/journal?after=x", None, 400, "invalid_request"),
        ("POST", "/v1/journal/ack", {"cursor": "x"}, 400, "invalid_request"),
        ("POST", "/v1/lines/ack", {"lines": ["x"]}, 400, "invalid_request"),
    ],
)
async def test_refusals(
    node: NodeProcess, method: str, path: str, body: object, status: int, code: str
) -> None:
    """What cannot be done gets a stable code and a sentence."""
    got, problem = node.call(method, path, body)
    assert (got, problem["code"]) == (status, code)
    assert problem["detail"]
    assert node.facts() == []


async def test_the_journal_and_lines_stream_and_are_acknowledged(
    node: NodeProcess, yard: Yard
) -> None:
    """A reader gets changes as they come, from where it says, and lines until they are known."""
    order = await vm_order(node, yard, "echo one; echo two; exec sleep 600")
    await node.order(order)
    changes = await _read(node, "/v1/journal?after=0", 1)
    assert [(fact["cursor"], fact["kind"]) for fact in changes] == [(1, "vm.started")]
    assert node.call("POST", "/v1/journal/ack", {"cursor": 1}) == (200, {})
    lines = await _read(node, "/v1/lines", 2)
    assert [(fact["seq"], fact["text"]) for fact in lines] == [(1, "one"), (2, "two")]
    assert node.call("POST", "/v1/lines/ack", {"lines": {order.vm_id: 1}}) == (200, {})
    assert [fact["text"] for fact in await _read(node, "/v1/lines", 1)] == ["two"]


async def _read(node: NodeProcess, path: str, count: int) -> list[dict[str, object]]:
    """Return the first facts of a stream."""
    seen: list[dict[str, object]] = []
    transport = httpx2.AsyncHTTPTransport(uds=str(node.socket))
    async with (
        asyncio.timeout(60),
        httpx2.AsyncClient(transport=transport, base_url="http://node", timeout=60) as client,
        client.stream("GET", path) as stream,
    ):
        async for line in stream.aiter_lines():
            seen += [json.loads(line)] if line else []
            if len(seen) >= count:
                break
    return seen


async def test_readers_do_not_hold_up_the_end(node: NodeProcess) -> None:
    """A node that is asked to end does so while somebody reads its journal and lines, which come
    to an end of their own: they are not cut off when all time for that is over."""
    transport = httpx2.AsyncHTTPTransport(uds=str(node.socket))
    async with (
        httpx2.AsyncClient(transport=transport, base_url="http://node", timeout=60) as client,
        client.stream("GET", "/v1/journal?after=0") as stream,
        client.stream("GET", "/v1/lines") as lines,
    ):
        ending = asyncio.create_task(asyncio.to_thread(node.stop))
        for each in (stream, lines):
            async for _ in each.aiter_lines():
                pass
        assert "graceful shutdown exceeded" not in await ending
    await node.start()


async def test_connections_into_vms(node: NodeProcess, yard: Yard) -> None:
    """A VM's port by a descriptor; where nothing listens, or no VM is, it says so."""
    order = await vm_order(node, yard, ECHO)
    await node.order(order)
    answer, fds = dial(node, order.vm_id, 8080)

    def connected() -> bool:
        nonlocal answer, fds
        answer, fds = (answer, fds) if answer.ok else dial(node, order.vm_id, 8080)
        return answer.ok

    await until(connected)
    with socket.socket(fileno=fds[0]) as connection:
        connection.settimeout(60)
        connection.setblocking(True)
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
    refused, none = dial(node, order.vm_id, 9)
    assert (refused.ok, refused.code, none) == (False, "refused", [])
    unknown, none = dial(node, "00000000000000", 80)
    assert (unknown.ok, unknown.code, none) == (False, "not_found", [])
    senseless, none = dial(node, order.vm_id, 70_000)
    assert (senseless.ok, none) == (False, [])
    node.call("POST", f"/v1/vms/{order.vm_id}/stop", {"grace_s": 0})
    assert dial(node, order.vm_id, 8080)[0].code == "not_found"


async def test_a_second_node_on_the_same_data_is_refused(node: NodeProcess, yard: Yard) -> None:
    """It ends at once and says why; the first does not notice."""
    assert NodeProcess(yard, node.folder).run_to_end() == 1
    assert "another node already runs" in node.log()
    assert node.call("GET", "/v1/health")[0] == 200


async def test_as_many_files_as_allowed_may_be_open(yard: Yard, tmp_path: Path) -> None:
    """The usual soft limit of 1,024 would end where some hundred machines do not."""
    node = NodeProcess(yard, tmp_path / "data")
    with open_files(512) as most:
        try:
            await node.start()
            limits = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
        finally:
            node.remove()
    assert limits == (most, most)
