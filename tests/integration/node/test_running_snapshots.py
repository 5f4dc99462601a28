"""Snapshots of VMs as they run, and marks in their logs: real QEMU, by the node's parts."""

import asyncio
import json
from pathlib import Path

import pytest

from cakework.domain.errors import Conflict, InvalidRequest, NotFound, Unavailable
from cakework.domain.facts import SnapshotMade
from cakework.domain.ids import new_vm_id
from cakework.domain.orders import SnapshotOrder, VmOrder
from cakework.node.vms.manifest import NAME
from cakework.node.vms.vm import BECAME_SNAPSHOT
from tests.integration.node.test_snapshots import COUNT, grown
from tests.integration.node.vm_site import Site, Yard, machine_of, site, until

pytestmark = pytest.mark.anyio

ONE, TWO = SnapshotOrder(snapshot_id="one"), SnapshotOrder(snapshot_id="two")
LAST = SnapshotOrder(snapshot_id="last", then="end")


def fork(order: VmOrder, of: str, **more: object) -> VmOrder:
    """Return an order for a fork of the VM ``of``."""
    vm_id = new_vm_id()
    own = {"vm_id": vm_id, "hostname": f"{vm_id}.test", "fork_of": of, "snapshot": "boot"}
    return order.model_copy(update={**own, **more})


def lines_of(s: Site, vm_id: str) -> int:
    """Return how many lines the program of a VM's snapshot had printed."""
    manifest = s.folder / "snapshots" / vm_id / "ready" / NAME
    return json.loads(manifest.read_bytes().partition(b"\n")[0])["lines"]


async def goes_on(s: Site, vm_id: str, after: int = 0) -> None:
    """The lines of a VM that counts are all there, from the one after ``after``, and get more."""
    printed = await grown(s, vm_id, len(s.printed(vm_id)) + 3)
    assert printed == [str(after + i + 1) for i in range(len(printed))]


def started(way: dict[str, float]) -> set[str]:
    return set(way) & {"fork", "restore", "pooled"}


async def test_a_vm_that_runs_is_forked_and_goes_on(yard: Yard, tmp_path: Path) -> None:
    """As often as it is ordered, and an order given again takes no other snapshot. Each fork begins
    where the newest was taken, and is forked as it runs in turn; nobody misses a line."""
    hooks = {
        "before_snapshot": {"kind": "exec", "argv": ["touch", "/before"]},
        "after_resume": {"kind": "exec", "argv": ["busybox", "mv", "/before", "/after"]},
    }
    async with site(yard, tmp_path, pool_snapshots=1) as s:
        order = await s.order(COUNT, env={"A": "1"}, hooks=hooks, account_id="mine")
        await s.vms.start(order)
        taken: list[int] = []
        for snapshot in (ONE, TWO):
            await goes_on(s, order.vm_id)
            reports = await asyncio.gather(
                *(s.vms.take_snapshot(order.vm_id, snapshot) for _ in range(2))
            )
            assert reports == [await s.snapshots.report(order.vm_id)] * 2
            taken.append(lines_of(s, order.vm_id))
            assert await s.vms.take_snapshot(order.vm_id, snapshot) == reports[0]
            assert lines_of(s, order.vm_id) == taken[-1]
            child = fork(order, order.vm_id)
            assert (await s.vms.start(child)).began == "ready"
            await goes_on(s, child.vm_id, taken[-1])
        assert taken[0] < taken[1]
        with pytest.raises(Conflict):
            await s.vms.start(fork(order, order.vm_id, env={"A": "2"}))
        with pytest.raises(NotFound):
            await s.vms.start(fork(order, order.vm_id, account_id="another's"))
        await s.vms.take_snapshot(child.vm_id, ONE)
        grandchild = fork(order, child.vm_id)
        await s.vms.start(grandchild)
        await goes_on(s, grandchild.vm_id, lines_of(s, child.vm_id))
        for vm_id in (order.vm_id, child.vm_id):
            await goes_on(s, vm_id, taken[-1] if vm_id == child.vm_id else 0)
        made = [f for f in s.facts() if isinstance(f, SnapshotMade)]
        assert all(fact.vm_runs for fact in made)


