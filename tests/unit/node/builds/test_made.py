"""What a sandbox made is read, and nothing that it only points to."""

import os
from pathlib import Path

import pytest

from cakework.node.builds.failure import BuildError
from cakework.node.builds.made import BYTES_MAX, read_made


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "work" / "out").mkdir(parents=True)
    return tmp_path / "work"


def test_a_file_is_read_up_to_a_bound(work: Path) -> None:
    """One that is larger is refused, and not cut."""
    file = work / "out" / "iid"
    file.write_bytes(b"x")
    assert read_made(work, "iid") == b"x"
    os.truncate(file, BYTES_MAX + 1)
    with pytest.raises(BuildError):
        read_made(work, "iid")


def test_links_pipes_and_folders_are_not(work: Path) -> None:
    """Neither in the file's place nor in its folder's; and a pipe is not waited for."""
    (work / "out" / "link").symlink_to(work.parent / "secret")
    os.mkfifo(work / "out" / "pipe")
    (work / "out" / "folder").mkdir()
    for name in ("link", "pipe", "folder", "missing"):
        with pytest.raises(BuildError):
            read_made(work, name)
    (work / "out").rename(work / "real")
    (work / "real" / "iid").write_text("x")
    (work / "out").symlink_to(work / "real")
    with pytest.raises(BuildError):
        read_made(work, "iid")
