"""Sparse files: copied with all they hold, and with their holes."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakework.node.vms.disks import GB, clone_sparse, make_erofs, make_ext4
from tests.properties import examples

BLOCK = 4096
pieces = st.lists(
    st.tuples(st.integers(0, 300 * BLOCK), st.binary(min_size=1, max_size=2 * BLOCK)), max_size=6
)


@settings(max_examples=examples(60))
@given(pieces, st.integers(0, 400 * BLOCK))
def test_a_copy_has_the_same_content_and_no_less_holes(
    written: list[tuple[int, bytes]], size: int
) -> None:
    """Wherever data lies, also at the ends, the copy reads the same and takes no more."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        with source.open("wb") as file:
            file.truncate(size)
            for at, data in written:
                file.seek(at)
                file.write(data)
        clone_sparse(source, target)
        assert target.read_bytes() == source.read_bytes()
        for path in (source, target):
            with path.open("rb") as file:
                os.fsync(file)
        assert target.stat().st_blocks <= source.stat().st_blocks


def test_a_copy_replaces_nothing(tmp_path: Path) -> None:
    """A file that is there already is left as it is."""
    for name in ("source", "target"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        clone_sparse(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "target"


@pytest.mark.parametrize("journal", [True, False])
def test_an_empty_disk_is_whole_and_takes_little(tmp_path: Path, journal: bool) -> None:
    """fsck finds nothing to mend; a disk of gigabytes takes a few megabytes, its copy too."""
    disk = tmp_path / "disk"
    make_ext4(disk, 3, journal=journal)
    clone_sparse(disk, tmp_path / "copy")
    for path in (disk, tmp_path / "copy"):
        subprocess.run(["e2fsck", "-fn", path], check=True, capture_output=True)
        assert path.stat().st_size == 3 * GB
        assert path.stat().st_blocks * 512 < 100 << 20


def test_an_image_holds_a_folder(tmp_path: Path) -> None:
    """What lies in the folder lies in the image."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").write_text("here")
    make_erofs(tmp_path / "image", tmp_path / "root")
    words = ["fsck.erofs", f"--extract={tmp_path / 'out'}", tmp_path / "image"]
    subprocess.run(words, check=True, capture_output=True)
    assert (tmp_path / "out" / "file").read_text() == "here"
