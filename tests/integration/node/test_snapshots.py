"""Snapshots of running programs: real QEMU, resumed from files, as somebody else."""

import asyncio
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from cakework.domain.errors import (
    Conflict,
    InvalidRequest,
    NoRoom,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from cakework.domain.facts import AnyFact, SnapshotFailed, SnapshotMade, VmStarted
from cakework.domain.ids import new_vm_id
from cakework.domain.orders import VmOrder, VmReport
from cakework.domain.vms import Shape
from cakework.node.network.namespaces import GUEST_ADDRESS, run_inside
from cakework.node.territory import SLOTS
from cakework.node.vms.making import Patience
from cakework.node.vms.manifest import NAME
from tests.integration.node.vm_site import Site, Yard, filling, kept_full, site, until

pytestmark = pytest.mark.anyio

PORT = 8080
LISTEN = f"busybox nc -ll -p {PORT} -e /bin/cat &"
LISTENS = (
    "until grep -q ':0009 0*:0000 0A' /proc/net/tcp* && grep -q ':1F90 0*:0000 0A' /proc/net/tcp*;"
    " do sleep 0.05; done"
)
"""Waits until somebody listens on port 9 and on PORT."""
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
COUNTER = f"{LISTEN} {COUNT}"
WHO = (
    "hostname; cat /f; cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -An -tx1;"
    "date +%s; echo $CAKEWORK_VM_ID $CAKEWORK_HOSTNAME; cat /run/cakework/identity"
)


async def made(s: Site, order: VmOrder) -> AnyFact:
    """Have a snapshot made; return the fact that tells how it went."""

    def told() -> list[AnyFact]:
        facts = s.facts()
        return [f for f in facts if isinstance(f, SnapshotMade | SnapshotFailed)]

    count = len(told())
    s.vms.snapshot(order.model_copy(update={"run": 0}))
    await until(lambda: len(told()) > count, 120)
    return told()[-1]


async def made_busy(s: Site, order: VmOrder) -> None:
    """Have a snapshot made that has been started twice."""
    await made(s, order)
    for run in (1, 2):
        await s.vms.start(order.model_copy(update={"run": run}))
        await s.vms.stop(order.vm_id, 0)


async def grown(s: Site, vm_id: str, count: int) -> list[str]:
    """Wait until a VM has printed so many lines; return all."""
    await until(lambda: len(s.printed(vm_id)) >= count)
    return s.printed(vm_id)


async def test_a_start_goes_on_from_the_snapshot(yard: Yard, tmp_path: Path) -> None:
    """Every start of the VM begins where the snapshot was taken; its log goes on, and no line
    is lost or doubled."""
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNTER, port=PORT, snapshot="ready")
        fact = await made(s, order)
        assert isinstance(fact, SnapshotMade)
        report = await s.snapshots.report(order.vm_id)
        assert (report.state, report.size_bytes) == ("made", fact.size_bytes)
        lines = len(s.printed(order.vm_id))
        assert s.printed(order.vm_id) == [str(i + 1) for i in range(lines)]
        await s.clean()
        for run in (1, 2):
            before = s.printed(order.vm_id)
            report = await s.vms.start(order.model_copy(update={"run": run}))
            assert (report.began, report.state) == ("ready", "started")
            printed = await grown(s, order.vm_id, len(before) + 5)
            assert printed[len(before) :][:5] == [str(lines + i) for i in range(1, 6)]
            await s.vms.stop(order.vm_id, 0)
        await s.clean()


async def test_a_start_makes_the_snapshot_it_wants(yard: Yard, tmp_path: Path) -> None:
    """Made first if it is not there, once for all that wait; removed, it is made again."""
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNTER, port=PORT, snapshot="ready")
        s.vms.snapshot(order)
        assert (await s.vms.start(order)).began == "ready"
        assert s.snapshots.ids() == [order.vm_id]
        with pytest.raises(Conflict):
            s.vms.snapshot(order)
        await s.vms.stop(order.vm_id, 0)
        await s.snapshots.remove(order.vm_id)
        assert s.snapshots.ids() == []
        with pytest.raises(NotFound):
            await s.snapshots.report(order.vm_id)
        assert (await s.vms.start(order.model_copy(update={"run": 2}))).began == "ready"


