"""Disks as sparse files: made, copied by what they hold, measured by what they take."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

GB = 1 << 30


def make_ext4(path: Path, size_gb: int, *, journal: bool) -> None:
    """Make an empty ext4 disk at ``path``; it takes about 2 MB until it is written to."""
    with path.open("wb") as file:
        file.truncate(size_gb * GB)
    features = "^has_journal" if not journal else "has_journal"
    options = "lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard,root_owner=0:0"
    command = ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", features, "-E", options, str(path)]
    subprocess.run(command, check=True, capture_output=True)


def make_erofs(path: Path, folder: Path) -> None:
    """Make an EROFS image at ``path`` of what lies in ``folder``."""
    command = ["mkfs.erofs", "--quiet", "-T0", "--all-root", str(path), str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy ``source`` to the new file ``target``, its holes as holes. Raises FileExistsError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        writing = os.open(target, flags, 0o600)
        try:
            size = os.fstat(reading).st_size
            os.ftruncate(writing, size)
            for start, end in _extents(reading, size):
                while start < end:
                    start += os.copy_file_range(reading, writing, end - start, start, start)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where ``fd`` holds data: (start, end)."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            return
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, position
