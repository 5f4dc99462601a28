"""``cakework doctor``: what this machine has and lacks, and what would make it faster."""

import sys

from cakework.cli.checks import Check, Level, all_checks
from cakework.cli.configuration import load_settings
from cakework.cli.exits import ExitCode
from cakework.cli.output import Json, Output, paint

MARKS = {Level.OK: ("ok  ", "32"), Level.WARN: ("warn", "33"), Level.FAIL: ("fail", "31")}


def doctor(*, as_json: Json = False) -> int:
    """Say what this machine has and lacks; ends with 1 when something needed is missing."""
    checks = all_checks(load_settings())
    output = Output(as_json=as_json)
    output.result([check.as_dict() for check in checks], "\n".join(map(describe, checks)))
    failed = sum(check.level is Level.FAIL for check in checks)
    if failed:
        output.progress(f"\n{failed} of {len(checks)} checks failed.")
    return ExitCode.FAILED if failed else ExitCode.OK


def describe(check: Check) -> str:
    """Return a check as one line, and a second one when there is something to do."""
    word, colour = MARKS[check.level]
    line = f"{paint(word, colour, sys.stdout)}  {check.name:<16} {check.found}"
    return f"{line}\n{'':22} → {check.advice}" if check.advice else line
