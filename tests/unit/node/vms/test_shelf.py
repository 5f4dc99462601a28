"""The shelf: what is taken off it is off it, whatever becomes of the files; and what an account has
on it is bounded."""

import os
import shutil
from pathlib import Path

import pytest

from cakework.domain.errors import QuotaExceeded
from cakework.node.vms.manifest import NAME, Kind, Seal
from cakework.node.vms.qemu import MachineSpec
from cakework.node.vms.saved import Saved
from cakework.node.vms.shelf import KINDS, Shelf

from .test_manifest import NEEDS

MB = 1 << 20
SPEC = MachineSpec("tcg", NEEDS.shape, 0)


def test_what_is_taken_off_is_off_though_its_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that cannot be removed fail nothing, and go at the next start."""

    def fails(_: Path) -> None:
        raise OSError("not now")

    def shelf() -> Shelf:
        return Shelf(tmp_path / "snapshots", Seal(tmp_path / "key"), 1 << 40)

    first = shelf()
    first.folder_of("vm1", "ready").mkdir(parents=True)
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", fails)
        first.remove("vm1", "ready")
    assert first.ids() == []
    assert list((tmp_path / "snapshots").iterdir())
    shelf()
    assert not list((tmp_path / "snapshots").iterdir())


class Stocked:
    """A shelf on which an account may have 4 MiB; what is put there is made one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shelf = self.opened()
        self._made = 0

    def opened(self) -> Shelf:
        return Shelf(self.folder / "snapshots", Seal(self.folder / "key"), 4 * MB)

    def put(self, account: str, vm_id: str, size: int, kind: Kind = "kept") -> None:
        made = self.folder / "made"
        made.mkdir()
        (made / "ram").write_bytes(bytes(size))
        for name in ("state", "scratch"):
            (made / name).touch()
        self.shelf.put(kind, vm_id, account, NEEDS, Saved(made, SPEC))
        self._made += 1
        manifest = self.shelf.folder_of(vm_id, kind) / NAME
        os.utime(manifest, (self._made, self._made))

    def there(self) -> list[str]:
        return [
            f"{vm_id} {kind}"
            for vm_id in self.shelf.ids()
            for kind in KINDS
            if self.shelf.has(vm_id, kind)
        ]


@pytest.fixture
def stocked(tmp_path: Path) -> Stocked:
    """An empty one."""
    return Stocked(tmp_path)


def test_what_an_account_kept_first_gives_way_and_nothing_of_others(stocked: Stocked) -> None:
    """However much one keeps: what others kept long before stays, and the newest of its own, one
    of which is larger than all may be; also when the node was started again."""
    stocked.put("quiet", "q", MB)
    for number in range(6):
        stocked.put("loud", f"l{number}", MB)
    assert stocked.there() == ["l2 kept", "l3 kept", "l4 kept", "l5 kept", "q kept"]
    stocked.shelf = stocked.opened()
    stocked.put("loud", "l6", 3 * MB)
    assert stocked.there() == ["l5 kept", "l6 kept", "q kept"]
    stocked.put("loud", "l7", 5 * MB)
    assert stocked.there() == ["l7 kept", "q kept"]
    stocked.put("loud", "l8", MB)
    assert stocked.there() == ["l8 kept", "q kept"]


def test_snapshots_stay_and_kept_memory_gives_way_to_them(stocked: Stocked) -> None:
    """Forks need them. Who has as many as it may gets no more of either kind; others do."""
    stocked.put("loud", "l1", MB)
    stocked.put("loud", "l2", 3 * MB, "ready")
    stocked.shelf.check("loud")
    stocked.put("loud", "l3", MB, "ready")
    assert stocked.there() == ["l2 ready", "l3 ready"]
    with pytest.raises(QuotaExceeded):
        stocked.shelf.check("loud")
    stocked.shelf.check("quiet")
    stocked.shelf.remove("l3", "ready")
    stocked.shelf.check("loud")


def test_who_has_kept_most_is_known(stocked: Stocked) -> None:
    """By which it is decided who gives way when the disk is full: what it kept first."""
    stocked.put("a", "a1", MB)
    stocked.put("b", "b1", 2 * MB)
    stocked.put("a", "a2", 2 * MB)
    stocked.put("a", "a3", MB, "ready")
    sizes = stocked.shelf.kept_sizes()
    assert {account: size // MB for account, size in sizes.items()} == {"a": 3, "b": 2}
    stocked.shelf.drop_oldest("a")
    assert stocked.there() == ["a2 kept", "a3 ready", "b1 kept"]
    stocked.shelf.drop_oldest("nobody")
    assert len(stocked.there()) == 3
