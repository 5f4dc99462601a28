"""How many machines wait, and what becomes of them when VMs need the memory; no QEMU runs."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cakework.domain.vms import Shape
from cakework.node.quiet import Quiet
from cakework.node.vms.host import Host
from cakework.node.vms.machines import Machine
from cakework.node.vms.pool import Pool
from cakework.node.vms.qemu import MachineSpec
from cakework.node.vms.room import Footprint, Room
from cakework.node.vms.saved import Saved
from cakework.node.vms.workshop import Workshop

pytestmark = pytest.mark.anyio

SHAPE = Shape()
FOOTPRINT_MB = Footprint().mb(SHAPE)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Made:
    """What was made and given back: machines that are only counted."""

    restored: int = 0
    forked: int = 0
    released: int = 0
    networks: Counter[object] = field(default_factory=Counter[object])

    def machine(self) -> Any:
        async def release() -> None:
            self.released += 1

        machine = SimpleNamespace(
            machine_id="m",
            record=SimpleNamespace(shape=SHAPE),
            process=SimpleNamespace(when_ended=_forget),
            monitor=SimpleNamespace(pause=_nothing),
            rehearse=_nothing,
            release=release,
        )

        async def rest(lines: int) -> Any:
            return SimpleNamespace(machine=machine, as_others=True, lines=lines)

        machine.rest = rest
        return machine

    async def restore(self, *_: object, network: str, **__: object) -> Any:
        self.restored += 1
        self.networks[network] += 1
        return self.machine()

    async def fork(self, *_: object, network: str, **__: object) -> Any:
        self.forked += 1
        self.networks[network] += 1
        return self.machine()


@dataclass
class Bench:
    """A pool, the room that tells it what there is, and what it made."""

    room: Room
    pool: Pool
    quiet: Quiet
    made: Made
    vms: list[str] = field(default_factory=list[str])

    def start(self) -> Any:
        """Admit a VM, as many as there are; return the machine that waited for it."""
        self.vms.append(f"vm {len(self.vms)}")
        self.room.take(self.vms[-1], SHAPE)
        return self.pool.take(SHAPE)

    def end(self) -> None:
        self.room.give_back(self.vms.pop())


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Bench]:
    """Makes a bench with so much memory, whose pool is to have 64 machines."""

    def make(memory_mb: int) -> Bench:
        made, quiet = Made(), Quiet()
        monkeypatch.setattr(Machine, "restore", made.restore)
        monkeypatch.setattr(Machine, "fork", made.fork)
        saved = Saved(tmp_path, MachineSpec("tcg", SHAPE, 1))

        async def template(_: Shape) -> Saved:
            return saved

        host = cast("Host", SimpleNamespace(footprint=Footprint(), quiet=quiet))
        workshop = cast("Workshop", SimpleNamespace(template=template))
        pool = Pool(host, workshop, {SHAPE: 64}, busy=2)
        return Bench(Room(tmp_path, memory_mb, 0), pool, quiet, made)

    return make


@asynccontextmanager
async def filling(bench: Bench) -> AsyncGenerator[None]:
    """Let the pool fill; it is told what there is, and is full."""
    bench.room.when_changed = bench.pool.allow
    bench.pool.allow(bench.room.free_mb)
    task = asyncio.create_task(bench.pool.fill())
    await settled()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bench.pool.close()


async def settled() -> None:
    for _ in range(2000):
        await asyncio.sleep(0)


async def _nothing() -> None:
    return None


def _forget(_: object) -> None:
    return None


async def test_as_many_wait_as_are_wanted_where_there_is_memory(
    bench: Callable[[int], Bench],
) -> None:
    """One is restored, to fork the others from."""
    large = bench(100 * FOOTPRINT_MB)
    async with filling(large):
        assert large.pool.ready == 64
        assert large.pool.full
    assert (large.made.restored, large.made.forked, large.made.released) == (1, 64, 65)


async def test_none_is_made_before_the_pool_knows_what_there_is(
    bench: Callable[[int], Bench],
) -> None:
    """What runs already is told of first."""
    early = bench(FOOTPRINT_MB)
    task = asyncio.create_task(early.pool.fill())
    await settled()
    task.cancel()
    assert early.made == Made()


async def test_a_small_host_neither_thrashes_nor_loses_what_it_forks_from(
    bench: Callable[[int], Bench],
) -> None:
    """No more wait than could be started, so no start costs another's machine; when all memory was
    promised and is free again, all is as it was."""
    small = bench(1960)
    async with filling(small):
        assert small.pool.ready == 1960 // FOOTPRINT_MB == 4
        for _ in range(4):
            assert small.start() is not None
            await settled()
        assert small.pool.ready == 0
        # The one that others are forked from, when the last VM needed its memory.
        assert small.made.released == 1
        for _ in range(4):
            small.end()
            await settled()
        assert small.pool.ready == 4
        assert small.made.restored == 2
        assert small.made.forked == 8


async def test_a_burst_takes_all_that_wait(bench: Callable[[int], Bench]) -> None:
    """What was promised to VMs that are about to take their machines costs none of these."""
    host = bench(20 * FOOTPRINT_MB)
    async with filling(host):
        with host.quiet.disturbed():
            for number in range(15):
                host.room.take(f"burst {number}", SHAPE)
            await settled()
            assert all(host.pool.take(SHAPE) for _ in range(15))
        await settled()
        assert host.made.released == 0
        assert host.pool.ready == 5


async def test_what_waits_of_a_snapshot_is_told_apart_by_what_it_reaches(
    bench: Callable[[int], Bench], tmp_path: Path
) -> None:
    """A start without egress never gets a machine that had it, nor the other way round; and what
    they are forked from has none. Once the snapshot is gone none of either waits."""
    large = bench(100 * FOOTPRINT_MB)
    spec = MachineSpec("tcg", SHAPE, 1)
    snapshot = Saved(tmp_path / "snapshot", spec, 0, tmp_path / "image")
    for _ in range(2):
        assert large.pool.take(snapshot, "none") is None
    async with filling(large):
        assert large.made.networks == {"bare": 2, "internet": 64, "none": 1}
        assert large.pool.take(snapshot, "internet") is None
        assert large.pool.take(snapshot, "none") is not None
        assert large.pool.take(snapshot, "internet") is None
        await settled()
        assert large.made.networks == {"bare": 2, "internet": 65, "none": 2}
        assert large.pool.ready == 66
        large.pool.forget(snapshot.folder)
        assert large.pool.ready == 64
