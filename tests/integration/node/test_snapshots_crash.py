"""kill -9 of the node at every step of a snapshot: it is whole or not there, and VMs go on."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cakework.domain.facts import AnyFact, SnapshotMade, VmStopped
from cakework.domain.ids import new_vm_id
from cakework.domain.orders import VmOrder, VmReport
from cakework.domain.steps import Step
from cakework.node.vms.manifest import NAME
from cakework.node.vms.vm import BECAME_SNAPSHOT
from tests.integration.node.node_process import NodeProcess
from tests.integration.node.vm_site import Yard, printed, until

pytestmark = pytest.mark.anyio

MAKING = (
    Step.NODE_SNAPSHOT_READY,
    Step.NODE_SNAPSHOT_FROZEN,
    Step.NODE_SNAPSHOT_SAVED,
    Step.NODE_SNAPSHOT_WRITTEN,
    Step.NODE_SNAPSHOT_NAMED,
)
KEEPING = MAKING[1:]
STARTING = (Step.NODE_SNAPSHOT_USED, Step.NODE_SNAPSHOT_RESUMED)
TAKING = (*KEEPING, Step.NODE_SNAPSHOT_TOLD, Step.NODE_SNAPSHOT_RESUMED)
"""Of a VM as it runs, which goes on."""
ENDING = (
    Step.NODE_SNAPSHOT_TOLD,
    Step.NODE_VM_END_RECORDED,
    Step.NODE_VM_END_TOLD,
    Step.NODE_MACHINE_DISOWNED,
)
"""… or ends."""
STEPS = {*MAKING, *STARTING, *TAKING, Step.NODE_MACHINE_DISOWNED}
"""All that these tests pass."""

PORT = 8080
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
COUNTER = f"busybox nc -ll -p {PORT} -e /bin/cat & {COUNT}"


class Crashing:
    """A node that ends itself at steps."""

    def __init__(self, node: NodeProcess, faults: Path) -> None:
        self.node = node
        self._faults = faults

    async def call(self, method: str, path: str, body: object, at: Step | None = None) -> object:
        """Make a call. With ``at`` the node ends there, whatever is answered, and comes back."""
        if at is None:
            status, answer = self.node.call(method, path, body)
            assert status < 300, answer
            return answer
        fault = self._faults / at
        fault.touch()
        try:
            self.node.call(method, path, body)
        except OSError:
            pass
        except Exception as error:
            assert "Error" in type(error).__name__
        await until(lambda: not fault.exists(), 120)
        self.node.kill()
        await self.node.start()
        return None

    async def start(self, order: VmOrder, run: int, at: Step | None = None) -> VmReport | None:
        body = order.model_copy(update={"run": run}).model_dump(mode="json")
        answer = await self.call("PUT", f"/v1/vms/{order.vm_id}", body, at)
        return None if at else VmReport.model_validate(answer)

    async def keep(self, order: VmOrder, at: Step | None = None) -> VmReport | None:
        answer = await self.call("POST", f"/v1/vms/{order.vm_id}/stop", {"keep_memory": True}, at)
        return None if at else VmReport.model_validate(answer)

    async def make(self, order: VmOrder, at: Step | None = None) -> None:
        body = order.model_copy(update={"run": 0}).model_dump(mode="json")
        await self.call("PUT", f"/v1/snapshots/{order.vm_id}", body, at)

    async def take(
        self, order: VmOrder, snapshot_id: str, then: str, at: Step | None = None
    ) -> None:
        body = {"snapshot_id": snapshot_id, "then": then}
        await self.call("POST", f"/v1/vms/{order.vm_id}/snapshot", body, at)

    def taken(self, order: VmOrder) -> tuple[str, int] | None:
        """Return by which order the snapshot of a VM was taken, and how many lines it had then."""
        folder = self.node.folder / "node" / "snapshots" / order.vm_id / "ready"
        if not folder.exists():
            return None
        manifest = json.loads((folder / NAME).read_bytes().partition(b"\n")[0])
        return manifest["snapshot_id"], manifest["lines"]

    def machines(self) -> list[str]:
        return [path.name for path in (self.node.folder / "node" / "machines").iterdir()]

    def half_made(self) -> list[str]:
        folder = self.node.folder / "node" / "snapshots"
        return [path.name for path in folder.iterdir() if path.name.startswith(".")]

    async def grows(self, vm_id: str) -> list[str]:
        """Wait for more lines of a VM; return all."""
        before = len(printed(self.node.facts(), vm_id))
        await until(lambda: len(printed(self.node.facts(), vm_id)) > before + 2)
        return printed(self.node.facts(), vm_id)

    async def told(self, wanted: Callable[[AnyFact], bool]) -> None:
        await until(lambda: any(map(wanted, self.node.facts())), 120)


@asynccontextmanager
async def crashing(yard: Yard, folder: Path) -> AsyncGenerator[Crashing]:
    faults = folder / "faults"
    faults.mkdir(parents=True)
    node = NodeProcess(yard, folder / "data", CAKEWORK_FAULTS=str(faults))
    try:
        await node.start()
        yield Crashing(node, faults)
        for report in node.call("GET", "/v1/vms")[1]:
            node.call("POST", f"/v1/vms/{report['vm_id']}/stop", {"grace_s": 0})
        assert "Traceback" not in node.stop()
    finally:
        node.remove()


async def order_of(c: Crashing, yard: Yard, script: str, **more: object) -> VmOrder:
    image_id = await yard.put_image(c.node.images, script)
    fields: dict[str, object] = {
        "vm_id": new_vm_id(),
        "image_id": image_id,
        "hostname": "vm.localhost",
    }
    return VmOrder.model_validate(fields | more)


async def test_a_snapshot_is_whole_or_not_there(yard: Yard, tmp_path: Path) -> None:
    """Wherever the node ends while one is made, nothing of it is left, or all; ordered again it
    is there, and starts begin with it."""
    async with crashing(yard, tmp_path) as c:
        for step in MAKING:
            order = await order_of(c, yard, COUNTER, port=PORT, snapshot="ready")
            await c.make(order, at=step)
            assert c.half_made() == []
            await c.make(order)
            await c.told(lambda f, v=order.vm_id: isinstance(f, SnapshotMade) and f.vm_id == v)
            report = await c.start(order, 1)
            assert report is not None
            assert report.began == "ready"
            c.node.call("POST", f"/v1/vms/{order.vm_id}/stop", {"grace_s": 0})


async def test_kept_memory_is_whole_or_the_vm_goes_on(yard: Yard, tmp_path: Path) -> None:
    """Wherever the node ends while a stop keeps memory, the next one finds the VM going on, no
    line lost or doubled; once the end is recorded, it has stopped and its memory is kept."""
    async with crashing(yard, tmp_path) as c:
        order = await order_of(c, yard, COUNT, volume_gb=1, volume_kept=True)
        await c.start(order, 1)
        for step in KEEPING:
            await c.keep(order, at=step)
            assert c.half_made() == []
            lines = await c.grows(order.vm_id)
            assert lines == [str(i + 1) for i in range(len(lines))]
        await c.keep(order, at=Step.NODE_VM_END_RECORDED)
        await c.told(lambda f: isinstance(f, VmStopped) and f.memory_kept)
        report = await c.start(order, 2)
        assert report is not None
        assert report.began == "memory"
        lines = await c.grows(order.vm_id)
        assert lines == [str(i + 1) for i in range(len(lines))]


async def test_kept_memory_is_used_once(yard: Yard, tmp_path: Path) -> None:
    """A node that ends when it has taken kept memory boots at the next order, with the volume as
    it is; one that ends when the program was resumed finds it going on."""
    async with crashing(yard, tmp_path) as c:
        order = await order_of(c, yard, COUNT, volume_gb=1, volume_kept=True)
        await c.start(order, 1)
        await c.grows(order.vm_id)
        await c.keep(order)
        await c.start(order, 2, at=Step.NODE_SNAPSHOT_USED)
        assert c.half_made() == []
        report = await c.start(order, 2)
        assert report is not None
        assert report.began == "boot"
        await c.grows(order.vm_id)
        await c.keep(order)
        await c.start(order, 3, at=Step.NODE_SNAPSHOT_RESUMED)
        await c.grows(order.vm_id)
        report = await c.start(order, 3)
        assert report is not None
        assert (report.began, report.state) == ("memory", "started")


async def test_a_vm_goes_on_wherever_the_node_ends_while_its_snapshot_is_taken(
    yard: Yard, tmp_path: Path
) -> None:
    """What is on the shelf is whole: the one before, or this one. Ordered again it is there, taken
    once; no line is lost or doubled, and a fork begins where it was taken."""
    async with crashing(yard, tmp_path) as c:
        order = await order_of(c, yard, COUNT, env={"A": "1"})
        await c.start(order, 1)
        before = None
        for step in TAKING:
            await c.grows(order.vm_id)
            await c.take(order, step.name, "go_on", at=step)
            assert c.half_made() == []
            taken = c.taken(order)
            assert taken == before or (taken is not None and taken[0] == step.name)
            lines = await c.grows(order.vm_id)
            assert lines == [str(i + 1) for i in range(len(lines))]
            await c.take(order, step.name, "go_on")
            again = before = c.taken(order)
            assert again is not None
            assert again[0] == step.name
            assert taken == again or again[1] >= len(lines)
        assert before is not None
        fork = order.model_copy(update={"vm_id": new_vm_id(), "fork_of": order.vm_id})
        await c.start(fork, 1)
        lines = await c.grows(fork.vm_id)
        assert lines == [str(before[1] + i + 1) for i in range(len(lines))]


async def test_a_vm_has_ended_or_goes_on_when_the_node_ends_as_its_snapshot_is_taken(
    yard: Yard, tmp_path: Path
) -> None:
    """Ordered again it has ended, its snapshot taken once, and nothing is left of its machine."""
    async with crashing(yard, tmp_path) as c:
        for step in ENDING:
            order = await order_of(c, yard, COUNT, forkable=True)
            vm_id = order.vm_id
            await c.start(order, 1)
            await c.grows(vm_id)
            await c.take(order, "last", "end", at=step)
            taken = c.taken(order)
            assert taken is not None
            if step == Step.NODE_SNAPSHOT_TOLD:
                await c.grows(vm_id)
            else:
                assert c.machines() == []
            await c.take(order, "last", "end")
            ends = [f for f in c.node.facts() if isinstance(f, VmStopped) and f.vm_id == vm_id]
            assert {end.reason for end in ends} == {BECAME_SNAPSHOT}
            assert c.node.call("GET", "/v1/vms")[1] == []
            assert c.machines() == []
            assert c.taken(order) == taken
            fork = order.model_copy(update={"vm_id": new_vm_id(), "fork_of": vm_id})
            await c.start(fork, 1)
            lines = await c.grows(fork.vm_id)
            assert lines == [str(taken[1] + i + 1) for i in range(len(lines))]
            c.node.call("POST", f"/v1/vms/{fork.vm_id}/stop", {"grace_s": 0})
            c.node.call("DELETE", f"/v1/snapshots/{vm_id}")
