"""Templates of whatever shapes somebody asks for: how many, how many at once. None is booted."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cakework.domain.vms import CPU_MAX, CPU_MIN, MEMORY_MB_MAX, MEMORY_MB_MIN, Shape
from cakework.node.vms.host import Host
from cakework.node.vms.template import Template
from cakework.node.vms.workshop import Workshop

MOST = 4
SIZES = range(MEMORY_MB_MIN, MEMORY_MB_MAX + 1)


class Bench(Workshop):
    """Makes templates that are nothing but their folder, and notes how."""

    def __init__(self, folder: Path) -> None:
        artifacts = SimpleNamespace(digest="a")
        host = cast("Host", SimpleNamespace(artifacts=artifacts))
        super().__init__(folder, host, "tcg", disk_gb=1, most=MOST)
        self.folder = folder
        self.made: list[Shape] = []
        self.at_once = self.most_at_once = 0

    @property
    def there(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    async def _make(self, template: Template, timeout_s: float) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        template.folder.mkdir()
        self.made.append(template.spec.shape)
        self.at_once -= 1
        assert len(self.there) <= MOST


def test_all_sizes_are_rounded_to_few() -> None:
    """Never to less than was asked for, nor to more than a quarter more; what is the default, the
    least or the most stays."""
    rounded = {size: Shape(memory_mb=size).rounded().memory_mb for size in SIZES}
    assert len(set(rounded.values())) == 25
    assert all(size <= found <= size * 5 / 4 for size, found in rounded.items())
    assert all(rounded[found] == found for found in rounded.values())
    for shape in (Shape(), Shape(CPU_MIN, MEMORY_MB_MIN), Shape(CPU_MAX, MEMORY_MB_MAX)):
        assert shape.rounded() == shape


def test_who_asks_for_all_sizes_at_once_has_few_made_one_after_the_other(tmp_path: Path) -> None:
    """At no time there are more than the setting says; those that are in use, which are made
    already, stay; what was there before the node started goes first."""

    async def attack() -> Bench:
        (tmp_path / "of another version").mkdir()
        bench = Bench(tmp_path)
        mine = [Shape(), Shape(cpu=2)]
        bench.in_use = lambda: mine
        for shape in mine:
            await bench.template(shape)
        asked = {Shape(memory_mb=size).rounded() for size in SIZES if size <= 2048}
        await asyncio.gather(*map(bench.template, asked))
        return bench

    bench = asyncio.run(attack())
    assert len(bench.made) == len(set(bench.made)) == 14
    assert bench.most_at_once == 1
    assert len(bench.there) == MOST
    assert {bench.fingerprint(Shape()), bench.fingerprint(Shape(cpu=2))} < bench.there


def test_what_is_in_use_is_kept_beyond_the_bound(tmp_path: Path) -> None:
    """It would be made again, beside the files that its machines have still open."""

    async def run() -> None:
        bench = Bench(tmp_path)
        shapes = [Shape(cpu=cpu) for cpu in range(1, MOST + 1)]
        for shape in shapes:
            await bench.template(shape)
        bench.in_use = lambda: shapes[1:]
        await bench.template(Shape(memory_mb=512))
        assert bench.there == {bench.fingerprint(s) for s in (*shapes[1:], Shape(memory_mb=512))}
        bench.discard_surplus()
        assert {bench.fingerprint(shape) for shape in shapes[1:]} <= bench.there

    asyncio.run(run())


@pytest.mark.parametrize("most", [1, MOST])
def test_after_a_start_of_the_node_those_on_disk_are_used(tmp_path: Path, most: int) -> None:
    """As long as they are not too many, also when another is made first."""

    async def run() -> None:
        for size in (256, 512):
            await Bench(tmp_path).template(Shape(memory_mb=size))
        again = Bench(tmp_path)
        again._most = most  # pyright: ignore[reportPrivateUsage]
        await again.template(Shape(memory_mb=1024))
        await again.template(Shape(memory_mb=512))
        assert (Shape(memory_mb=512) in again.made) == (most == 1)

    asyncio.run(run())
