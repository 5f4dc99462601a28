"""Keeps a build from filling the disk.

A build writes into upper folders of overlays, which only it has mounted: they are found in
the mount table of its processes, and what they hold is counted now and then. A build that is
over its bound, or that goes on while the disk is nearly full, is ended.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import anyio.to_thread

from cakework.node.builds.failure import BuildError
from cakework.node.cgroups import Cgroup

MIB = 2**20
PERIOD_S = 0.2
SHARE = 5
"""Counting takes at most one part in so many of the time."""
_UPPER = re.compile(r"upperdir=/b/storage/overlay/([0-9a-f]{64})/diff")
_WRITTEN = re.compile(r"^write_bytes: (\d+)$", re.MULTILINE)


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
            ends = await asyncio.gather(*self._watchers, return_exceptions=True)
        except asyncio.CancelledError:
            if self._fault is None:
                raise
            cancelled, ends = True, ()
        for end in ends:
            if isinstance(end, Exception):
                raise end
        if self._fault is None:
            return
        if cancelled and (task := asyncio.current_task()):
            task.uncancel()
        raise BuildError(self._fault) from error

    async def _watch(self, owner: asyncio.Task[object], look: Callable[[], str | None]) -> None:
        while self._fault is None:
            started = time.monotonic()
            fault = await anyio.to_thread.run_sync(look)
            if fault and self._fault is None:
                self._fault = fault
                owner.cancel()
            await asyncio.sleep(max(PERIOD_S, SHARE * (time.monotonic() - started)))

    def _full(self) -> str | None:
        space = os.statvfs(self._home)
        is_short = space.f_bavail * space.f_frsize < self._spare_mb * MIB
        return "the disk for builds is full" if is_short else None

    def _over(self) -> str | None:
        over = (each.fault for each in self._bounds if each.used() > each.limit_mb * MIB)
        return next(over, None)


class WrittenLayers:
    """Counts what a build has written: the bytes of the layers that only it has mounted."""

    def __init__(self, home: Path, cgroup: Cgroup) -> None:
        self._overlay = home / "storage" / "overlay"
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


class WrittenByCommands:
    """Counts what commands in a cgroup have written, one after the other, wherever that was.

    Images that are pulled are unpacked among the layers of all builds, and are in no mount table
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
    """Return the bytes on disk of the files in ``folder``; what goes away meanwhile is none."""
    total = 0
    folders = [str(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