async def test_a_vm_ends_as_what_others_are_forked_from(yard: Yard, tmp_path: Path) -> None:
    """Its machine stays, as nobody's, and forks are made of it without one being restored; forks of
    forks too. The order given again does nothing more; a later run begins there."""
    async with site(yard, tmp_path, pool_snapshots=2) as s:
        order = await s.order(COUNT, forkable=True, snapshot="ready")
        first = order.model_copy(update={"snapshot": "boot"})
        await s.vms.start(first)
        await goes_on(s, order.vm_id)
        child = order
        for parent in (first, fork(first, order.vm_id)):
            if parent.fork_of is not None:
                report = await s.vms.start(parent)
                assert (report.began, started(report.phases_ms)) == ("ready", {"fork"})
                await goes_on(s, parent.vm_id, lines_of(s, order.vm_id))
            machine = machine_of(s, parent.vm_id)
            report = await s.vms.take_snapshot(parent.vm_id, LAST)
            assert report.state == "made"
            assert (await s.stopped(parent.vm_id)).reason == BECAME_SNAPSHOT
            assert machine.record.order is None and not machine.process.ended
            assert s.vms.reports() == []
            assert await s.vms.take_snapshot(parent.vm_id, LAST) == report
            child = fork(first, parent.vm_id, forkable=False)
            assert started((await s.vms.start(child)).phases_ms) == {"fork"}
            await goes_on(s, child.vm_id, lines_of(s, parent.vm_id))
            with pytest.raises(Conflict):
                await s.vms.take_snapshot(parent.vm_id, ONE)
            await s.vms.stop(child.vm_id, 0)
        again = await s.vms.start(order.model_copy(update={"run": 2}))
        assert (again.began, again.state) == ("ready", "started")
        before = len(s.printed(order.vm_id))
        # Said again when the VM runs once more, it ends that no more than it takes another.
        assert (await s.vms.take_snapshot(order.vm_id, LAST)).state == "made"
        with pytest.raises(Conflict, match="run 1"):
            await s.vms.take_snapshot(order.vm_id, ONE)
        printed = await grown(s, order.vm_id, before + 2)
        assert int(printed[-1]) == int(printed[-2]) + 1
        await s.vms.stop(order.vm_id, 0)
        for vm_id in s.snapshots.ids():
            await s.snapshots.remove(vm_id)
        await s.clean()


