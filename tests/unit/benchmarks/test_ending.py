"""A signal ends a benchmark, and what it holds is let go of."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
from benchmarks.ending import ended_by_signals
with ended_by_signals():
    try:
        os.kill(os.getpid(), {number})
        signal.pause()
    finally:
        for again in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), again)
        print("let go of")
"""


@pytest.mark.parametrize("number", [2, 15])
def test_a_second_signal_breaks_nothing_off(number: int) -> None:
    """Nobody has to wait patiently for all to be taken down."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(number=number)], capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("let go of\n", 128 + number), done.stderr