async def test_forks_are_somebody_else(yard: Yard, tmp_path: Path) -> None:
    """Five at once from one snapshot: the same memory and files, each with a name, ids, random
    numbers of its own, and the right time."""
    hooks = {"after_resume": {"kind": "exec", "argv": ["sh", "-c", WHO]}}
    script = f"cat /proc/sys/kernel/random/uuid > /f; {COUNTER}"
    async with site(yard, tmp_path) as s:
        order = await s.order(script, port=PORT, hooks=hooks)
        assert isinstance(await made(s, order), SnapshotMade)
        last = s.printed(order.vm_id)[-1]
        forks = [
            order.model_copy(
                update={"vm_id": f"fork{i}", "hostname": f"f{i}.test", "fork_of": order.vm_id}
            )
            for i in range(5)
        ]
        then = time.time()
        reports = await asyncio.gather(*map(s.vms.start, forks))
        now = time.time()
        assert {(report.began, report.state) for report in reports} == {("ready", "started")}
        told: list[list[str]] = []
        for fork in forks:
            lines = await grown(s, fork.vm_id, 11)
            counted = [line for line in lines if line.isdigit() and len(line) < 9]
            assert counted[0] == str(int(last) + 1)
            told.append([line for line in lines if line not in counted])
        for i, (hostname, file, uuid, random, date, ids, *identity) in enumerate(told):
            assert (hostname, ids) == (f"f{i}", f"fork{i} f{i}.test")
            assert identity == [f"CAKEWORK_VM_ID=fork{i}", f"CAKEWORK_HOSTNAME=f{i}.test"]
            assert then - 1 <= int(date) <= now + 1
            assert file == told[0][1] != uuid
            assert [uuid, random] not in [other[2:4] for other in told[:i]]
        assert len({words[2] for words in told}) == len({words[3] for words in told}) == 5
        with pytest.raises(NotFound):
            await s.vms.start(order.model_copy(update={"vm_id": "none", "fork_of": "nobody"}))
        with pytest.raises(Conflict):
            other = forks[0].model_copy(update={"vm_id": "other", "port": 1})
            await s.vms.start(other)
        await asyncio.gather(*(s.vms.stop(fork.vm_id, 0) for fork in forks))
        await s.clean()


async def test_a_stop_keeps_memory_for_one_start(yard: Yard, tmp_path: Path) -> None:
    """The program goes on where it was; the start after the next begins afresh."""
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNT)
        await s.vms.start(order)
        await grown(s, order.vm_id, 5)
        report = await s.vms.stop(order.vm_id, 0, keep_memory=True)
        assert (report.reason, report.memory_kept) == ("stopped on request", True)
        assert (await s.stopped(order.vm_id)).memory_kept
        await s.clean()
        before = len(s.printed(order.vm_id))
        for run, began in ((2, "memory"), (3, "memory"), (4, "boot")):
            report = await s.vms.start(order.model_copy(update={"run": run}))
            assert report.began == began
            printed = await grown(s, order.vm_id, before + 5)
            before = 0 if began == "boot" else before
            if began == "memory":
                assert printed == [str(i + 1) for i in range(len(printed))]
            else:
                assert printed[-5:] != [str(i + len(printed) - 4) for i in range(5)]
            report = await s.vms.stop(order.vm_id, 0, keep_memory=run == 2)
            assert report.memory_kept is (run == 2)
            before = len(s.printed(order.vm_id))
        assert s.snapshots.ids() == []
        await s.clean()


