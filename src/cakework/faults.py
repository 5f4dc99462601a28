"""Faults on purpose: a process ends itself, as ``kill -9`` does, where a test wants it to.

Only in a process that was started with ``CAKEWORK_FAULTS=<folder>``. One that then goes past a
step for which that folder holds a file of the step's name removes the file and gets SIGKILL:
so each file is one fault, and faults can be laid while the process runs. Without the variable
a step is a call that does nothing; no request, setting or file can change that later.
"""

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

from cakework.domain.steps import Step

VARIABLE = "CAKEWORK_FAULTS"
FOLDER: Final = os.environ.get(VARIABLE)
"""Where faults are laid; None in every process that is not under such a test."""


def step(reached: Step) -> None:
    """Go past a step, or end there."""
    if FOLDER is not None:
        _end_if_laid(Path(FOLDER, reached))


def _end_if_laid(fault: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        fault.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
