"""Disks as sparse files: made, copied by what they hold, measured by what they take."""

import ctypes
import fcntl
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GB = 1 << 30
FICLONE = 0x40049409
KEEP_SIZE, PUNCH_HOLE = 0x01, 0x02
_libc = ctypes.CDLL(None, use_errno=True)


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


def clone_sparse(source: Path, target: Path, owner: int | None = None) -> None:
    """Make the new file ``target`` what ``source`` is, its holes as holes.

    They share what they hold where the file system can (reflinks), else it is copied. With
    ``owner``, ``source`` is in a folder of that user's, who could put something else there: it
    must be a file of theirs and no link.

    Raises:
        FileExistsError: ``target`` is there.
        OSError: ``source`` is not what it must be.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if owner is None else os.O_NOFOLLOW | os.O_NONBLOCK)
    reading = os.open(source, flags)
    try:
        info = os.fstat(reading)
        if owner is not None and (not stat.S_ISREG(info.st_mode) or info.st_uid != owner):
            raise OSError(f"{source} is not the machine's own file")
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _clone(reading, writing, info.st_size)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def punch_hole(fd: int, start: int, length: int) -> None:
    """Let a part of a file read as zeros and take no room."""
    mode = KEEP_SIZE | PUNCH_HOLE
    if _libc.fallocate(fd, mode, ctypes.c_longlong(start), ctypes.c_longlong(length)):
        raise OSError(ctypes.get_errno(), "a hole could not be punched")


def _clone(reading: int, writing: int, size: int) -> None:
    with suppress(OSError):
        fcntl.ioctl(writing, FICLONE, reading)
        return
    os.ftruncate(writing, size)
    for start, end in _extents(reading, size):
        while start < end:
            start += os.copy_file_range(reading, writing, end - start, start, start)


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
