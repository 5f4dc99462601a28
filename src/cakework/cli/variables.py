"""Variables for a program in a VM, from options and files."""

import os
from collections.abc import Iterable
from pathlib import Path

from cakework.cli.exits import CommandFailed, ExitCode


def read_variables(given: Iterable[str], files: Iterable[Path]) -> dict[str, str]:
    """Return the variables of files and options; options win.

    Raises:
        CommandFailed: A file cannot be read, or a variable has no name or no value.
    """
    variables: dict[str, str] = {}
    for path in files:
        variables |= dict(filter(None, map(parse_variable, read_lines(path))))
    return variables | dict(filter(None, map(parse_variable, given)))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file of variables, without comments and blank ones."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"Cannot read {path}: {error}", ExitCode.USAGE) from error
    return [line for line in lines if line and not line.startswith("#")]


def parse_variable(text: str) -> tuple[str, str] | None:
    """Return ``K=V`` as a pair, and ``K`` with this process's value; None if it has none."""
    name, equals, value = text.partition("=")
    if not name:
        raise CommandFailed(f"{text!r} is not K=V.", ExitCode.USAGE)
    if equals:
        return name, value
    return (name, os.environ[name]) if name in os.environ else None
