import asyncio
import itertools
from pathlib import Path
from typing import ClassVar

import pytest

from cakework.domain.errors import NoRoom, QuotaExceeded
from cakework.domain.vms import Shape
from cakework.node.vms import room
from cakework.node.vms.room import Footprint, Room, Shortage, taken
from tests.unit.node.vanishing import vanish_once_listed

MB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("free_mb", "asked"),
    [
        ([2000, 1024], []),
        ([1023], [0]),
        # The one that was ended gave back what it had taken: all is well again, also next time.
        ([900, 5000, 900], [0, 2]),
        # It had written to a volume that stays: nobody else is ended while it is not worse.
        ([900, 900, 890, 460, 900], [0]),
        ([900, 450, 449, 225, 224], [0, 1, 3]),
        # All of it is gone: one after the other, until there is some.
        ([3, 0, 0, 0, 2000, 0], [0, 1, 2, 3, 5]),
    ],
)
def test_another_is_ended_only_when_it_gets_worse(free_mb: list[int], asked: list[int]) -> None:
    """Looks at the free space, one after the other, and those at which a VM is to be ended."""
    shortage = Shortage(enough_mb=1024)
    assert [look for look, free in enumerate(free_mb) if shortage.asks_for_one(free)] == asked


def test_what_a_vm_has_taken(tmp_path: Path) -> None:
    """Its disks as far as they are written to, its kept volume with them, not its image."""
    folder, elsewhere = tmp_path / "vm", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    for name in ("image", "volume"):
        (elsewhere / name).write_bytes(bytes(3 * MB))
        (folder / name).hardlink_to(elsewhere / name)
    with (folder / "scratch").open("wb") as scratch:
        scratch.truncate(1000 * MB)
        scratch.seek(500 * MB)
        scratch.write(b"x" * MB)
    assert 4 * MB <= taken(folder) < 5 * MB
    assert taken(tmp_path / "gone") == 0


class Filling(Room):
    """A room whose free space is as the test says, one look after the other."""

    looks: ClassVar[list[int]] = []

    def free_disk_mb(self) -> int:
        if not self.looks:
            raise asyncio.CancelledError
        return self.looks.pop(0)


class Kept:
    """Kept memory of so many bytes each, by account."""

    def __init__(self, sizes: dict[str, list[int]] | None = None) -> None:
        self.of = sizes or {}
        self.dropped: list[str] = []

    async def sizes(self) -> dict[str, int]:
        return {account: sum(sizes) for account, sizes in self.of.items() if sizes}

    async def drop_oldest(self, account: str) -> None:
        self.dropped.append(account)
        self.of[account].pop(0)


@pytest.mark.anyio
async def test_the_largest_is_ended_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VM whose kept volume fills the disk; its neighbours run on, though it stays full."""
    monkeypatch.setattr(room, "WATCH_EVERY_S", 0)
    volume = tmp_path / "volume"
    volume.write_bytes(bytes(9 * MB))
    folders = {name: tmp_path / name for name in ("small", "filling", "large")}
    for name, size_mb in (("small", 1), ("filling", 2), ("large", 8)):
        folders[name].mkdir()
        (folders[name] / "scratch").write_bytes(bytes(size_mb * MB))
    (folders["filling"] / "volume").hardlink_to(volume)
    Filling.looks = [5000, 900, 900, 880, 500]
    ended: list[str] = []

    async def end(vm_id: str, why: str) -> None:
        assert "disk was full" in why
        ended.append(vm_id)
        del folders[vm_id]

    with pytest.raises(asyncio.CancelledError):
        await Filling(tmp_path, 0, 2048).watch_disk(lambda: folders, end, Kept())
    assert ended == ["filling"]


def test_one_account_leaves_some_for_who_comes_next(tmp_path: Path) -> None:
    """Of memory and of processors, however many it has taken before; the first one is always
    taken, and what is nobody's is not counted."""
    for shape, bounds in ((Shape(1, 240), (1600, 0, 1e9)), (Shape(2, 128), (10**9, 0, 8))):
        host = Room(tmp_path, *bounds, Footprint("tcg"), share=0.75)
        taken_by = {account: _as_many(host, account, shape) for account in ("a", "b", "c")}
        assert taken_by == {"a": 3, "b": 1, "c": 0}
        host.give_back("a 0")
        assert _as_many(host, "b", shape) == 0
        assert _as_many(host, "", shape) == 1
    alone = Room(tmp_path, 1600, 0, footprint=Footprint("tcg"))
    assert _as_many(alone, "a", Shape(1, 240)) == 4


