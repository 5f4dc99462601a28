"""Machines and VMs: real QEMU, restored from one template."""

import asyncio
import gc
import json
import os
import shutil
import signal
import stat
import time
from pathlib import Path

import pytest

from cakework.domain.errors import InvalidRequest, NoRoom, NotFound, Unavailable
from cakework.domain.facts import VmStarted, VmStopped
from cakework.domain.ids import new_vm_id
from cakework.domain.vms import Shape
from cakework.node.cgroups import Cgroup, NotEnded
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.protocol import (
    Exited,
    GuestError,
    GuestFrame,
    Identity,
    Line,
    Run,
    Started,
)
from cakework.node.images.store import RunConfig
from cakework.node.vms import qemu, vm, workshop
from cakework.node.vms.artifacts import Artifacts
from cakework.node.vms.machines import Machine
from cakework.node.vms.room import Footprint
from cakework.node.vms.workshop import Workshop
from tests.integration.node.guest.materials import make_image
from tests.integration.node.vm_site import (
    ARTIFACTS,
    DEADLINE_S,
    DISK_GB,
    Yard,
    filling,
    site,
    until,
)

pytestmark = pytest.mark.anyio
FOOTPRINT_MB = Footprint().mb(Shape())


def run(*argv: str) -> Run:
    seed = os.urandom(32)
    return Run(Identity(clock_ns=time.time_ns(), seed=seed, hostname="vm"), argv)


def recorded_pid(machines_dir: Path) -> int:
    """Return the process of the one machine there is."""
    (record,) = machines_dir.glob("*/record.json")
    return json.loads(record.read_text())["pid"]


async def frames_to_end(machine: Machine) -> list[GuestFrame]:
    frames: list[GuestFrame] = []
    async with asyncio.timeout(DEADLINE_S):
        while not frames or not isinstance(frames[-1], Exited):
            frame = await machine.channel.receive()
            assert frame is not None
            frames.append(frame)
    return frames


async def test_a_restored_machine_runs_a_program(yard: Yard, tmp_path: Path) -> None:
    """From a template to a program's output and exit, and then to nothing."""
    async with site(yard, tmp_path) as s:
        machine = await Machine.restore(s.host, await s.template(), yard.rootfs)
        await machine.channel.send(run("sh", "-c", "echo here; exit 3"))
        started, line, exited = await frames_to_end(machine)
        assert isinstance(started, Started)
        assert isinstance(line, Line)
        assert line.text == b"here"
        assert exited == Exited(False, 3, False, 1)
        await machine.release()
        await s.clean()


async def test_a_pooled_machine_gets_its_image_late(yard: Yard, tmp_path: Path) -> None:
    """A rehearsed and paused machine runs what is on the image that it is given."""
    async with site(yard, tmp_path) as s:
        machine = await Machine.restore(s.host, await s.template(), image=None)
        await machine.rehearse()
        await machine.monitor.pause()
        await machine.give_image(yard.rootfs)
        await machine.monitor.resume()
        await machine.channel.send(run("cat", "/etc/passwd"))
        lines = [f.text for f in await frames_to_end(machine) if isinstance(f, Line)]
        assert b"app:x:1000:1001::/home/app:/bin/sh" in lines
        await machine.release()
        await s.clean()


async def test_two_machines_share_neither_clock_nor_randomness(yard: Yard, tmp_path: Path) -> None:
    """Restored from the same memory, they have different random numbers, and the right time."""
    script = "head -c 32 /dev/urandom | od -An -tx1 -v | tr -d ' \\n'; echo; date +%s"
    async with site(yard, tmp_path) as s:
        began_s = int(time.time())
        outputs: list[list[bytes]] = []
        for _ in range(2):
            machine = await Machine.restore(s.host, await s.template(), yard.rootfs)
            await machine.channel.send(run("sh", "-c", script))
            frames = await frames_to_end(machine)
            outputs.append([frame.text for frame in frames if isinstance(frame, Line)])
            await machine.release()
        (one, then), (other, later) = outputs
        assert len(one) == len(other) == 64
        assert one != other
        assert began_s - 1 <= int(then) <= int(later) <= time.time() + 1


