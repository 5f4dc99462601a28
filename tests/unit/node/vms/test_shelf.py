"""The shelf: what is taken off it is off it, whatever becomes of the files."""

import shutil
from pathlib import Path

import pytest

from cakework.node.vms.manifest import Seal
from cakework.node.vms.shelf import Shelf


def test_what_is_taken_off_is_off_though_its_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that cannot be removed fail nothing, and go at the next start."""

    def fails(_: Path) -> None:
        raise OSError("not now")

    def shelf() -> Shelf:
        return Shelf(tmp_path / "snapshots", Seal(tmp_path / "key"))

    first = shelf()
    first.folder_of("vm1", "ready").mkdir(parents=True)
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", fails)
        first.remove("vm1", "ready")
    assert first.ids() == []
    assert list((tmp_path / "snapshots").iterdir())
    shelf()
    assert not list((tmp_path / "snapshots").iterdir())