def _as_many(host: Room, account: str, shape: Shape) -> int:
    """Have an account take what it gets; return how many that were."""
    for number in itertools.count():
        try:
            host.take(f"{account} {number}", shape, account)
        except (NoRoom, QuotaExceeded):
            return number
    raise AssertionError


@pytest.mark.anyio
async def test_of_a_full_disk_the_account_gives_way_that_took_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its largest VM, though another's is larger by itself."""
    monkeypatch.setattr(room, "WATCH_EVERY_S", 0)
    host = Filling(tmp_path, 10_000, 2048)
    folders: dict[str, Path] = {}
    for name, account, size_mb in (("1", "a", 3), ("2", "a", 4), ("3", "b", 6), ("4", "", 1)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        (folders[name] / "scratch").write_bytes(bytes(size_mb * MB))
        if account:
            host.hold(name, Shape(), account)
    Filling.looks = [900]
    ended: list[str] = []

    async def end(vm_id: str, _: str) -> None:
        ended.append(vm_id)

    with pytest.raises(asyncio.CancelledError):
        await host.watch_disk(lambda: folders, end, Kept())
    assert ended == ["2"]


@pytest.mark.anyio
async def test_kept_memory_gives_way_before_a_vm_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the account that has taken most, and when it has none any more, its VM; never what
    was kept of others."""
    monkeypatch.setattr(room, "WATCH_EVERY_S", 0)
    host = Filling(tmp_path, 10_000, 2048)
    (tmp_path / "scratch").write_bytes(bytes(2 * MB))
    host.hold("vm", Shape(), "a")
    kept = Kept({"a": [MB, MB], "b": [2 * MB], "z": [5 * MB // 2]})
    Filling.looks = [900] * 3
    ended: list[str] = []

    async def end(vm_id: str, _: str) -> None:
        ended.append(f"{vm_id} after {len(kept.dropped)}")

    with pytest.raises(asyncio.CancelledError):
        await host.watch_disk(lambda: {"vm": tmp_path}, end, kept)
    assert kept.dropped == ["a", "a", "z"]
    assert ended == []
    Filling.looks = [900, 900]
    kept = Kept({"b": [MB]})
    with pytest.raises(asyncio.CancelledError):
        await host.watch_disk(lambda: {"vm": tmp_path}, end, kept)
    assert (kept.dropped, ended) == ([], ["vm after 0"])


def test_a_disk_that_goes_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a VM has taken is still counted when one of its files is removed meanwhile."""
    for name in ("scratch", "image", "volume"):
        (tmp_path / name).write_bytes(bytes(MB))
    vanish_once_listed(monkeypatch, tmp_path / "image")
    assert 2 * MB <= taken(tmp_path) < 3 * MB


@pytest.mark.anyio
async def test_the_watch_goes_on_when_one_cannot_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its next look it tries again, though the disk is no fuller."""
    monkeypatch.setattr(room, "WATCH_EVERY_S", 0)
    Filling.looks = [900, 900, 900]
    tried: list[str] = []

    async def end(vm_id: str, _: str) -> None:
        tried.append(vm_id)
        if len(tried) == 1:
            raise OSError("not now")

    with pytest.raises(asyncio.CancelledError):
        await Filling(tmp_path, 0, 2048).watch_disk(lambda: {"vm": tmp_path}, end, Kept())
    assert tried == ["vm", "vm"]
