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
from pathlib import Path
from types import TracebackType

import anyio.to_thread

from cakework.node.builds.failure import BuildError
from cakework.node.cgroups import Cgroup

MIB = 2**20
SPARE_MB = 512
"""Left free on the disk whatever a build wants: VMs and the journal write there too."""
PERIOD_S = 0.5
SHARE = 5
"""Counting takes at most one part in so many of the time."""
_UPPER = re.compile(r"upperdir=/b/storage/overlay/([0-9a-f]{64})/diff")


class DiskGuard:
    """While entered, ends the enclosing task with a BuildError when the build writes too much."""

    def __init__(self, home: Path, used: Callable[[], int], limit_mb: int, fault: str) -> None:
        """Watch the file system of ``home``, and that ``used()``, in bytes, is within its limit.

        ``fault`` is the sentence for when it is not.
        """
        self._home = home
        self._used = used
        self._limit_mb = limit_mb
        self._sentence = fault
        self._fault: str | None = None

    async def __aenter__(self) -> None:
        owner = asyncio.current_task()
        if owner is None:
            raise RuntimeError("a disk guard guards a task")
        self._watcher = asyncio.create_task(self._watch(owner))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watcher
        if self._fault is None:
            return
        if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()):
            task.uncancel()
        raise BuildError(self._fault) from error

    async def _watch(self, owner: asyncio.Task[object]) -> None:
        while True:
            started = time.monotonic()
            self._fault = await anyio.to_thread.run_sync(self._look)
            if self._fault:
                owner.cancel()
                return
            await asyncio.sleep(max(PERIOD_S, SHARE * (time.monotonic() - started)))

    def _look(self) -> str | None:
        space = os.statvfs(self._home)
        if space.f_bavail * space.f_frsize < SPARE_MB * MIB:
            return "the disk for builds is full"
        return self._sentence if self._used() > self._limit_mb * MIB else None


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
