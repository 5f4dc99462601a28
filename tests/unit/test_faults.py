"""Faults are laid for tests alone, and each ends one process once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from cakework.domain.steps import Step
from cakework.faults import VARIABLE

PROGRAM = (
    "from cakework.faults import step; from cakework.domain.steps import Step;"
    "step(Step.BUILD_SPOOLED); step(Step.BUILD_RECORDED); print('passed')"
)


def run(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**others, **more},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_laid_fault_ends_the_process_at_its_step_once(tmp_path: Path) -> None:
    """SIGKILL at the step that a file names; the next process goes past it."""
    (tmp_path / Step.BUILD_RECORDED).touch()
    died = run(tmp_path, **{VARIABLE: str(tmp_path)})
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, "")
    assert run(tmp_path, **{VARIABLE: str(tmp_path)}).stdout == "passed\n"


def test_a_fault_at_another_step_is_left_alone(tmp_path: Path) -> None:
    """What is not reached stays laid, so that a test sees that it was not."""
    (tmp_path / Step.VM_RECORDED).touch()
    assert run(tmp_path, **{VARIABLE: str(tmp_path)}).stdout == "passed\n"
    assert (tmp_path / Step.VM_RECORDED).exists()


def test_without_the_variable_steps_do_nothing(tmp_path: Path) -> None:
    """In production no file ends a process, wherever it lies."""
    (tmp_path / Step.BUILD_SPOOLED).touch()
    assert run(tmp_path).stdout == "passed\n"
