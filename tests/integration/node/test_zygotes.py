"""Machines forked from one that rests: real QEMU, whose threads go on in the fork."""

import asyncio
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cakework.domain.vms import Shape
from cakework.node.guest.protocol import Exited, GuestFrame, Identity, Line, Run
from cakework.node.network.namespaces import run_inside
from cakework.node.vms.forking import NotForked, find_places
from cakework.node.vms.machines import Machine, Resting
from cakework.node.vms.zygotes import Zygotes
from tests.integration.node.guest.materials import compile_static, make_image
from tests.integration.node.vm_site import Site, Yard, filling, site, until

pytestmark = pytest.mark.anyio
SYS_KCMP, KCMP_FILE = 312, 0
READ_ONLY = {"/template/ram", "/template/rehearsal.erofs", "/dev/null"}
EPOLL = """
import select, sys
with open(sys.argv[1]), select.epoll() as poll:
    print(flush=True)
    input()
    poll.register(0, select.EPOLLIN)
    print(flush=True)
    input()
"""
RANDOM = "head -c 32 /dev/urandom | od -An -tx1 -v | tr -d ' \\n'; echo; date +%s; hostname"


def run(*argv: str, hostname: str = "vm") -> Run:
    seed = os.urandom(32)
    return Run(Identity(clock_ns=time.time_ns(), seed=seed, hostname=hostname), argv)


async def printed(machine: Machine, order: Run) -> list[str]:
    """Have a program run to its end; return its lines."""
    await machine.channel.send(order)
    frames: list[GuestFrame | None] = []
    async with asyncio.timeout(60):
        while not frames or not isinstance(frames[-1], Exited):
            frames.append(await machine.channel.receive())
            assert frames[-1] is not None
    return [frame.text.decode() for frame in frames if isinstance(frame, Line)]


async def zygote(s: Site) -> Resting:
    machine = await Machine.restore(s.host, await s.template(), forkable="as others")
    await machine.rehearse()
    return await machine.rest()


