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

    def __init__(self, home: Path, cgroup: Cgroup, limit_mb: int) -> None:
        self._home = home
        self._cgroup = cgroup
        self._limit_mb = limit_mb
        self._fault: str | None = None
        self._layers: set[str] = set()

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
        self._layers |= _written_layers(self._cgroup)
        used = sum(
            _bytes_below(self._home / "storage" / "overlay" / layer) for layer in self._layers
        )
        if used > self._limit_mb * MIB:
            return f"the build wrote more than {self._limit_mb} MB"
        return None


def _written_layers(cgroup: Cgroup) -> set[str]:
    found: set[str] = set()
    for pid in cgroup.pids():
        with contextlib.suppress(OSError):
            found.update(_UPPER.findall((Path("/proc") / str(pid) / "mounts").read_text()))
    return found


def _bytes_below(folder: Path) -> int:
    """Return the bytes on disk of the files in ``folder``; what goes away meanwhile is none."""
    total = 0
    folders = [str(folder / "diff")]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total
