"""VMs outlive their node; the next one finds them again, and whatever nobody claims goes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cakework.domain.facts import VmLine, VmStopped
from cakework.domain.ids import new_vm_id
from cakework.domain.orders import VmOrder
from cakework.node.cgroups import Cgroup
from cakework.node.vms.holdings import RECORD, MachineRecord
from cakework.node.vms.machines import Machine
from tests.integration.node.node_process import NodeProcess, running_node
from tests.integration.node.vm_site import Yard, printed, processes_of, site, until

pytestmark = pytest.mark.anyio

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"


@pytest.fixture
async def node(yard: Yard, tmp_path: Path) -> AsyncIterator[NodeProcess]:
    async with running_node(yard, tmp_path / "data") as node:
        yield node


async def order(node: NodeProcess, yard: Yard, script: str) -> VmOrder:
    image_id = await yard.put_image(node.images, script)
    return VmOrder(vm_id=new_vm_id(), image_id=image_id, hostname="vm.localhost")


async def test_lines_count_on_where_the_node_knows_nothing_of_them(
    node: NodeProcess, yard: Yard
) -> None:
    """An order says how many lines a VM had; also the node that adopts it counts on from there."""
    first = await order(node, yard, COUNT)
    wanted = first.model_copy(update={"run": 2, "lines_before": 5000})
    await node.order(wanted)
    await until(lambda: len(printed(node.facts(), wanted.vm_id)) > 5)
    node.kill()
    await node.start()
    seen = len(printed(node.facts(), wanted.vm_id))
    await until(lambda: len(printed(node.facts(), wanted.vm_id)) > seen + 5)
    lines = [f for f in node.facts() if isinstance(f, VmLine) and f.vm_id == wanted.vm_id]
    assert [line.seq for line in lines] == list(range(5001, 5001 + len(lines)))
    assert [line.text for line in lines] == [str(n) for n in range(1, len(lines) + 1)]


def record_of(node: NodeProcess, vm_id: str) -> tuple[Path, MachineRecord]:
    for path in (node.folder / "node" / "machines").glob(f"*/{RECORD}"):
        record = MachineRecord.model_validate_json(path.read_bytes())
        if record.order is not None and record.order.vm_id == vm_id:
            return path.parent, record
    raise AssertionError(f"no machine of {vm_id}")


def last_number(node: NodeProcess, vm_id: str) -> int:
    return max(map(int, printed(node.facts(), vm_id)), default=0)


async def test_a_vm_goes_on_when_its_node_is_killed(node: NodeProcess, yard: Yard) -> None:
    """kill -9, twice, while it prints: the same process runs, each line is there once, in order."""
    counting = await order(node, yard, COUNT)
    await node.order(counting)
    pid = record_of(node, counting.vm_id)[1].pid
    for _ in range(2):
        seen = last_number(node, counting.vm_id)
        await until(lambda seen=seen: last_number(node, counting.vm_id) > seen + 20)
        node.kill()
        await node.start()
    seen = last_number(node, counting.vm_id)
    await until(lambda: last_number(node, counting.vm_id) > seen + 20)
    numbers = list(map(int, printed(node.facts(), counting.vm_id)))
    assert numbers == list(range(1, len(numbers) + 1))
    assert record_of(node, counting.vm_id)[1].pid == pid
    assert node.call("GET", f"/v1/vms/{counting.vm_id}")[1]["state"] == "started"
    assert await node.order(counting) is not None
    status, report = node.call("POST", f"/v1/vms/{counting.vm_id}/stop", {"grace_s": 0})
    assert (status, report["reason"]) == (200, "stopped on request")


async def test_a_node_that_is_asked_to_end_leaves_its_vms(node: NodeProcess, yard: Yard) -> None:
    """SIGTERM: nothing is logged that should not be, the VM goes on and is found again."""
    counting = await order(node, yard, COUNT)
    await node.order(counting)
    node.stop()
    assert record_of(node, counting.vm_id)[1].pid in processes_of(node.territory)
    await node.start()
    seen = last_number(node, counting.vm_id)
    await until(lambda: last_number(node, counting.vm_id) > seen)
    assert not any(isinstance(fact, VmStopped) for fact in node.facts())


async def test_a_vm_that_ended_meanwhile_is_reported(node: NodeProcess, yard: Yard) -> None:
    """One whose process is gone has stopped, with the reason; one whose program exited says how."""
    killed = await order(node, yard, "exec sleep 600")
    exited = await order(node, yard, "sleep 1; echo last words; exit 4")
    await asyncio.gather(node.order(killed), node.order(exited))
    node.kill()
    pid = record_of(node, killed.vm_id)[1].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    await node.start()
    await until(lambda: sum(isinstance(fact, VmStopped) for fact in node.facts()) == 2)
    ends = {fact.vm_id: fact for fact in node.facts() if isinstance(fact, VmStopped)}
    assert ends[killed.vm_id].reason == "the VM ended while the node was down: its process was gone"
    assert (ends[killed.vm_id].cause, ends[exited.vm_id].cause) == ("lost", "exited")
    assert ends[exited.vm_id].exit_code == 4
    assert printed(node.facts(), exited.vm_id) == ["last words"]
    assert (await node.order(killed)).state == "stopped"


async def test_what_nobody_claims_goes(node: NodeProcess, yard: Yard) -> None:
    """A machine without a VM, folders without a record, groups without a machine: all reaped."""
    counting = await order(node, yard, COUNT)
    await node.order(counting)
    folder, record = record_of(node, counting.vm_id)
    node.kill()
    (folder / RECORD).write_text(record.model_copy(update={"order": None}).model_dump_json())
    (folder.parent / "unfinished").mkdir()
    name = f"{node.territory.name}-nobody"
    (Path("/sys/fs/cgroup/pids/cakework") / name).mkdir(parents=True, exist_ok=True)
    await node.start()
    assert list(folder.parent.iterdir()) == []
    assert Cgroup.existing(f"{node.territory.name}-") == []
    assert processes_of(node.territory) == []
    assert node.call("GET", "/v1/vms")[1] == []


async def test_a_machine_that_was_not_told_to_run_is_no_started_vm(
    yard: Yard, tmp_path: Path
) -> None:
    """Left paused with an order by a killed node, it goes; the order is carried out afresh."""
    async with site(yard, tmp_path) as s:
        first = await s.order("echo up; exec sleep 600")
        machine = await Machine.restore(s.host, await s.template(), image=None)
        await machine.monitor.pause()
        machine.assign(first, 0)
        await machine.disconnect()
    async with site(yard, tmp_path) as s:
        async with asyncio.timeout(60):
            await s.vms.adopt()
        assert machine.process.how() == "was killed by SIGKILL"
        assert s.facts() == s.vms.reports() == []
        await s.clean()
        assert (await s.vms.start(first)).state == "started"
        await until(lambda: s.printed(first.vm_id) == ["up"])
