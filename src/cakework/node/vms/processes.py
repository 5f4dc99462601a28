"""QEMU processes: started in the jail, watched by descriptors, found again after a restart."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cakework.node.listing import entries, text_of

_watched: set[int] = set()
"""The processes that are watched, by id."""


@dataclass(frozen=True, slots=True)
class Jail:
    """What confines one QEMU; see jail/jail.c. ``binds`` are (from, to), with ``,rw`` if so;
    ``fork`` is the option that lets it be forked, if it may be."""

    program: Path
    root: Path
    uid: int
    namespace_fd: int
    procs: Sequence[Path]
    binds: Sequence[tuple[Path, str]]
    devices: Sequence[str] = ()
    preload: Path | None = None
    fork: Sequence[str] = ()

    def command(self, program: Sequence[str]) -> list[str]:
        """Return the command that runs ``program`` confined."""
        return [
            str(self.program),
            *("--root", str(self.root), "--uid", str(self.uid)),
            *("--netns", str(self.namespace_fd)),
            *(word for path in self.procs for word in ("--procs", str(path))),
            *(word for source, to in self.binds for word in ("--bind", f"{source}:{to}")),
            *(word for device in self.devices for word in ("--device", device)),
            *(("--preload", str(self.preload)) if self.preload else ()),
            *self.fork,
            "--",
            *program,
        ]


@dataclass(slots=True)
class Process:
    """A process that may outlive the node. ``started`` tells it from a later one of its pid."""

    pid: int
    started: int
    _pidfd: int
    _child: subprocess.Popen[bytes] | None = None
    _forked: bool = False
    _status: int | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _callbacks: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    @classmethod
    def spawn(
        cls, jail: Jail, program: Sequence[str], fds: Sequence[int], output: Path
    ) -> "Process":
        """Start ``program`` in ``jail`` with descriptors ``fds``; its output goes to a file."""
        with output.open("ab") as log:
            child = subprocess.Popen(
                jail.command(program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(*fds, jail.namespace_fd),
                cwd="/",
            )
        try:
            return cls._watch(child.pid, child)
        except BaseException:
            child.kill()
            child.wait()
            raise

    @classmethod
    def forked(cls, pid: int, uid: int) -> "Process":
        """Watch a fork, of user ``uid``, of a process that this node started.

        Raises:
            ProcessLookupError: it is gone, or it is not a child of this node and that user's, so
                that it is none that was asked for.
        """
        process = cls._watch(pid, None)
        try:
            if _parent_and_user(pid) != (os.getpid(), uid):
                raise ProcessLookupError(f"process {pid} is no fork of user {uid}")
        except BaseException:
            process.close()
            raise
        process._forked = True
        return process

    @classmethod
    def adopt(cls, pid: int, started: int) -> "Process | None":
        """Take on a process started by an earlier node; None if it is gone."""
        try:
            process = cls._watch(pid, None)
        except ProcessLookupError:
            return None
        if process.started != started or _is_dead(pid):
            process.close()
            return None
        return process

    @classmethod
    def _watch(cls, pid: int, child: subprocess.Popen[bytes] | None) -> "Process":
        pidfd = os.pidfd_open(pid)
        try:
            process = cls(pid, start_time(pid), pidfd, child)
            _watched.add(pid)
            asyncio.get_running_loop().add_reader(pidfd, process._on_end)
        except BaseException:
            _watched.discard(pid)
            os.close(pidfd)
            raise
        return process

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    async def wait(self) -> None:
        """Return when it has ended."""
        await self._ended.wait()

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when it ends while it is watched."""
        self._callbacks.append(callback)

    def how(self) -> str:
        """Say how it ended, for people; what an earlier node started ends unseen."""
        status = self._child.poll() if self._child else self._status
        if status is None:
            return "ended"
        if status < 0:
            return f"was killed by {signal_name(-status)}"
        return f"ended with status {status}"

    def kill(self) -> None:
        """Send SIGKILL, unless it is not watched any more."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Stop watching it. It goes on if it has not ended."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            _watched.discard(self.pid)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if self._child is not None:
            self._child.poll()
        elif self._forked:
            self._status = _reap(self._pidfd)
        self._ended.set()
        for callback in self._callbacks:
            callback()


def _reap(pidfd: int) -> int | None:
    """Take in how a child ended, as ``Popen.returncode`` says it; None for what is no child."""
    try:
        done = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if done is None:
        return None
    return done.si_status if done.si_code == os.CLD_EXITED else -done.si_status


def _parent_and_user(pid: int) -> tuple[int, int]:
    fields = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["PPid"]), int(fields["Uid"].split()[0])


def reap_strays(uid: int) -> None:
    """Take in children of this node of user ``uid`` that have ended and that it knows nothing of.

    A QEMU that can be forked can be made to fork by its guest, should that take it over.
    """
    # Threads end meanwhile.
    for thread in entries(Path("/proc/self/task")):
        for pid in map(int, text_of(thread / "children").split()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, ChildProcessError):
                if pid in _watched or not _is_dead(pid):
                    continue
                if _parent_and_user(pid) == (os.getpid(), uid):
                    os.waitpid(pid, os.WNOHANG)


def start_time(pid: int) -> int:
    """Return when ``pid`` was started, in clock ticks since the host's boot.

    Raises:
        ProcessLookupError: there is no such process.
    """
    return int(_stat(pid)[19])


def _stat(pid: int) -> list[str]:
    """Return what ``/proc/<pid>/stat`` says, from the state on (proc(5), field 3)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(f"no process {pid}") from error
    return stat.rpartition(")")[2].split()


def _is_dead(pid: int) -> bool:
    """Say whether a process has ended and waits for its parent to notice."""
    try:
        return _stat(pid)[0] in "ZX"
    except ProcessLookupError:
        return True


def signal_name(number: int) -> str:
    """Return what a signal is called: ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
