"""Commands that are timed."""

import contextlib
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import IO

DEADLINE_S = 120.0


def first_line_ms(command: Sequence[str], env: Mapping[str, str]) -> float:
    """Run ``command`` to its end; return how long it took to its first line, in milliseconds.

    Raises RuntimeError if it fails or prints nothing.
    """
    begun = time.monotonic()
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        first_line = time.monotonic()
        _, errors = process.communicate(timeout=DEADLINE_S)
    if process.returncode != 0 or not line:
        words = " ".join(command)
        raise RuntimeError(f"{words} ended with {process.returncode}: {errors.decode()[-500:]}")
    return (first_line - begun) * 1000


@contextlib.contextmanager
def packed(root: Path) -> Generator[IO[bytes]]:
    """Give the files below ``root`` as a tar archive that is being read."""
    with subprocess.Popen(
        ["tar", "-C", root, "--numeric-owner", "-cf", "-", "."], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield process.stdout
    if process.returncode != 0:
        raise RuntimeError(f"tar of {root} ended with {process.returncode}")
