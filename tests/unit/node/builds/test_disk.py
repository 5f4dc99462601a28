"""What is counted of what a build writes."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from cakework.node.builds import disk
from cakework.node.builds.disk import (
    ENTRY_BYTES,
    NOT_COUNTED,
    TOO_DEEP,
    Bound,
    DiskGuard,
    bytes_below,
)
from cakework.node.builds.failure import BuildError
from tests.unit.node.fake_disk import FakeDisk
from tests.unit.node.vanishing import vanish_once_listed


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_everything_counts(tmp_path: Path) -> None:
    """Folders, empty files and links as a block each, files by what they take; holes do not."""
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "empty").touch()
    (tmp_path / "link").symlink_to("/")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 40)
        sparse.write(b"x" * 100_000)
    counted = bytes_below(tmp_path)
    assert 4 * ENTRY_BYTES + 100_000 <= counted < 8 * ENTRY_BYTES + 120_000
    assert bytes_below(tmp_path / "gone") == 0


def test_what_cannot_be_named_is_more_than_any_bound(tmp_path: Path) -> None:
    """Neither a file whose name is too long where it lies, nor what is in a folder like that."""
    deepest = tmp_path
    while len(str(deepest)) < 3900:
        deepest /= "f" * 100
    deepest.mkdir(parents=True)
    assert bytes_below(tmp_path) < TOO_DEEP
    at = os.open(deepest, os.O_RDONLY)
    try:
        os.close(os.open("n" * 250, os.O_CREAT | os.O_WRONLY, dir_fd=at))
        assert bytes_below(tmp_path) >= TOO_DEEP
        os.unlink("n" * 250, dir_fd=at)
        os.mkdir("n" * 250, dir_fd=at)
        assert bytes_below(tmp_path) >= TOO_DEEP
    finally:
        os.close(at)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("inodes", "free", "goes_on"),
    [(1_000_000, 6400, True), (1_000_000, 6399, False), (0, 0, True)],
)
async def test_inodes_are_left_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inodes: int, free: int, goes_on: bool
) -> None:
    """A build ends when few are left, unless the file system has no fixed number of them."""
    disk = FakeDisk(monkeypatch, free_mb=1 << 20, inodes=inodes, free_inodes=free)
    try:
        async with DiskGuard(tmp_path, 100):
            await disk.found_enough()
    except BuildError as error:
        assert not goes_on
        assert str(error) == "the disk for builds has no room for more files"
    else:
        assert goes_on


@pytest.mark.anyio
async def test_a_bound_that_is_passed_ends_the_build(tmp_path: Path) -> None:
    """With the sentence of that bound, and no other task is cancelled."""
    within = Bound(lambda: 1 << 20, 1, "one")
    over = Bound(lambda: (2 << 20) + 1, 2, "two")
    with pytest.raises(BuildError, match=r"^two$"):
        async with DiskGuard(tmp_path, 0, within, over):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


def test_what_goes_meanwhile_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that stays is counted, wherever something was removed while it was."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(100_000))
    vanish_once_listed(monkeypatch, tmp_path / "b", tmp_path / "c" / "file")
    assert 100_000 <= bytes_below(tmp_path) < 150_000


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not count as empty: a bound would be passed unseen."""

    def none_left(_: str) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "scandir", none_left)
    with pytest.raises(OSError, match="too many"):
        bytes_below(tmp_path)


@pytest.mark.anyio
async def test_a_look_that_fails_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound that is passed after it is found all the same."""
    monkeypatch.setattr(disk, "PERIOD_S", 0)
    looks = iter([OSError("once"), OSError("twice"), 0, OSError("again"), (2 << 20) + 1])

    def used() -> int:
        look = next(looks)
        if isinstance(look, OSError):
            raise look
        return look

    with pytest.raises(BuildError, match=r"^over$"):
        async with asyncio.timeout(20), DiskGuard(tmp_path, 0, Bound(used, 2, "over")):
            await asyncio.Event().wait()


@pytest.mark.anyio
async def test_nothing_goes_on_uncounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When looking does not work time after time, the build is ended; after once it is not, and
    is told as done."""
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def used() -> int:
        loop.call_soon_threadsafe(failed.set)
        raise OSError("never")

    async with DiskGuard(tmp_path, 0, Bound(used, 2, "over")):
        await failed.wait()
    monkeypatch.setattr(disk, "PERIOD_S", 0)
    with pytest.raises(BuildError, match=NOT_COUNTED):
        async with asyncio.timeout(20), DiskGuard(tmp_path, 0, Bound(used, 2, "over")):
            await asyncio.Event().wait()
