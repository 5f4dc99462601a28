"""Processes: ended, and found again, without ever meaning another one of the same id."""

import asyncio
import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cakework.node.vms.processes import Process, reap_strays, signal_name, start_time
from tests.integration.open_files import count_open_files


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        yield process
        process.kill()


def test_adopted_while_it_is_the_same(child: subprocess.Popen[bytes]) -> None:
    """A process started at the recorded time is taken on; its end is noticed."""

    async def scene() -> None:
        process = Process.adopt(child.pid, start_time(child.pid))
        assert process is not None
        seen: list[bool] = []
        process.when_ended(lambda: seen.append(True))
        assert not process.ended
        process.kill()
        await asyncio.wait_for(process.wait(), 60)
        assert (process.ended, seen, process.how()) == (True, [True], "ended")
        process.close()

    asyncio.run(scene())


def test_a_recycled_id_is_refused(child: subprocess.Popen[bytes]) -> None:
    """A process of the same id that was started at another time is another: not adopted."""

    async def scene() -> None:
        before = count_open_files()
        assert Process.adopt(child.pid, start_time(child.pid) - 1) is None
        assert count_open_files() == before

    asyncio.run(scene())
    assert child.poll() is None


def test_one_that_is_gone_is_not_adopted(child: subprocess.Popen[bytes]) -> None:
    """No process, no adoption."""
    started = start_time(child.pid)
    child.kill()
    child.wait()

    async def scene() -> None:
        assert Process.adopt(child.pid, started) is None

    asyncio.run(scene())


def test_one_that_nobody_reaped_is_not_adopted(child: subprocess.Popen[bytes]) -> None:
    """Ended but not yet noticed by its parent, it is gone for us."""
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    async def scene() -> None:
        assert Process.adopt(child.pid, start_time(child.pid)) is None

    asyncio.run(scene())


def test_a_closed_one_is_left_alone(child: subprocess.Popen[bytes]) -> None:
    """Once it is not watched any more, kill() reaches nobody."""

    async def scene() -> None:
        process = Process.adopt(child.pid, start_time(child.pid))
        assert process is not None
        process.close()
        process.close()
        process.kill()

    asyncio.run(scene())
    assert child.poll() is None


def test_names_of_signals() -> None:
    """Every signal has a name, also those without one."""
    assert signal_name(9) == "SIGKILL"
    assert signal_name(40) == "signal 40"


def test_strays_are_reaped_while_threads_end(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is gone before its children are read had none; a stray of another goes."""
    read_text, over = Path.read_text, threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()

    def read(path: Path) -> str:
        if path.match(f"task/{thread.native_id}/children"):
            raise ProcessLookupError(errno.ESRCH, "gone")
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", read)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        reap_strays(os.getuid())
    finally:
        over.set()
        thread.join()
    assert not Path(f"/proc/{child.pid}").exists()