async def test_what_an_account_keeps_is_its_own_affair(yard: Yard, tmp_path: Path) -> None:
    """Who keeps more than it may has what it kept first go, and that VM boots; what another account
    kept before all of it is there. Snapshots stay; beyond them there are no more of either kind."""
    async with site(yard, tmp_path, kept_bytes=1) as s:

        async def kept(account: str) -> VmOrder:
            order = await s.order(COUNT, account_id=account)
            await s.vms.start(order)
            await grown(s, order.vm_id, 2)
            assert (await s.vms.stop(order.vm_id, 0, keep_memory=True)).memory_kept
            return order.model_copy(update={"run": 2})

        theirs, first, second = await kept("quiet"), await kept("loud"), await kept("loud")
        for order, began in ((theirs, "memory"), (first, "boot"), (second, "memory")):
            assert (await s.vms.start(order)).began == began
            await s.vms.stop(order.vm_id, 0)
        ready, another = [
            await s.order(COUNTER, account_id="loud", port=PORT, snapshot="ready") for _ in range(2)
        ]
        assert isinstance(await made(s, ready), SnapshotMade)
        fact = await made(s, another)
        assert isinstance(fact, SnapshotFailed)
        assert "account's snapshots" in fact.error
        assert (await s.vms.start(another)).began == "boot"
        with pytest.raises(QuotaExceeded):
            await s.vms.stop(another.vm_id, 0, keep_memory=True)
        await grown(s, another.vm_id, len(s.printed(another.vm_id)) + 2)
        await kept("quiet")


async def test_kept_memory_goes_with_its_volume(yard: Yard, tmp_path: Path) -> None:
    """It resumes over the volume as it was left, once; after that, and when the volume is not
    what it was, the program is started afresh and finds the volume."""
    script = f"date +%s.%N >> /data/starts; wc -l < /data/starts; {COUNT}"
    async with site(yard, tmp_path) as s:
        order = await s.order(script, volume_gb=1, volume_kept=True)
        await s.vms.start(order)
        await grown(s, order.vm_id, 3)
        assert (await s.vms.stop(order.vm_id, 0, keep_memory=True)).memory_kept
        report = await s.vms.start(order.model_copy(update={"run": 2}))
        assert report.began == "memory"
        os.kill(s.vms.machine(order.vm_id).process.pid, signal.SIGKILL)
        await until(lambda: not s.vms.reports())
        report = await s.vms.start(order.model_copy(update={"run": 3}))
        assert report.began == "boot"
        before = len(s.printed(order.vm_id))
        await grown(s, order.vm_id, before + 2)
        assert (await s.vms.stop(order.vm_id, 0, keep_memory=True)).memory_kept
        os.utime(s.folder / "volumes" / order.vm_id)
        report = await s.vms.start(order.model_copy(update={"run": 4}))
        assert report.began == "boot"
        with pytest.raises(InvalidRequest):
            await s.vms.start(await s.order("true", volume_gb=1, snapshot="ready"))
        with pytest.raises(InvalidRequest):
            s.vms.snapshot(await s.order("true", volume_gb=1))


async def test_a_volume_that_goes_keeps_no_memory(yard: Yard, tmp_path: Path) -> None:
    """The stop is refused, and the VM goes on."""
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNT, volume_gb=1)
        await s.vms.start(order)
        with pytest.raises(InvalidRequest, match="volume"):
            await s.vms.stop(order.vm_id, 0, keep_memory=True)
        await grown(s, order.vm_id, 3)


@pytest.mark.parametrize("killed", [False, True])
async def test_memory_that_cannot_be_kept(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, killed: bool
) -> None:
    """The VM goes on where it was frozen; if its QEMU died of it, it has stopped, and its memory
    is not kept. Nothing half made is left."""

    def fail(pid: int, target: Path) -> int:
        target.write_bytes(b"half")
        if killed:
            os.kill(pid, signal.SIGKILL)
        raise OSError("the disk is full")

    monkeypatch.setattr("cakework.node.vms.machines.save_memory", fail)
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNT)
        await s.vms.start(order)
        await grown(s, order.vm_id, 3)
        if killed:
            report = await s.vms.stop(order.vm_id, 0, keep_memory=True)
            assert (report.state, report.memory_kept) == ("stopped", False)
            assert report.reason == "the VM's process was killed by SIGKILL"
        else:
            with pytest.raises(Unavailable, match="the disk is full"):
                await s.vms.stop(order.vm_id, 0, keep_memory=True)
            printed = await grown(s, order.vm_id, len(s.printed(order.vm_id)) + 5)
            assert printed == [str(i + 1) for i in range(len(printed))]
        assert list((s.folder / "snapshots").iterdir()) == []


