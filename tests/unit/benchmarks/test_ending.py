"""A signal ends a benchmark, and what it holds is let go of."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
from benchmarks.ending import ended_by_signals, interruptible
with ended_by_signals():
    try:
        with interruptible():
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


BRINGS_UP = """
import os
from benchmarks.ending import ended_by_signals, interruptible
with ended_by_signals():
    os.kill(os.getpid(), {number})
    print("brought up")
    try:
        {then}
    finally:
        print("taken down")
"""


@pytest.mark.parametrize("number", [2, 15])
@pytest.mark.parametrize("then", ["pass", "with interruptible(): print('measured')"])
def test_what_is_being_brought_up_is_not_broken_off(number: int, then: str) -> None:
    """A process that nothing has noted yet would be left behind."""
    done = subprocess.run(
        [sys.executable, "-c", BRINGS_UP.format(number=number, then=then)],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "brought up\ntaken down\n", done.stderr
    assert done.returncode == 128 + number