def status(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


async def test_forks_run_programs_of_their_own(yard: Yard, tmp_path: Path) -> None:
    """Several of one zygote, one after another and at once: each its clock, randomness and name."""
    async with site(yard, tmp_path) as s:
        resting, began_s = await zygote(s), int(time.time())
        forks = [await Machine.fork(s.host, resting, yard.rootfs)]
        forks += await asyncio.gather(
            *(Machine.fork(s.host, resting, yard.rootfs) for _ in range(4))
        )
        lines = await asyncio.gather(
            *(printed(m, run("sh", "-c", RANDOM, hostname=f"vm{i}")) for i, m in enumerate(forks))
        )
        assert len({numbers for numbers, _, _ in lines}) == 5
        assert all(began_s - 1 <= int(then) <= time.time() + 1 for _, then, _ in lines)
        assert [name for _, _, name in lines] == [f"vm{i}" for i in range(5)]
        for machine in (*forks, resting.machine):
            await machine.release()
        await s.clean()


async def test_forks_draw_other_numbers_from_their_processor(yard: Yard, tmp_path: Path) -> None:
    """RDRAND, which QEMU emulates with a generator of its own: none is drawn twice."""
    source = """
        #include <stdio.h>
        int main(void) {
            for (int i = 0; i < 8; i++) {
                unsigned long long n; unsigned char ok;
                do __asm__ volatile("rdrand %0; setc %1" : "=r"(n), "=qm"(ok)); while (!ok);
                printf("%llx\\n", n);
            }
        }"""
    rootfs = tmp_path / "image"
    make_image(rootfs, {"bin/draw": compile_static(tmp_path / "draw", source)})
    async with site(yard, tmp_path) as s:
        resting = await zygote(s)
        forks = [await Machine.fork(s.host, resting, rootfs) for _ in range(3)]
        drawn = [number for fork in forks for number in await printed(fork, run("draw"))]
        assert len(set(drawn)) == len(drawn) == 24
        for machine in (*forks, resting.machine):
            await machine.release()
        await s.clean()


async def test_forks_share_nothing_that_they_write(yard: Yard, tmp_path: Path) -> None:
    """What one writes to memory and disk is in no other, nor in one that is forked later."""
    script = "cat /file /dev/shm/file 2>/dev/null; echo mine | tee /file > /dev/shm/file"
    async with site(yard, tmp_path) as s:
        resting = await zygote(s)
        for _ in range(3):
            machine = await Machine.fork(s.host, resting, yard.rootfs)
            assert await printed(machine, run("sh", "-c", script)) == []
            await machine.release()
        await resting.machine.release()
        await s.clean()


def open_files(pid: int) -> dict[int, str]:
    return {int(fd.name): str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}


def shared(one: int, other: int) -> set[str]:
    """Return what two processes have open together, by name: not the same file, opened by each,
    but one descriptor's worth, so that what one does with it the other sees."""

    def same(fd: int, other_fd: int) -> bool:
        words = map(ctypes.c_ulong, (SYS_KCMP, one, other, KCMP_FILE, fd, other_fd))
        order = ctypes.CDLL(None, use_errno=True).syscall(*words)
        assert order >= 0, os.strerror(ctypes.get_errno())
        return order == 0

    theirs = open_files(other)
    return {name for fd, name in open_files(one).items() if any(same(fd, at) for at in theirs)}


async def test_forks_share_no_open_file_that_one_can_change(yard: Yard, tmp_path: Path) -> None:
    """Neither with their zygote nor with each other, however they come about: what is left are the
    template's files, which they can only read, and /dev/null. What was exchanged is there."""
    async with site(yard, tmp_path) as s:
        resting = await zygote(s)
        forks = [await Machine.fork(s.host, resting, yard.rootfs) for _ in range(2)]
        heir = await Machine.fork(s.host, resting, forkable=True)
        again = await heir.rest()
        forks += [await Machine.fork(s.host, again, yard.rootfs)]
        machines = (resting.machine, *forks, heir)
        pids = [machine.process.pid for machine in machines]
        together = [shared(*two) for two in itertools.combinations(pids, 2)]
        kinds = [sorted(n for n in open_files(p).values() if n.startswith("anon")) for p in pids]
        masks = {told(pid, "sigmask") for pid in pids}
        for machine in machines:
            await machine.release()
        await s.clean()
    assert all(each <= READ_ONLY for each in together)
    assert all(each == kinds[0] for each in kinds)
    assert {"anon_inode:[eventpoll]", "anon_inode:[signalfd]"} < set(kinds[0])
    assert len(masks) == 1


def told(pid: int, key: str) -> str:
    """Return what /proc says of a process's descriptors under ``key``."""
    texts = (path.read_text() for path in Path(f"/proc/{pid}/fdinfo").iterdir())
    return "".join(line for text in texts for line in text.splitlines() if line.startswith(key))


def test_one_that_waits_by_epoll_is_not_forked(tmp_path: Path) -> None:
    """A fork would have an epoll of its own, with nothing in it."""
    scratch = tmp_path / "scratch"
    scratch.touch()
    command = [sys.executable, "-c", EPOLL, str(scratch)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        places = find_places(process.pid, scratch)
        assert places is not None and len(places.polls) == 1
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        with pytest.raises(OSError, match="waits by epoll"):
            find_places(process.pid, scratch)
        process.kill()


async def test_a_fork_has_a_user_of_its_own_and_no_rights(yard: Yard, tmp_path: Path) -> None:
    """The zygote may change user, and reaches no network; a fork has nothing of that left."""
    async with site(yard, tmp_path) as s:
        resting = await zygote(s)
        machine = await Machine.fork(s.host, resting, yard.rootfs)
        before, after = status(resting.machine.process.pid), status(machine.process.pid)
        assert before["CapEff"] == "00000000000000c0"
        for field in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(after[field], 16) == 0, field
        assert after["Uid"].split() == after["Gid"].split() == [str(machine.uid)] * 4
        assert machine.uid != resting.machine.uid
        assert after["NoNewPrivs"] == "1"
        assert int(after["Seccomp_filters"]) == int(before["Seccomp_filters"]) + 1
        assert int(after["Threads"]) >= int(before["Threads"]) - 1
        assert (set(machine.cgroup.pids()), set(resting.machine.cgroup.pids())) == (
            {machine.process.pid},
            {resting.machine.process.pid},
        )
        for one in (machine, resting.machine):
            await one.release()
        await s.clean()


async def test_a_fork_can_be_forked(yard: Yard, tmp_path: Path) -> None:
    """One that was allowed to, whose forks have its user; they cannot be forked themselves."""
    async with site(yard, tmp_path) as s:
        resting = await zygote(s)
        machine = await Machine.fork(s.host, resting, forkable=True)
        await resting.machine.release()
        second = await machine.rest()
        forks = [await Machine.fork(s.host, second, yard.rootfs) for _ in range(2)]
        for fork in forks:
            assert await printed(fork, run("echo", "here")) == ["here"]
            assert fork.uid == machine.uid
            assert set(fork.cgroup.pids()) == {fork.process.pid}
        with pytest.raises(NotForked):
            await Machine.fork(s.host, await forks[0].rest())
        for one in (*forks, machine):
            await one.release()
        await s.clean()


async def test_a_fork_outlives_its_zygote_and_its_node(yard: Yard, tmp_path: Path) -> None:
    """Its zygote gone, it goes on; the next node finds it with its network, and hears its lines."""
    async with site(yard, tmp_path) as s:
        resting = await zygote(s)
        machine = await Machine.fork(s.host, resting, yard.rootfs)
        machine.assign(await s.order("not used"), 0)
        await machine.channel.send(run("sh", "-c", "sleep 1; echo up; exec sleep 600"))
        await machine.disconnect()
        await resting.machine.release()
        # What the site's node knew goes with it.
        s.host.slots.give_back(machine.record.slot)
        later = yard.host(tmp_path)
        adopted = await Machine.adopt(later, machine.machine_id, machine.record, 0, print)
        async with asyncio.timeout(60):
            while not isinstance(line := await adopted.channel.receive(), Line):
                assert line is not None
        assert line.text == b"up"
        inside = os.fstat(adopted.namespace.fd).st_ino
        own = await asyncio.to_thread(Path(f"/proc/{adopted.process.pid}/ns/net").stat)
        assert inside != own.st_ino
        assert run_inside(adopted.namespace.fd, socket.if_nameindex)[1:] != []
        await adopted.release()
        await s.clean()


async def test_a_zygote_that_died_forks_nothing(yard: Yard, tmp_path: Path) -> None:
    """A fork of it fails in time and leaves nothing; the store of zygotes says there is none."""
    async with site(yard, tmp_path) as s:
        zygotes = Zygotes(s.host, 1)
        template = await s.template()
        resting = await zygote(s)
        os.kill(resting.machine.process.pid, signal.SIGKILL)
        await resting.machine.process.wait()
        with pytest.raises(NotForked):
            await Machine.fork(s.host, resting)
        await resting.machine.release()
        await zygotes.make(template)
        assert zygotes.has(template)
        machine = await zygotes.fork(template, yard.rootfs)
        assert machine is not None
        os.kill(next(iter(zygotes._resting.values())).machine.process.pid, signal.SIGKILL)  # pyright: ignore[reportPrivateUsage]
        await until(lambda: not zygotes.has(template))
        assert await zygotes.fork(template, yard.rootfs) is None
        assert await printed(machine, run("echo", "still here")) == ["still here"]
        await machine.release()
        await zygotes.close()
        await s.clean()


async def test_a_zygote_that_hangs_is_given_up(yard: Yard, tmp_path: Path) -> None:
    """One that was stopped by a signal: whoever asks gets an error in time, nothing is left."""
    async with site(yard, tmp_path) as s:
        zygotes = Zygotes(s.host, 1)
        template = await s.template()
        await zygotes.make(template)
        os.kill(next(iter(zygotes._resting.values())).machine.process.pid, signal.SIGSTOP)  # pyright: ignore[reportPrivateUsage]
        assert await zygotes.fork(template, yard.rootfs) is None
        assert not zygotes.has(template)
        await zygotes.close()
        await s.clean()


async def test_a_fork_cancelled_anywhere_leaves_nothing(yard: Yard, tmp_path: Path) -> None:
    """However far it has come, cancelling it takes everything back, and the zygote forks on."""
    async with site(yard, tmp_path) as s:
        resting = await zygote(s)
        for delay_s in (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06):
            forking = asyncio.create_task(Machine.fork(s.host, resting, yard.rootfs))
            await asyncio.wait({forking}, timeout=delay_s)
            forking.cancel()
            (end,) = await asyncio.gather(forking, return_exceptions=True)
            if isinstance(end, Machine):
                await end.release()
            assert [path.name for path in s.host.machines_dir.iterdir()] == [
                resting.machine.machine_id
            ]
        machine = await Machine.fork(s.host, resting, yard.rootfs)
        assert await printed(machine, run("echo", "on")) == ["on"]
        for one in (machine, resting.machine):
            await one.release()
        await s.clean()


async def test_starts_beyond_the_pool_are_forked(yard: Yard, tmp_path: Path) -> None:
    """While a zygote is there no start restores anything; each gets its volume and image."""
    async with site(yard, tmp_path, pool=1) as s, filling(s.pool):
        script = "df /data | tail -1 | grep -c vd; cat /image-is; sleep 600"
        orders = [await s.order(script, volume_gb=1) for _ in range(3)]
        reports = await asyncio.gather(*map(s.vms.start, orders))
        ways = [set(report.phases_ms) & {"fork", "restore"} for report in reports]
        assert sorted(map(sorted, ways)) == [[], ["fork"], ["fork"]]
        for order in orders:
            await until(lambda order=order: "1" in s.printed(order.vm_id))


@pytest.mark.parametrize("shape", [Shape(cpu=2, memory_mb=512)])
async def test_a_machine_with_several_processors_is_forked(
    yard: Yard, tmp_path: Path, shape: Shape
) -> None:
    """Each of its processors is a thread, and all of them go on."""
    async with site(yard, tmp_path) as s:
        template = await s.workshop.template(shape)
        machine = await Machine.restore(s.host, template, forkable="as others")
        await machine.rehearse()
        resting = await machine.rest()
        fork = await Machine.fork(s.host, resting, yard.rootfs)
        script = "grep -c ^processor /proc/cpuinfo; taskset 1 echo one; taskset 2 echo two"
        assert await printed(fork, run("sh", "-c", script)) == ["2", "one", "two"]
        for one in (fork, machine):
            await one.release()
        await s.clean()


async def test_a_zygote_of_what_is_forgotten_meanwhile_is_released(
    yard: Yard, tmp_path: Path
) -> None:
    """A snapshot may be removed while its zygote is made: then none is kept of it."""
    async with site(yard, tmp_path) as s:
        zygotes, template = Zygotes(s.host, 1), await s.template()
        making = asyncio.create_task(zygotes.make(template))
        await until(lambda: s.leftovers())
        zygotes.forget(template.folder)
        await making
        assert not zygotes.has(template)
        await zygotes.close()
        await s.clean()


async def test_without_zygotes_of_snapshots_none_is_made(yard: Yard, tmp_path: Path) -> None:
    """Where none may be kept, none is restored to be thrown away."""
    async with site(yard, tmp_path) as s:
        zygotes, template = Zygotes(s.host, 0), await s.template()
        await zygotes.make(replace(template, image=yard.rootfs))
        assert s.leftovers() == []
        await zygotes.make(template)
        assert zygotes.has(template)
        await zygotes.close()
        await s.clean()
