"""What a check of `cakework doctor` is, and what all of them use."""

import subprocess
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad what was found is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, and what to do about it."""

    name: str
    level: Level
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the check as `--json` prints it."""
        return {
            "name": self.name,
            "level": self.level.value,
            "found": self.found,
            "advice": self.advice,
        }


def run(argv: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run a program for at most ten seconds and return what it said."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 127, "", str(error))


def last_line(text: str) -> str:
    """Return the last line of a program's complaint."""
    return (text.strip().splitlines() or ["no reason given"])[-1]