async def test_a_snapshot_that_is_not_what_it_was_is_made_again(
    yard: Yard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed manifest, a changed file, another environment: not restored, but made again."""
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNTER, port=PORT, snapshot="ready", env={"A": "1"})
        await made(s, order)
        ready = s.folder / "snapshots" / order.vm_id / "ready"
        first = (ready / NAME).read_bytes()
        assert b'"A"' not in first
        line, _, signature = first.partition(b"\n")
        manifest = json.loads(line)
        manifest["lines"] += 1
        (ready / NAME).write_bytes(json.dumps(manifest).encode() + b"\n" + signature)
        report = await s.vms.start(order)
        assert report.began == "ready"
        assert "signature" in capsys.readouterr().out
        await s.vms.stop(order.vm_id, 0)
        os.utime(ready / "ram")
        other = order.model_copy(update={"run": 2, "env": {"A": "2"}})
        assert (await s.vms.start(other)).began == "ready"
        assert "it differs in environment, ram" in capsys.readouterr().out
        await s.vms.stop(order.vm_id, 0)


REFUSE = "while read -r l; do [ ${#l} -gt 1 ] || break; done; echo HTTP/1.0 500 no"
REFUSING = f"exec busybox nc -ll -p {PORT} -e /bin/sh -c '{REFUSE}'"
FAILING: list[tuple[str, dict[str, object], str]] = [
    ("echo oops >&2; exit 3", {}, "ended with exit code 3 before it was ready; .*oops"),
    ("echo waiting; sleep 600", {}, "not ready within 1 s: nothing listened on port 8080.*waiting"),
    (COUNTER, {"before_snapshot": {"kind": "exec", "argv": ["false"]}}, "hook before .*code 1"),
    (REFUSING, {"before_snapshot": {"kind": "http", "path": "/x"}}, "POST /x, was not answered"),
    (COUNTER, {"before_snapshot": {"kind": "exec", "argv": ["nope"]}}, "could not be run: .*nope"),
]


@pytest.mark.parametrize(("script", "hooks", "why"), FAILING)
async def test_a_snapshot_that_cannot_be_made(
    yard: Yard, tmp_path: Path, script: str, hooks: dict[str, object], why: str
) -> None:
    """The fact says what was waited for and how it went; nothing is left."""
    said = ""
    # What is printed before the time is over is told too: on a slow machine not within a second.
    for ready_s in (1, 10) if "waiting" in script else (60,):
        patience = Patience(ready_s=ready_s, hook_s=60)
        async with site(yard, tmp_path / str(ready_s), patience=patience) as s:
            order = await s.order(script, port=PORT, hooks=hooks, snapshot="ready")
            said = await why_not_made(s, order)
        if re.search(why.replace("1 s", f"{ready_s} s"), said):
            return
    raise AssertionError(said)


async def why_not_made(s: Site, order: VmOrder) -> str:
    """Have a snapshot made that cannot be; return what is said of it."""
    fact = await made(s, order)
    assert isinstance(fact, SnapshotFailed)
    report = await s.snapshots.report(order.vm_id)
    assert (report.state, report.error) == ("failed", fact.error)
    assert list((s.folder / "snapshots").iterdir()) == []
    await s.clean()
    return fact.error


async def test_why_a_start_could_not_have_its_snapshot_made_is_known(
    yard: Yard, tmp_path: Path
) -> None:
    """It begins afresh, and who asks for the snapshot is told what came of it."""
    async with site(yard, tmp_path, patience=Patience(ready_s=1, hook_s=60)) as s:
        order = await s.order("echo waiting; sleep 600", port=PORT, snapshot="ready")
        assert (await s.vms.start(order)).began == "boot"
        report = await s.snapshots.report(order.vm_id)
        assert report.state == "failed"
        assert "nothing listened on port 8080" in (report.error or "")


async def test_a_hook_that_fails_after_the_resume_ends_the_vm(yard: Yard, tmp_path: Path) -> None:
    """It is never told as started; its end says why."""
    hooks = {"after_resume": {"kind": "exec", "argv": ["sh", "-c", "echo bad >&2; exit 9"]}}
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNTER, port=PORT, hooks=hooks, snapshot="ready")
        report = await s.vms.start(order)
        assert report.state == "stopped"
        end = await s.stopped(order.vm_id)
        assert "the hook after the resume ended with exit code 9" in end.reason
        assert "bad" in s.printed(order.vm_id)
        assert not any(isinstance(fact, VmStarted) for fact in s.facts())
        await s.clean()


async def test_connections_of_before_are_reset(yard: Yard, tmp_path: Path) -> None:
    """A resumed program's connection with another machine is over, at once; what listens goes
    on to, and its connections within the machine last."""
    script = (
        f"busybox nc -ll -p {PORT} -e /bin/sh -c 'while read l; do echo $l; done; echo over >&2' &"
        f"busybox nc -ll -p 9 -e /bin/cat & {LISTENS}; {{ echo in; sleep 600; }} | "
        f"busybox nc 127.0.0.1 9 & {COUNT}"
    )
    hooks = {"after_resume": {"kind": "exec", "argv": ["cat", "/proc/net/tcp", "/proc/net/tcp6"]}}
    async with site(yard, tmp_path) as s:
        order = await s.order(script, port=PORT, hooks=hooks)
        await s.vms.start(order)
        await until(lambda: "in" in s.printed(order.vm_id))
        with await dialed(s, order.vm_id) as connection:
            connection.sendall(b"hello\n")
            assert connection.recv(100) == b"hello\n"
            assert (await s.vms.stop(order.vm_id, 0, keep_memory=True)).memory_kept
        before = len(s.printed(order.vm_id))
        report = await s.vms.start(order.model_copy(update={"run": 2}))
        assert (report.began, report.state) == ("memory", "started")
        table = [line.split() for line in s.printed(order.vm_id)[before:] if ":" in line]
        ends = [words[1:4] for words in table if words[0].endswith(":")]
        assert [local for local, _, state in ends if state == "0A"] != []
        connected = {remote.partition(":")[0][-8:] for _, remote, state in ends if state == "01"}
        assert connected == {"0100007F"}
        await until(lambda: "over" in s.printed(order.vm_id))
        with await dialed(s, order.vm_id) as connection:
            connection.sendall(b"again\n")
            assert connection.recv(100) == b"again\n"


async def dialed(s: Site, vm_id: str) -> socket.socket:
    """Return a connection into a VM, as the router has it."""
    namespace = s.vms.machine(vm_id).namespace.fd
    connection = run_inside(namespace, socket.socket)
    connection.settimeout(60)
    await asyncio.to_thread(connection.connect, (GUEST_ADDRESS, PORT))
    return connection


async def test_busy_snapshots_wait_in_the_pool(yard: Yard, tmp_path: Path) -> None:
    """Started twice, a snapshot has a machine kept ready; the next start takes it. One that is
    removed has none."""
    async with site(yard, tmp_path, pool_snapshots=1) as s:
        order = await s.order(COUNTER, port=PORT, snapshot="ready")
        await made_busy(s, order)
        assert s.pool.ready == 0
        async with filling(s.pool):
            report = await s.vms.start(order.model_copy(update={"run": 3}))
            assert "pooled" in report.phases_ms
            assert report.began == "ready"
            before = len(s.printed(order.vm_id))
            await grown(s, order.vm_id, before + 3)
            await s.vms.stop(order.vm_id, 0)
            await until(lambda: s.pool.ready == 1)
            await s.snapshots.remove(order.vm_id)
            assert s.pool.ready == 0
        await s.clean()


async def test_busy_shapes_wait_in_the_pool(yard: Yard, tmp_path: Path) -> None:
    """A shape that is started again and again has a machine ready, until others are busier."""
    async with site(yard, tmp_path, pool_snapshots=1) as s, kept_full(s.pool):
        order = await s.order("exec sleep 600", shape=Shape(memory_mb=192))
        other = await s.order("exec sleep 600", shape=Shape(memory_mb=320))
        for _ in range(2):
            await start_and_stop(s, order)
        await until(lambda: s.pool.ready == 1)
        assert "queue" not in (await start_and_stop(s, order)).phases_ms
        for _ in range(2):
            assert "queue" in (await start_and_stop(s, other)).phases_ms
        await until(lambda: s.pool.ready == 1)
        assert "queue" not in (await start_and_stop(s, other)).phases_ms
        assert "queue" in (await start_and_stop(s, order)).phases_ms


async def test_sizes_in_between_share_a_template(yard: Yard, tmp_path: Path) -> None:
    """VMs that asked for a little less are machines of the next size, and count as those."""
    shape = Shape(memory_mb=320)
    host_mb = 3 * yard.host(tmp_path).footprint.mb(shape) - 1
    async with site(yard, tmp_path, memory_mb=host_mb) as s:
        for memory_mb in (257, 300):
            order = await s.order("exec sleep 600", shape=Shape(memory_mb=memory_mb))
            await s.vms.start(order)
            assert s.vms.machine(order.vm_id).record.shape == shape
        assert s.vms.shapes() == {shape}
        with pytest.raises(NoRoom):
            await s.vms.start(await s.order("true", shape=Shape(memory_mb=257)))


async def start_and_stop(s: Site, order: VmOrder) -> VmReport:
    """Start a VM like ``order``, stop it, and return how it was started."""
    vm = order.model_copy(update={"vm_id": new_vm_id()})
    report = await s.vms.start(vm)
    await s.vms.stop(vm.vm_id, 0)
    return report


async def test_a_stop_while_kept_memory_is_taken_leaves_nothing(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is there by then, and nobody's yet."""
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNT)
        await s.vms.start(order)
        await grown(s, order.vm_id, 2)
        await s.vms.stop(order.vm_id, 0, keep_memory=True)
        began = hanging(monkeypatch, s.snapshots, "used")
        starting = asyncio.create_task(s.vms.start(order.model_copy(update={"run": 2})))
        await began.wait()
        assert s.leftovers()
        await s.vms.stop(order.vm_id, 0)
        await asyncio.gather(starting, return_exceptions=True)
        await s.clean()


