"""Cgroups: a bound on what a group of processes may use, and a way to end all of them.

Works on version 2, on version 1 and on hosts that mix them (version 1's controllers beside an
empty version 2). A host where none can be made is tolerated: the cgroup then holds nothing,
and ``usable`` says so; whoever needs bounds has to look at it.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio

from cakework.node.listing import folders_below, text_of

ROOT = Path("/sys/fs/cgroup")
PARENT = "cakework"
V1_CONTROLLERS = ("memory", "pids", "cpu")
CPU_PERIOD_US = 100_000
END_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Limits:
    """What a cgroup may use; ``None`` is as much as there is. ``cpus`` counts whole processors.

    ``within`` is the name of another group, which bounds all that are in it together.
    """

    memory_mb: int | None = None
    pids_max: int | None = None
    cpus: float | None = None
    within: str = ""


class Cgroup:
    """One named group: a folder in each hierarchy of the host that bounds something."""

    def __init__(self, name: str, folders: tuple[Path, ...]) -> None:
        self.name = name
        self.folders = folders

    @classmethod
    def create(cls, name: str, limits: Limits, root: Path = ROOT) -> "Cgroup":
        """Make the group ``name`` with ``limits``; one of that name is taken over.

        One that others are ``within`` must be there before them, and has no processes itself.
        """
        if _is_v2(root):
            return cls(name, tuple(_make_v2(root, name, limits)))
        return cls(name, tuple(_make_v1(root, name, limits)))

    @classmethod
    def existing(cls, prefix: str, root: Path = ROOT) -> list["Cgroup"]:
        """Return the groups on this host whose names begin with ``prefix``, within others too."""
        found: dict[str, list[Path]] = {}
        for parent in _parents(root):
            for folder in folders_below(parent):
                if folder.name.startswith(prefix):
                    found.setdefault(folder.name, []).append(folder)
        return [cls(name, tuple(folders)) for name, folders in sorted(found.items())]

    @property
    def usable(self) -> bool:
        """Whether the host could make it at all."""
        return bool(self.folders)

    def procs_files(self) -> list[Path]:
        """Return the files that a process writes its id to in order to join."""
        return [folder / "cgroup.procs" for folder in self.folders]

    def add(self, pid: int) -> None:
        """Put process ``pid`` and the children it will have into the group."""
        for file in self.procs_files():
            file.write_text(str(pid))

    def pids(self) -> set[int]:
        """Return the processes in the group and below it."""
        found: set[int] = set()
        for folder in self.folders:
            for below in folders_below(folder):
                found.update(map(int, text_of(below / "cgroup.procs").split()))
        return found - {0}

    def kill(self) -> int:
        """Send SIGKILL to every process in it once; return how many there were."""
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    async def empty(self, timeout_s: float = 10) -> None:
        """Kill until nothing is left in it.

        Raises:
            NotEnded: processes are left that SIGKILL does not end.
        """
        await self._until(lambda: not self.kill(), timeout_s)

    async def end(self, timeout_s: float = 20) -> None:
        """Kill until nothing is left, then remove the group.

        Raises:
            NotEnded: it could not be emptied or removed in time.
        """
        # A process that moves while it is looked for may be seen only the next time.
        await self._until(lambda: not self.kill() and self.remove(), timeout_s)

    def remove(self) -> bool:
        """Remove the group, if there is no process in it; say whether it is gone."""
        for folder in self.folders:
            for below in reversed(folders_below(folder)):
                with contextlib.suppress(OSError):
                    below.rmdir()
        return not any(folder.exists() for folder in self.folders)

    def leave(self) -> None:
        """Remove the group if nothing is in it, neither a process nor another group."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()

    async def _until(self, done: Callable[[], bool], timeout_s: float) -> None:
        """Look again and again, for the kernel tells nobody when a group has become empty."""
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise NotEnded(self)
            await anyio.sleep(END_POLL_S)

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel killed for want of memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    fields = dict(_pairs((folder / name).read_text()))
                    return int(fields.get("oom_kill", "0"))
        return 0


class NotEnded(OSError):
    """Processes of a group outlive it, or what is below it does."""

    def __init__(self, cgroup: Cgroup) -> None:
        self.cgroup = cgroup
        super().__init__(errno.EBUSY, f"processes of {cgroup.name} do not end")


def _is_v2(root: Path) -> bool:
    return (root / "cgroup.controllers").exists()


def _parents(root: Path) -> Iterator[Path]:
    if _is_v2(root):
        yield root / PARENT
        return
    for controller in V1_CONTROLLERS:
        yield root / controller / PARENT


def _make_v2(root: Path, name: str, limits: Limits) -> Iterator[Path]:
    home = root / PARENT / limits.within
    folder = home / name
    with contextlib.suppress(OSError):
        (root / PARENT).mkdir(exist_ok=True)
        for above in dict.fromkeys((root, root / PARENT, home)):
            (above / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        folder.mkdir(exist_ok=True)
        _write(folder / "memory.max", _bytes(limits.memory_mb))
        _write(folder / "memory.swap.max", 0 if limits.memory_mb else None)
        _write(folder / "pids.max", limits.pids_max)
        if limits.cpus is not None:
            _write(folder / "cpu.max", f"{int(limits.cpus * CPU_PERIOD_US)} {CPU_PERIOD_US}")
        yield folder


def _make_v1(root: Path, name: str, limits: Limits) -> Iterator[Path]:
    values: dict[str, dict[str, int | None]] = {
        "memory": {
            "memory.limit_in_bytes": _bytes(limits.memory_mb),
            "memory.memsw.limit_in_bytes": _bytes(limits.memory_mb),
        },
        "pids": {"pids.max": limits.pids_max},
        "cpu": {"cpu.cfs_period_us": CPU_PERIOD_US, "cpu.cfs_quota_us": None},
    }
    for controller in V1_CONTROLLERS:
        home = root / controller / PARENT / limits.within
        folder = home / name
        with contextlib.suppress(OSError):
            if not (root / controller / "cgroup.procs").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            if controller == "cpu" and limits.cpus is not None:
                quota = int(limits.cpus * CPU_PERIOD_US)
                values[controller]["cpu.cfs_quota_us"] = min(quota, _quota_of(home) or quota)
            for file, value in values[controller].items():
                _write(folder / file, value)
            yield folder


def _quota_of(folder: Path) -> int | None:
    """Return what a group of version 1 may use of a period: those in it cannot be promised more,
    as they can in version 2."""
    text = text_of(folder / "cpu.cfs_quota_us")
    return int(text) if text and int(text) > 0 else None


def _write(file: Path, value: int | str | None) -> None:
    if value is not None and file.exists():
        file.write_text(str(value))


def _bytes(memory_mb: int | None) -> int | None:
    return None if memory_mb is None else memory_mb * 1024 * 1024


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        yield key, value
