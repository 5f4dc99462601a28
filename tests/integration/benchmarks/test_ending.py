"""A benchmark that is ended in the midst of it leaves nothing on the host."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.waiting import until

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 180


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's user may enter, too."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _processes_of(folder: Path) -> Iterator[str]:
    """Yield the commands of processes that know ``folder``, by their arguments or environment."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if str(folder).encode() in command + (process / "environ").read_bytes():
                yield command.decode(errors="replace").replace("\0", " ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_down_all_that_was_brought_up(folder: Path, number: signal.Signals) -> None:
    """Registry, git server, Cakework and their folders are gone when the benchmark has ended."""
    with (folder / "log").open("wb") as log:
        benchmark = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "--only", "python-import"],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(folder)},
            stdout=log,
            stderr=log,
        )
    with benchmark:
        try:
            until(
                lambda: b"bringing Cakework up" in (folder / "log").read_bytes(),
                DEADLINE_S,
                "the registry serves",
            )
            assert any("docker-registry" in each for each in _processes_of(folder))
            benchmark.send_signal(number)
            assert benchmark.wait(DEADLINE_S) == 128 + number, (folder / "log").read_text()
        finally:
            benchmark.kill()
    assert list(_processes_of(folder)) == []
    assert [entry.name for entry in folder.iterdir()] == ["log"]