async def test_a_stop_while_a_pooled_machine_goes_on_leaves_nothing(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was taken from the pool is released if its start is given up."""
    async with site(yard, tmp_path, pool_snapshots=1) as s:
        order = await s.order(COUNTER, port=PORT, snapshot="ready")
        await made_busy(s, order)
        async with filling(s.pool):
            pass
        asked = s.pool._asked[ready_folder(s, order), "internet"]  # pyright: ignore[reportPrivateUsage]
        (machine,) = asked.ready
        began = hanging(monkeypatch, machine, "go_on")
        starting = asyncio.create_task(s.vms.start(order.model_copy(update={"run": 3})))
        await began.wait()
        await s.vms.stop(order.vm_id, 0)
        await asyncio.gather(starting, return_exceptions=True)
        assert machine.process.ended
        await s.snapshots.remove(order.vm_id)
        await s.clean()


async def test_a_full_host_costs_no_snapshot(yard: Yard, tmp_path: Path) -> None:
    """A start that finds no slot fails; when there is one again, the snapshot is as it was."""
    async with site(yard, tmp_path) as s:
        order = await s.order(COUNTER, port=PORT, snapshot="ready")
        await made(s, order)
        await s.clean()
        taken = [s.host.slots.take() for _ in range(SLOTS)]
        fork = order.model_copy(update={"vm_id": new_vm_id(), "fork_of": order.vm_id})
        with pytest.raises(NoRoom):
            await s.vms.start(fork)
        for slot in taken:
            s.host.slots.give_back(slot)
        assert (await s.vms.start(fork)).began == "ready"


def ready_folder(s: Site, order: VmOrder) -> Path:
    return s.folder / "snapshots" / order.vm_id / "ready"


def hanging(monkeypatch: pytest.MonkeyPatch, of: object, name: str) -> asyncio.Event:
    """Have a method wait for ever; the event is set when it begins to."""
    began = asyncio.Event()

    async def wait(*_: object) -> None:
        began.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(of, name, wait)
    return began
