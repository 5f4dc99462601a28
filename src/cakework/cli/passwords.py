"""Passwords and tokens: from the environment or the terminal, never from the command line,
where every user of the machine could read them."""

import os
import sys
from getpass import getpass

from cakework.cli.exits import CommandFailed, ExitCode


def read_password(usual: str, named: str | None, prompt: str | None) -> str:
    """Return the value of a variable, or what is typed in; empty where there is neither.

    Args:
        usual: Variable that counts if it is there.
        named: Variable to take instead, which has to be there.
        prompt: What to ask at a terminal when there is no variable; None not to ask.
    """
    if named is not None and named not in os.environ:
        raise CommandFailed(f"There is no variable {named} in the environment.", ExitCode.USAGE)
    value = os.environ.get(named or usual)
    if value is None and prompt is not None and sys.stdin.isatty():
        value = getpass(prompt)
    return (value or "").strip()
