"""How a command ends: its exit codes, and the one exception that carries a failure up."""

from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees. ``cakework run`` otherwise ends with its program's own code."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNAUTHENTICATED = 4
    INTERRUPTED = 130


class CommandFailed(Exception):
    """A command did not do what it was asked; ``detail`` says what to do about it.

    ``problem`` is the server's own account of it (RFC 9457), where there is one.
    """

    def __init__(
        self,
        detail: str,
        exit_code: ExitCode = ExitCode.FAILED,
        *,
        code: str = "command_failed",
        problem: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.exit_code = exit_code
        self.code = code
        self.problem = dict(problem) if problem else {"code": code, "detail": detail}