async def test_a_qemu_that_ends_at_once_says_why(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error holds QEMU's own words, and nothing is left."""
    async with site(yard, tmp_path) as s:
        template = await s.template()
        monkeypatch.setattr(qemu, "SANDBOX", "on,nonsense=deny")
        with pytest.raises(Unavailable, match="nonsense"):
            await Machine.restore(s.host, template, yard.rootfs)
        await s.clean()


async def test_a_qemu_that_ends_while_its_guest_boots_holds_nobody_up(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it has ended is noticed and told at once, and not when a guest's time is over."""
    monkeypatch.setattr(workshop, "BOOTS_S", (10 * DEADLINE_S,))
    killed: list[int] = []

    async def refused(*_: object, **__: object) -> None:
        """Do as a socket does that nobody has any more."""
        if not killed:
            killed.append(recorded_pid(tmp_path / "machines"))
            os.kill(killed[0], signal.SIGKILL)
        raise GuestError("cannot connect to the guest: Connection refused")

    monkeypatch.setattr(GuestChannel, "connect", refused)
    async with site(yard, tmp_path) as s:
        of_own = Workshop(tmp_path / "templates", s.host, "tcg", disk_gb=DISK_GB, most=1)
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(Unavailable, match="QEMU was killed by SIGKILL at its start"):
                await of_own.template(Shape())
        await s.clean()


async def test_a_guest_that_says_nothing_at_its_boot_is_booted_anew(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QEMU that runs on, and whose guest does not, is ended, and nothing of it is used."""
    monkeypatch.setattr(workshop, "BOOTS_S", (0.0, DEADLINE_S))
    async with site(yard, tmp_path) as s:
        of_own = Workshop(tmp_path / "templates", s.host, "tcg", disk_gb=DISK_GB, most=1)
        template = await of_own.template(Shape())
        assert list((tmp_path / "templates").iterdir()) == [template.folder]
        machine = await Machine.restore(s.host, template, image=None)
        await machine.release()
        await s.clean()


async def test_a_start_cancelled_anywhere_leaves_nothing(yard: Yard, tmp_path: Path) -> None:
    """However far a restore has come, cancelling it takes everything back."""
    async with site(yard, tmp_path) as s:
        template = await s.template()
        for delay_s in (0.0, 0.005, 0.02, 0.05, 0.1, 0.15):
            restoring = asyncio.create_task(Machine.restore(s.host, template, yard.rootfs))
            await asyncio.wait({restoring}, timeout=delay_s)
            restoring.cancel()
            (end,) = await asyncio.gather(restoring, return_exceptions=True)
            if isinstance(end, Machine):
                await end.release()
            await s.clean()


async def test_a_vm_from_order_to_end(yard: Yard, tmp_path: Path) -> None:
    """Facts: started, its lines, stopped with the exit code; afterwards nothing is left."""
    async with site(yard, tmp_path) as s:
        order = await s.order("echo one; echo two >&2; exit 7", env={"A": "b"})
        report = await s.vms.start(order)
        assert report.state in ("started", "stopped")
        end = await s.stopped(order.vm_id)
        assert (end.exit_code, end.reason) == (7, "the program ended with exit code 7")
        assert sorted(s.printed(order.vm_id)) == ["one", "two"]
        kinds = [fact.kind for fact in s.facts()]
        assert (kinds[0], kinds[-1]) == ("vm.started", "vm.stopped")
        await s.clean()
        assert s.vms.report(order.vm_id).exit_code == 7
        with pytest.raises(NotFound):
            s.vms.machine(order.vm_id)


async def test_an_image_with_a_pipe_for_its_accounts(yard: Yard, tmp_path: Path) -> None:
    """Its start ends with a reason, all that it held is released, and the next goes well."""

    def change(root: Path) -> None:
        (root / "etc/passwd").unlink()
        os.mkfifo(root / "etc/passwd")

    make_image(tmp_path / "odd", {}, change)
    async with site(yard, tmp_path) as s:
        order = await s.order("exec sleep 600")
        config = RunConfig(argv=("/bin/true",))
        odd = await s.images.put("odd", tmp_path / "odd", config)
        attack = order.model_copy(update={"vm_id": new_vm_id(), "image_id": odd.image_id})
        report = await asyncio.wait_for(s.vms.start(attack), 2 * DEADLINE_S)
        assert report.state == "stopped"
        assert report.reason == (
            "the program could not be started: reading /etc/passwd: it is not a plain file"
        )
        await s.clean()
        assert (await s.vms.start(order)).state == "started"


@pytest.mark.parametrize("pool", [0, 1])
async def test_an_order_given_again_starts_nothing_again(
    yard: Yard, tmp_path: Path, pool: int
) -> None:
    """Given at once, later, and after the end: one start, one answer."""
    async with site(yard, tmp_path, pool=pool) as s:
        order = await s.order("echo up; exec sleep 600")
        if pool:
            async with filling(s.pool):
                pass
        at_once = await asyncio.gather(s.vms.start(order), s.vms.start(order))
        reports = [*at_once, await s.vms.start(order)]
        assert {report.state for report in reports} == {"started"}
        stopped = await s.vms.stop(order.vm_id, 0)
        assert await s.vms.start(order) == stopped
        assert sum(isinstance(fact, VmStarted) for fact in s.facts()) == 1


async def test_orders_that_cannot_be_carried_out(yard: Yard, tmp_path: Path) -> None:
    """Each repetition under way gets the same error; nothing is left, and nobody waits on."""
    async with site(yard, tmp_path) as s:
        order = await s.order("echo", env={"A": "nul\0inside"})
        async with asyncio.timeout(DEADLINE_S):
            answers = await asyncio.gather(
                s.vms.start(order), s.vms.start(order), return_exceptions=True
            )
        assert [type(answer) for answer in answers] == [InvalidRequest, InvalidRequest]
        assert s.vms.reports() == s.facts() == []
        await s.clean()
        with pytest.raises(NotFound):
            await s.vms.start(order.model_copy(update={"image_id": "none"}))


async def test_memory_is_promised_once(yard: Yard, tmp_path: Path) -> None:
    """A VM that does not fit is refused with a hint when to try again; room made is room."""
    async with site(yard, tmp_path, memory_mb=2 * FOOTPRINT_MB) as s:
        orders = [await s.order("exec sleep 600") for _ in range(3)]
        answers = await asyncio.gather(*map(s.vms.start, orders), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        assert [type(error) for error in refused] == [NoRoom]
        assert isinstance(refused[0], NoRoom)
        assert refused[0].retry_after_s
        running = s.vms.reports()[0].vm_id
        await s.vms.stop(running, 0)
        last = next(
            order for order, answer in zip(orders, answers, strict=True) if answer in refused
        )
        assert (await s.vms.start(last)).state == "started"


async def test_the_pool_makes_room_for_vms_and_comes_back(yard: Yard, tmp_path: Path) -> None:
    """Waiting machines never take what a VM needs; when it is free again, they wait again."""
    async with site(yard, tmp_path, memory_mb=2 * FOOTPRINT_MB, pool=1) as s, filling(s.pool):
        orders = [await s.order("exec sleep 600") for _ in range(2)]
        for order in orders:
            assert (await s.vms.start(order)).state == "started"
        assert s.pool.full
        assert s.pool.ready == 0
        await s.vms.stop(orders[0].vm_id, 0)
        await until(lambda: s.pool.ready == 1)


async def test_a_pooled_machine_that_dies_is_replaced(yard: Yard, tmp_path: Path) -> None:
    """The end of a waiting QEMU is noticed, and another made; a start does not suffer."""
    async with site(yard, tmp_path, pool=1) as s:
        async with filling(s.pool):
            machine = s.pool._always[Shape()].ready[0]  # pyright: ignore[reportPrivateUsage]
            os.kill(machine.process.pid, signal.SIGKILL)
            await until(lambda: s.pool.ready == 0)
            await until(lambda: s.pool.ready == 1)
        taken = s.pool._always[Shape()].ready[0]  # pyright: ignore[reportPrivateUsage]
        os.kill(taken.process.pid, signal.SIGKILL)
        order = await s.order("exec sleep 600")
        assert (await s.vms.start(order)).state == "started"


@pytest.mark.parametrize("moment_s", [0.0, 0.03, 0.1, 0.2])
async def test_stopped_while_it_starts(yard: Yard, tmp_path: Path, moment_s: float) -> None:
    """A stop ends a start under way: one fact says so, all are told, nothing is left."""
    async with site(yard, tmp_path) as s:
        order = await s.order("exec sleep 600")
        starting = asyncio.create_task(s.vms.start(order))
        await asyncio.wait({starting}, timeout=moment_s)
        stops = await asyncio.gather(s.vms.stop(order.vm_id, 0), s.vms.stop(order.vm_id, 0))
        started = await asyncio.wait_for(starting, DEADLINE_S)
        assert {report.state for report in stops} == {"stopped"}
        assert started.state in ("started", "stopped")
        ends = [fact for fact in s.facts() if isinstance(fact, VmStopped)]
        assert [end.reason for end in ends] == ["stopped on request"]
        await s.clean()


async def test_stopped_before_its_start_has_begun(yard: Yard, tmp_path: Path) -> None:
    """In the moment when it is taken and its task has not run: it is over, told, and forgotten."""
    async with site(yard, tmp_path) as s:
        order = await s.order("exec sleep 600")
        starting = asyncio.create_task(s.vms.start(order))
        await asyncio.sleep(0)
        assert (await asyncio.wait_for(s.vms.stop(order.vm_id, 0), DEADLINE_S)).state == "stopped"
        assert (await asyncio.wait_for(starting, DEADLINE_S)).state == "stopped"
        assert [fact.reason for fact in s.facts() if isinstance(fact, VmStopped)] == [
            "stopped on request"
        ]
        await s.clean()


async def test_a_killed_qemu_is_noticed_at_once(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9: the VM has stopped, with the reason, without anybody looking after it now and then;
    no exception is left for the collector."""
    monkeypatch.setattr(vm, "CHECK_EVERY_S", 10 * DEADLINE_S)
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    async with site(yard, tmp_path) as s:
        order = await s.order("exec sleep 600")
        await s.vms.start(order)
        os.kill(s.vms.machine(order.vm_id).process.pid, signal.SIGKILL)
        end = await s.stopped(order.vm_id)
        assert (end.reason, end.exit_code) == ("the VM's process was killed by SIGKILL", None)
        assert end.cause == "died"
        await s.clean()
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_a_qemu_that_hangs_is_noticed(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that gives no sign of life is ended, although it cannot answer anything."""
    monkeypatch.setattr(vm, "CHECK_EVERY_S", 0.1)
    monkeypatch.setattr(vm, "CHECK_TIMEOUT_S", DEADLINE_S)
    async with site(yard, tmp_path) as s:
        order = await s.order("exec sleep 600")
        await s.vms.start(order)
        os.kill(s.vms.machine(order.vm_id).process.pid, signal.SIGSTOP)
        monkeypatch.setattr(vm, "CHECK_TIMEOUT_S", 0.5)
        await until(lambda: any(isinstance(f, VmStopped) for f in s.facts()), 3 * DEADLINE_S)
        end = await s.stopped(order.vm_id)
        assert end.reason == "the VM stopped responding"
        await s.clean()


async def test_a_stop_ends_a_vm_that_hangs(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks does not wait longer than the grace and a bound."""
    monkeypatch.setattr(vm, "END_GRACE_S", 0.3)
    async with site(yard, tmp_path) as s:
        order = await s.order("exec sleep 600")
        await s.vms.start(order)
        os.kill(s.vms.machine(order.vm_id).process.pid, signal.SIGSTOP)
        async with asyncio.timeout(DEADLINE_S):
            report = await s.vms.stop(order.vm_id, 0.1)
        assert report.reason == "stopped on request"
        await s.clean()


async def test_a_program_is_ended_by_signal(yard: Yard, tmp_path: Path) -> None:
    """SIGTERM comes first, and what the program prints then is kept."""
    async with site(yard, tmp_path) as s:
        script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"
        order = await s.order(script)
        await s.vms.start(order)
        await until(lambda: "up" in s.printed(order.vm_id))
        report = await s.vms.stop(order.vm_id, DEADLINE_S)
        assert (report.reason, report.exit_code) == ("stopped on request", 5)
        assert report.cause == "stopped"
        assert s.printed(order.vm_id) == ["up", "bye"]


async def test_a_program_that_has_ended_says_how(yard: Yard, tmp_path: Path) -> None:
    """Who was told that it broke off gives it a moment, and ends what goes on all the same."""
    async with site(yard, tmp_path) as s:
        orders = [await s.order(script) for script in ("sleep 1; exit 5", "exec sleep 600")]
        for order in orders:
            await s.vms.start(order)
        ended = await s.vms.stop(orders[0].vm_id, 0, wait_s=DEADLINE_S)
        assert (ended.cause, ended.exit_code) == ("exited", 5)
        goes_on = await s.vms.stop(orders[1].vm_id, 0, wait_s=0.2)
        assert goes_on.cause == "stopped"
        await s.clean()


async def test_a_volume_has_its_size(yard: Yard, tmp_path: Path) -> None:
    """volume_gb gives an empty /data of that size, writable, and gone with the VM."""
    async with site(yard, tmp_path) as s:
        script = (
            "stat -f -c '%b %S' /data; ls /data | grep -v lost+found; "
            "echo x > /data/f && cat /data/f; sleep 600"
        )
        order = await s.order(script, volume_gb=2)
        await s.vms.start(order)
        await until(lambda: len(s.printed(order.vm_id)) == 2)
        disks = s.vms.machine(order.vm_id).folder / "vm"
        assert {path.name: path.stat().st_nlink for path in disks.iterdir()} == {
            "image": 2,
            "scratch": 1,
            "volume": 1,
        }
        await s.vms.stop(order.vm_id, 0)
        size, content = s.printed(order.vm_id)
        blocks, block_size = map(int, size.split())
        assert 1.8 * (1 << 30) < blocks * block_size <= 2 << 30
        assert content == "x"
        await s.clean()


async def test_a_kept_volume_keeps_what_was_written(yard: Yard, tmp_path: Path) -> None:
    """The next run of a VM finds on /data what the run before wrote; its lines count on."""
    async with site(yard, tmp_path) as s:
        script = "cat /data/f; cat /proc/sys/kernel/random/uuid > /data/f; cat /data/f"
        order = await s.order(script, volume_gb=1, volume_kept=True)
        await s.vms.start(order)
        await until(lambda: not s.vms.reports())
        await s.vms.start(order.model_copy(update={"run": 2}))
        await until(lambda: not s.vms.reports())
        ends = [fact.exit_code for fact in s.facts() if isinstance(fact, VmStopped)]
        assert ends == [0, 0]
        missing, first, again, second = s.printed(order.vm_id)
        assert "No such file" in missing
        assert first == again != second


async def test_the_fingerprint_follows_what_a_template_is_made_of(
    yard: Yard, tmp_path: Path
) -> None:
    """Another guest program, another template."""
    artifacts = Artifacts(tmp_path / "artifacts")
    for folder in ("kernel", "guest", "jail"):
        shutil.copytree(ARTIFACTS.folder / folder, artifacts.folder / folder, symlinks=True)
    same = Artifacts(artifacts.folder).digest
    assert same == ARTIFACTS.digest
    with artifacts.guest.open("ab") as file:
        file.write(b"\0")
    assert artifacts.digest != same
    host, changed = yard.host(tmp_path), yard.host(tmp_path, artifacts)
    names = [
        Workshop(tmp_path / "t", h, accelerator, disk_gb=gb, most=1)
        for h, accelerator, gb in (
            (host, "tcg", DISK_GB),
            (changed, "tcg", DISK_GB),
            (host, "kvm", DISK_GB),
            (host, "tcg", DISK_GB + 1),
        )
    ]
    assert len({workshop.fingerprint(Shape()) for workshop in names}) == len(names)
    assert names[0].fingerprint(Shape()) != names[0].fingerprint(Shape(cpu=2))
    assert (yard.templates / names[0].fingerprint(Shape())).is_dir()


async def test_half_made_templates_are_reaped(yard: Yard, tmp_path: Path) -> None:
    """What a killed node was making goes at the next start; whole ones stay, read-only."""
    host = yard.host(tmp_path)
    folder = tmp_path / "templates"
    (folder / ".making-abc").mkdir(parents=True)
    (folder / ".making-abc" / "ram").write_bytes(b"half")
    (folder / "whole").mkdir()
    Workshop(folder, host, "tcg", disk_gb=DISK_GB, most=1)
    assert [path.name for path in folder.iterdir()] == ["whole"]
    template = await yard.workshop(host).template(Shape())
    for file in template.folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o444
        assert file.stat().st_uid == 0


async def test_a_template_that_cannot_be_made_leaves_nothing(yard: Yard, tmp_path: Path) -> None:
    """A kernel that does not boot gives an error in time to read; nothing is half made."""
    artifacts = Artifacts(tmp_path / "artifacts")
    for folder in ("kernel", "guest", "jail"):
        shutil.copytree(ARTIFACTS.folder / folder, artifacts.folder / folder, symlinks=True)
    artifacts.kernel.unlink()
    artifacts.kernel.write_bytes(b"no kernel")
    async with site(yard, tmp_path) as s:
        host = yard.host(tmp_path, artifacts)
        workshop = Workshop(tmp_path / "templates", host, "tcg", disk_gb=1, most=1)
        with pytest.raises(Unavailable, match=r"QEMU ended with status 1 at its start: .*kernel"):
            await workshop.template(Shape())
        assert list((tmp_path / "templates").iterdir()) == []
        await s.clean()


async def test_a_user_whose_processes_go_on_is_given_to_no_other(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else of the machine is given back, and who looks for what nobody claims ends them."""

    async def not_ended(cgroup: Cgroup, timeout_s: float = 0) -> None:
        raise NotEnded(cgroup)

    async with site(yard, tmp_path) as s:
        machine = await Machine.restore(s.host, await s.template(), yard.rootfs)
        free, group = s.host.slots.free, machine.cgroup.name
        with monkeypatch.context() as broken:
            broken.setattr(Cgroup, "end", not_ended)
            await machine.release()
            assert not machine.folder.exists()
            assert s.host.slots.free == free
            # A node that cannot end them either starts all the same.
            await s.vms.adopt()
        assert Cgroup.existing(group)
        await s.vms.adopt()
        assert not Cgroup.existing(group)
        for _ in range(2):
            s.host.slots.give_back(machine.record.slot)