async def test_a_snapshot_that_cannot_be_taken_of_a_vm_that_runs(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM goes on as it was, and nothing is on the shelf; what can never be is refused."""

    def fail(pid: int, target: Path) -> int:
        target.write_bytes(b"half")
        raise OSError("the disk is full")

    hooks = {"before_snapshot": {"kind": "exec", "argv": ["test", "-e", "/may"]}}
    async with site(yard, tmp_path) as s:
        order = await s.order(f"sleep 1; touch /may; {COUNT}", hooks=hooks)
        with pytest.raises(NotFound):
            await s.vms.take_snapshot(order.vm_id, ONE)
        await s.vms.start(order)
        with pytest.raises(Conflict, match="hook before the snapshot ended with exit code 1"):
            await s.vms.take_snapshot(order.vm_id, ONE)
        await goes_on(s, order.vm_id)
        machine = machine_of(s, order.vm_id)
        right = machine.record
        for wrong in ({"template": "other"}, {"environment": ""}):
            machine.record = right.model_copy(update=wrong)
            with pytest.raises(Conflict, match=r"was started with|it began with"):
                await s.vms.take_snapshot(order.vm_id, LAST)
        machine.record = right
        with monkeypatch.context() as patch:
            patch.setattr("cakework.node.vms.machines.save_memory", fail)
            for snapshot in (ONE, LAST):
                with pytest.raises(Unavailable, match="the disk is full"):
                    await s.vms.take_snapshot(order.vm_id, snapshot)
                await goes_on(s, order.vm_id)
        with monkeypatch.context() as patch:
            # Its end cannot be recorded, when the snapshot is there: it has not ended.
            patch.setattr(machine, "_write_record", lambda: fail(0, tmp_path / "record"))
            with pytest.raises(Unavailable, match="could not be recorded"):
                await s.vms.take_snapshot(order.vm_id, LAST)
            await goes_on(s, order.vm_id)
        assert s.vms.report(order.vm_id).state == "started"
        await s.vms.take_snapshot(order.vm_id, LAST)
        assert (await s.stopped(order.vm_id)).reason == BECAME_SNAPSHOT
        await s.snapshots.remove(order.vm_id)
        assert list((s.folder / "snapshots").iterdir()) == []
        kept = await s.order("exec sleep 600", volume_gb=1)
        await s.vms.start(kept)
        with pytest.raises(InvalidRequest):
            await s.vms.take_snapshot(kept.vm_id, ONE)


async def test_a_vm_that_does_not_go_on_ends(yard: Yard, tmp_path: Path) -> None:
    """Never is one left frozen: its snapshot was taken, and its end says why. Given up by a removal
    of its snapshot meanwhile, it goes on."""
    hooks = {"after_resume": {"kind": "exec", "argv": ["sh", "-c", "exit 9"]}}
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNT, hooks=hooks)
        await s.vms.start(order)
        await goes_on(s, order.vm_id)
        assert (await s.vms.take_snapshot(order.vm_id, ONE)).state == "made"
        end = await s.stopped(order.vm_id)
        assert "the hook after the resume ended with exit code 9" in end.reason
        await s.vms.stop(order.vm_id, 0)


async def test_whoever_orders_it_may_go(yard: Yard, tmp_path: Path) -> None:
    """It is taken to its end; removed meanwhile it is given up, and the VM goes on. A node that
    closes gives it up, and leaves the VM going on."""
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNT)
        await s.vms.start(order)
        await goes_on(s, order.vm_id)
        ordering = asyncio.create_task(s.vms.take_snapshot(order.vm_id, ONE))
        await until(lambda: s.snapshots.makes(order.vm_id))
        ordering.cancel()
        with pytest.raises(Conflict, match="another"):
            await s.vms.take_snapshot(order.vm_id, TWO)
        assert (await s.vms.take_snapshot(order.vm_id, ONE)).state == "made"
        ordering = asyncio.create_task(s.vms.take_snapshot(order.vm_id, TWO))
        await until(lambda: s.snapshots.makes(order.vm_id))
        await s.snapshots.remove(order.vm_id)
        with pytest.raises(Unavailable, match="given up"):
            await ordering
        await goes_on(s, order.vm_id)


async def test_a_mark_is_the_number_of_the_last_line(yard: Yard, tmp_path: Path) -> None:
    """As the server counts: through a VM's runs, and in a fork from its own first line. What is
    before it is in the journal when it is answered."""
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNT)
        await s.vms.start(order)
        await grown(s, order.vm_id, 3)
        await s.vms.stop(order.vm_id, 0)
        with pytest.raises(Conflict):
            await s.vms.mark(order.vm_id)
        await s.vms.start(order.model_copy(update={"run": 2}))
        earlier = len(s.printed(order.vm_id))
        await grown(s, order.vm_id, earlier + 3)
        for _ in range(3):
            mark = await s.vms.mark(order.vm_id)
            printed = s.printed(order.vm_id)
            assert earlier + 3 <= mark.seq <= len(printed)
        await s.vms.take_snapshot(order.vm_id, ONE.model_copy(update={"run": 2}))
        child = fork(order, order.vm_id)
        await s.vms.start(child)
        await grown(s, child.vm_id, 3)
        assert 3 <= (await s.vms.mark(child.vm_id)).seq <= len(s.printed(child.vm_id))
        marks = await asyncio.gather(*(s.vms.mark(child.vm_id) for _ in range(5)))
        assert marks == sorted(marks, key=lambda mark: mark.seq)
