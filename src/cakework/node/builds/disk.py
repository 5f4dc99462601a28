"""Keeps a build from filling the disk, and from using up the files that there can be on it.

A build writes into upper folders of overlays, which only it has mounted: they are found in
the mount table of its processes, and what they hold is counted now and then. So are its own
folder and those of its working containers. A build that is over its bound, or that goes on
while the disk is nearly full, is ended.
"""

import asyncio
import contextlib
import errno
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import anyio.to_thread
import structlog

from cakework.node.builds.failure import BuildError
from cakework.node.builds.layers import LayerStore
from cakework.node.cgroups import Cgroup
from cakework.node.listing import GONE

MIB = 2**20
PERIOD_S = 0.2
SHARE = 5
"""Counting takes at most one part in so many of the time."""
ENTRY_BYTES = 4096
"""What each file, folder or link counts as at least, for it takes an inode even if it is empty."""
INODES_PER_MB = 64
"""As a file system is commonly made: where so much is left free, so many inodes are, too."""
TOO_DEEP = 1 << 62
FAILED_LOOKS = 5
NOT_COUNTED = "the host cannot count what is written: see its log"
_UPPER = re.compile(r"upperdir=/b/storage/overlay/([0-9a-f]{64})/diff")
_WRITTEN = re.compile(r"^write_bytes: (\d+)$", re.MULTILINE)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bound:
    """At most ``limit_mb`` may be ``used()``, in bytes; ``fault`` is the sentence for more."""

    used: Callable[[], int]
    limit_mb: int
    fault: str


class DiskGuard:
    """While entered, ends the enclosing task with a BuildError when the build writes too much."""

    def __init__(self, home: Path, spare_mb: int, *bounds: Bound) -> None:
        """Watch that ``spare_mb`` are free on the file system of ``home``, and the ``bounds``."""
        self._home = home
        self._spare_mb = spare_mb
        self._bounds = bounds
        self._fault: str | None = None

    async def __aenter__(self) -> None:
        owner = asyncio.current_task()
        if owner is None:
            raise RuntimeError("a disk guard guards a task")
        # Apart: however long counting takes, the disk must not fill up meanwhile.
        self._watchers = [
            asyncio.create_task(self._watch(owner, self._full)),
            asyncio.create_task(self._watch(owner, self._over)),
        ]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        cancelled = isinstance(error, asyncio.CancelledError)
        try:
            await asyncio.gather(*self._watchers, return_exceptions=True)
        except asyncio.CancelledError:
            if self._fault is None:
                raise
            cancelled = True
        if self._fault is None:
            return
        if cancelled and (task := asyncio.current_task()):
            task.uncancel()
        raise BuildError(self._fault) from error

    async def _watch(self, owner: asyncio.Task[object], look: Callable[[], str | None]) -> None:
        """Look until there is a fault; also that looking itself does not work, time after time."""
        failed = 0
        while self._fault is None:
            started = time.monotonic()
            try:
                fault = await anyio.to_thread.run_sync(look)
                failed = 0
            except Exception as error:
                failed += 1
                log.warning("disk.not_counted", reason=repr(error), times=failed)
                fault = NOT_COUNTED if failed == FAILED_LOOKS else None
            if fault and self._fault is None:
                self._fault = fault
                owner.cancel()
            await asyncio.sleep(max(PERIOD_S, SHARE * (time.monotonic() - started)))

    def _full(self) -> str | None:
        space = os.statvfs(self._home)
        if space.f_bavail * space.f_frsize < self._spare_mb * MIB:
            return "the disk for builds is full"
        # Some file systems have no fixed number of inodes, and say that they have none at all.
        if space.f_files and space.f_favail < self._spare_mb * INODES_PER_MB:
            return "the disk for builds has no room for more files"
        return None

    def _over(self) -> str | None:
        over = (each.fault for each in self._bounds if each.used() > each.limit_mb * MIB)
        return next(over, None)


class WrittenLayers:
    """Counts what a build has written: the bytes of the layers that only it has mounted."""

    def __init__(self, store: LayerStore, cgroup: Cgroup) -> None:
        self._overlay = store.storage / "overlay"
        self._cgroup = cgroup
        self._layers: set[str] = set()

    def __call__(self) -> int:
        """Return the bytes on disk."""
        self._layers |= _written_layers(self._cgroup)
        return sum(bytes_below(self._overlay / layer / "diff") for layer in self._layers)


def _written_layers(cgroup: Cgroup) -> set[str]:
    found: set[str] = set()
    for pid in cgroup.pids():
        with contextlib.suppress(OSError):
            found.update(_UPPER.findall((Path("/proc") / str(pid) / "mounts").read_text()))
    return found


class WrittenBeside:
    """Counts what a build has written beside layers since it began to: downloads, caches,
    volumes, files of its context, layers on their way into the storage."""

    def __init__(self, store: LayerStore, work: Path) -> None:
        """Count from now on, in the work folder ``work``; blocks as long as that takes."""
        self._store = store
        self._work = work
        self._before = bytes_below(work)

    def __call__(self) -> int:
        """Return the bytes on disk."""
        folders = self._store.container_folders(self._work.name)
        return bytes_below(self._work) - self._before + sum(map(bytes_below, folders))


class WrittenByCommands:
    """Counts what commands in a cgroup have written, one after the other, wherever that was.

    Images that are pulled are unpacked among all layers of the account, and are in no mount table
    meanwhile. The kernel counts for each process, and adds to it what its children had written
    that it waited for.
    """

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._earlier = 0
        self._most = 0

    def __call__(self) -> int:
        """Return the bytes."""
        self._most = max(self._most, sum(map(_bytes_written, self._cgroup.pids())))
        return self._earlier + self._most

    def begin_another(self) -> None:
        """Take it that the command before has ended, and another begins."""
        self._earlier, self._most = self._earlier + self._most, 0


def _bytes_written(pid: int) -> int:
    with contextlib.suppress(OSError):
        found = _WRITTEN.search((Path("/proc") / str(pid) / "io").read_text())
        return int(found[1]) if found else 0
    return 0


def bytes_below(folder: Path) -> int:
    """Return the bytes on disk of all that is in ``folder``, each at least ENTRY_BYTES.

    What goes away meanwhile is none. What lies deeper than a path can name cannot be counted: it
    is more than any bound.
    """
    total = 0
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    total += _size(entry)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return TOO_DEEP
            if error.errno not in GONE:
                raise
    return total


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return max(entry.stat(follow_symlinks=False).st_blocks * 512, ENTRY_BYTES)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return TOO_DEEP
        if error.errno in GONE:
            return 0
        raise
