"""Keeping a program running."""

import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from cakework.cli.exits import CommandFailed
from cakework.cli.supervisor import Program

pytestmark = pytest.mark.anyio

RECORD = "import os, sys; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n');"
WAIT = RECORD + "import signal; signal.pause()"
EAT = RECORD + "eaten = b'x' * (200 << 20); import signal; signal.pause()"
SHARE = (
    "import mmap, subprocess, sys; shared = mmap.mmap(-1, 200 << 20);"
    "[shared.write(bytes(1 << 20)) for _ in range(190)];"
    "other = 'eaten = b\\'x\\' * (200 << 20); print(1, flush=True); import sys; sys.stdin.read()';"
    "one = subprocess.Popen([sys.executable, '-c', other], stdin=-1, stdout=-1);"
    "one.stdout.readline();" + WAIT
)
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + WAIT


@pytest.fixture
def anyio_backend() -> str:
    """The only backend the platform uses."""
    return "asyncio"


def program(code: str, record: Path, said: list[str]) -> Program:
    return Program("node", [sys.executable, "-c", code, str(record)], {}, said.append)


async def starts(record: Path, count: int) -> list[int]:
    """Return the pids of the first ``count`` starts, when there have been so many."""
    await until(lambda: len(recorded(record)) >= count)
    return recorded(record)


def recorded(record: Path) -> list[int]:
    return [int(pid) for pid in record.read_text().split()] if record.exists() else []


async def until(reached: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while True:
            if reached():
                return
            await anyio.sleep(0.01)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@asynccontextmanager
async def kept(program: Program) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(program.keep)
        yield
        await program.stop()


async def test_a_program_that_dies_is_started_again(tmp_path: Path) -> None:
    """Once it has worked, kill -9 leads to a new one, and the person is told."""
    said: list[str] = []
    one = program(WAIT, tmp_path / "pids", said)
    async with kept(one):
        [first] = await starts(tmp_path / "pids", 1)
        one.proven = True
        os.kill(first, signal.SIGKILL)
        first, second = await starts(tmp_path / "pids", 2)
    assert first != second
    assert said == ["the node died (signal 9); starting it again in 0.5 s"]
    assert is_gone(second)


async def test_a_program_that_takes_too_much_memory_is_ended_alone(tmp_path: Path) -> None:
    """And started again; another, whose memory is a file's or another process's, goes on."""
    said: list[str] = []
    greedy = program(EAT, tmp_path / "greedy", said)
    frugal = program(SHARE, tmp_path / "frugal", said)
    for one in (greedy, frugal):
        one.memory_mb, one.proven = 100, True
    async with kept(frugal), kept(greedy):
        [first] = await starts(tmp_path / "frugal", 1)
        await starts(tmp_path / "greedy", 2)
        assert recorded(tmp_path / "frugal") == [first]
        assert not is_gone(first)
    assert said[:2] == [
        "the node takes more than 100 MiB of memory",
        "the node died (signal 9); starting it again in 0.5 s",
    ]


async def test_a_program_that_never_worked_is_given_up(tmp_path: Path) -> None:
    """Its death at start is a failure that names the program, not a reason to try for ever."""
    one = program("raise SystemExit(7)", tmp_path / "pids", [])
    with pytest.raises(CommandFailed, match=r"node does not start \(exit code 7\)"):
        await one.keep()


async def test_a_program_that_will_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time it is given, SIGTERM is followed by SIGKILL."""
    monkeypatch.setattr("cakework.cli.supervisor.GRACE_S", 0.2)
    one = program(STUBBORN, tmp_path / "pids", [])
    async with kept(one):
        [pid] = await starts(tmp_path / "pids", 1)
    assert is_gone(pid)


async def test_stopping_does_not_wait_for_the_next_try(tmp_path: Path) -> None:
    """A stop during the pause between two starts ends at once."""
    said: list[str] = []
    one = program(RECORD, tmp_path / "pids", said)
    one.proven = True
    one.deaths = 5
    with anyio.fail_after(25):
        async with kept(one):
            await until(lambda: bool(said))
    assert said == ["the node died (exit code 0); starting it again in 30 s"]


async def test_a_cancelled_program_is_ended(tmp_path: Path) -> None:
    """When something else fails, the process does not stay behind."""
    one = program(WAIT, tmp_path / "pids", [])
    pids: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(one.keep)
        pids += await starts(tmp_path / "pids", 1)
        group.cancel_scope.cancel()
    assert is_gone(pids[0])
