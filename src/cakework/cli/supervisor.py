"""Keeps a program running: starts it, starts it again when it dies, ends it when told to.

One that takes more memory than it may is ended, and started again: it alone, and not whatever the
kernel would choose once the host has none left.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import Process

from cakework.cli.exits import CommandFailed

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0
"""A program that ran this long is started again without waiting long."""
GRACE_S = 30.0
"""Time a program has to end after SIGTERM."""
LOOK_S = 0.2
"""Between two looks at the memory of a program: long enough for a few hundred MB more."""


@dataclass
class Program:
    """A program to keep running. Until ``proven``, its death is final: it never worked."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    say: Callable[[str], None]
    memory_mb: int | None = None
    """Memory of its own it may take, in MiB; that of processes it starts is not counted."""
    proven: bool = False
    deaths: int = 0
    _process: Process | None = None
    _begun: bool = False
    _stop_asked: anyio.Event = field(default_factory=anyio.Event)
    _ended: anyio.Event = field(default_factory=anyio.Event)

    @property
    def pid(self) -> int | None:
        """The process that runs now, if one does."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and running else None

    async def keep(self) -> None:
        """Run the program until :meth:`stop`.

        Raises:
            CommandFailed: It died before it was proven to work.
        """
        self._begun = True
        try:
            while not self._stop_asked.is_set():
                began = anyio.current_time()
                await self._run_once()
                if not self._stop_asked.is_set():
                    await self._after_death(anyio.current_time() - began)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """End the program: SIGTERM, SIGKILL when it takes too long; return when it is gone."""
        self._stop_asked.set()
        if self._begun:
            await self._end()
            await self._ended.wait()

    def kill(self) -> None:
        """End the program at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _run_once(self) -> None:
        self._process = await anyio.open_process(
            list(self.argv),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            stderr=sys.stderr,
            env=self.env,
            cwd="/",
            start_new_session=True,
        )
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch_memory, self._process)
                await self._process.wait()
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()

    async def _watch_memory(self, process: Process) -> None:
        while self.memory_mb is not None:
            await anyio.sleep(LOOK_S)
            if own_memory(process.pid) > self.memory_mb << 20:
                self.say(f"the {self.name} takes more than {self.memory_mb} MiB of memory")
                process.kill()
                return

    async def _end(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        with anyio.move_on_after(GRACE_S):
            await self._process.wait()
        self.kill()

    async def _after_death(self, lived_s: float) -> None:
        how = describe_end(self._process.returncode if self._process else None)
        if not self.proven:
            raise CommandFailed(f"The {self.name} does not start ({how}); it says why above.")
        self.deaths = 1 if lived_s > STEADY_S else self.deaths + 1
        wait_s = BACKOFF_S[min(self.deaths, len(BACKOFF_S)) - 1]
        self.say(f"the {self.name} died ({how}); starting it again in {wait_s:g} s")
        with anyio.move_on_after(wait_s):
            await self._stop_asked.wait()


def own_memory(pid: int) -> int:
    """Return how many bytes a process has that are neither a file's nor shared, also if swapped.

    ``RssAnon`` and ``VmSwap`` of ``/proc/<pid>/status`` (see ``proc(5)``), 0 when it is gone.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    fields = (line.split() for line in lines)
    return sum(int(field[1]) << 10 for field in fields if field[0] in ("RssAnon:", "VmSwap:"))


def describe_end(returncode: int | None) -> str:
    """Return how a process ended, in words."""
    if returncode is not None and returncode < 0:
        return f"signal {-returncode}"
    return f"exit code {returncode}"
