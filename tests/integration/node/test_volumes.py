"""Volumes: what is written stays through stops and crashes, within its size, until it is freed."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cakework.domain.facts import VmLine, VmStopped
from cakework.domain.ids import new_vm_id
from cakework.domain.orders import VmOrder
from cakework.node.vms.holdings import RECORD, MachineRecord
from tests.integration.node.node_process import NodeProcess, running_node
from tests.integration.node.vm_site import Yard, printed, until

pytestmark = pytest.mark.anyio
GB = 1 << 30
MB = 1 << 20


@pytest.fixture
async def node(yard: Yard, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    async with running_node(yard, tmp_path / "data") as node:
        yield node


async def cached(node: NodeProcess, yard: Yard, size_gb: int) -> VmOrder:
    """Return the order for a VM with a kept volume, before its first run."""
    image_id = await yard.put_image(node.images, 'eval "$DO"')
    return VmOrder(
        vm_id=new_vm_id(),
        run=0,
        image_id=image_id,
        hostname="vm.localhost",
        volume_gb=size_gb,
        volume_kept=True,
    )


async def run(node: NodeProcess, order: VmOrder, script: str) -> VmOrder:
    """Start the VM's next run, of ``script``; return its order."""
    following = order.model_copy(update={"run": order.run + 1, "env": {"DO": script}})
    await node.order(following)
    return following


async def over(node: NodeProcess, order: VmOrder) -> VmStopped:
    """Wait for the end of a run."""

    def ends() -> list[VmStopped]:
        return [
            fact
            for fact in node.facts()
            if isinstance(fact, VmStopped) and (fact.vm_id, fact.run) == (order.vm_id, order.run)
        ]

    await until(ends, 120)
    (end,) = ends()
    return end


async def says(node: NodeProcess, order: VmOrder, text: str) -> None:
    await until(lambda: text in printed(node.facts(), order.vm_id), 120)


def volume_of(node: NodeProcess, order: VmOrder) -> Path:
    return node.folder / "node" / "volumes" / order.vm_id


def record_of(node: NodeProcess, order: VmOrder) -> MachineRecord:
    for path in (node.folder / "node" / "machines").glob(f"*/{RECORD}"):
        record = MachineRecord.model_validate_json(path.read_bytes())
        if record.order is not None and record.order.vm_id == order.vm_id:
            return record
    raise AssertionError(f"no machine of {order.vm_id}")


async def test_what_is_written_is_there_at_the_next_start(node: NodeProcess, yard: Yard) -> None:
    """After a stop on request and after the program's own end; line numbers go on; the largest
    volume takes little room until it is written to, and freeing it leaves nothing."""
    order = await run(node, await cached(node, yard, 500), "echo one > /data/a; echo up; sleep 99")
    await says(node, order, "up")
    volume = volume_of(node, order)
    assert volume.stat().st_size == 500 * GB
    assert volume.stat().st_blocks * 512 < 300 * MB
    assert node.call("DELETE", f"/v1/volumes/{order.vm_id}")[0] == 409
    node.call("POST", f"/v1/vms/{order.vm_id}/stop", {"grace_s": 60})
    order = await run(node, order, "cat /data/a; echo two > /data/b; exit 4")
    assert (await over(node, order)).exit_code == 4
    order = await run(node, order, "cat /data/a /data/b")
    assert (await over(node, order)).exit_code == 0
    lines = [fact for fact in node.facts() if isinstance(fact, VmLine)]
    assert [line.text for line in lines] == ["up", "one", "one", "two"]
    assert [line.seq for line in lines] == [1, 2, 3, 4]
    assert node.call("GET", "/v1/volumes") == (200, [{"vm_id": order.vm_id}])
    for _ in range(2):
        assert node.call("DELETE", f"/v1/volumes/{order.vm_id}")[0] == 200
        assert not volume.exists()
    assert node.call("GET", "/v1/volumes") == (200, [])


async def test_what_was_synced_survives_the_death_of_qemu(node: NodeProcess, yard: Yard) -> None:
    """kill -9 of QEMU in the middle of writing: the journal of ext4 makes the volume whole."""
    script = "echo kept > /data/a; sync; echo synced; while :; do echo x >> /data/b; done"
    order = await run(node, await cached(node, yard, 1), script)
    await says(node, order, "synced")
    pid = record_of(node, order).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert (await over(node, order)).exit_code is None
    order = await run(node, order, "cat /data/a; echo more >> /data/b && echo writable")
    assert (await over(node, order)).exit_code == 0
    assert printed(node.facts(), order.vm_id)[-2:] == ["kept", "writable"]


async def test_a_volume_outlives_its_node(node: NodeProcess, yard: Yard) -> None:
    """kill -9 of the node: the VM writes on, the next node stops it, the next run has it all;
    and the environment was in no record."""
    script = "i=0; while :; do i=$((i+1)); echo $i >> /data/n; echo $i; sleep 0.05; done"
    order = await run(node, await cached(node, yard, 1), script)
    await says(node, order, "5")
    recorded = record_of(node, order).order
    assert recorded is not None
    assert recorded.env == {}
    node.kill()
    await node.start()
    seen = len(printed(node.facts(), order.vm_id))
    await says(node, order, str(seen + 5))
    node.call("POST", f"/v1/vms/{order.vm_id}/stop", {"grace_s": 60})
    said = printed(node.facts(), order.vm_id)
    node.kill()
    await node.start()
    order = await run(node, order, "cat /data/n")
    await over(node, order)
    found = printed(node.facts(), order.vm_id)[len(said) :]
    assert found[: len(said)] == said
    assert len(found) - len(said) <= 1


async def test_no_more_fits_than_its_size(node: NodeProcess, yard: Yard) -> None:
    """Writing beyond it fails inside, what was there stays, and the host's file keeps its size."""
    fill = "fallocate -l 900M /data/a; dd if=/dev/zero of=/data/b bs=1M count=200 2>/dev/null"
    order = await run(node, await cached(node, yard, 1), f"echo x > /data/c; {fill} || echo full")
    await over(node, order)
    assert printed(node.facts(), order.vm_id) == ["full"]
    volume = volume_of(node, order)
    assert volume.stat().st_size == GB
    assert volume.stat().st_blocks * 512 <= GB
    order = await run(
        node, order, "cat /data/c; rm /data/a /data/b && echo y > /data/d; cat /data/d"
    )
    await over(node, order)
    assert printed(node.facts(), order.vm_id) == ["full", "x", "y"]
