"""What functions print: of one invocation, or of all instances."""

from collections import deque
from contextlib import suppress

from cakework.cli.output import Output, shown_on_stderr
from cakework_client import CakeworkClient, CakeworkError, NotFound

LINES_KEPT = 500
"""Of what an invocation printed; tracebacks are shorter."""


def show_invocation_log(client: CakeworkClient, invocation_id: str, output: Output) -> str:
    """Show the log of an invocation on standard error, until it has ended; return its end."""
    kept: deque[str] = deque(maxlen=LINES_KEPT)
    with suppress(NotFound):
        for line in client.follow_logs(invocation_id):
            output.progress(shown_on_stderr(line.message))
            kept.append(line.message)
    return "\n".join(kept)


def follow_function_log(client: CakeworkClient, function_id: str, output: Output) -> None:
    """Show what all instances of a function print, until it is deleted or cannot be reached."""
    with suppress(CakeworkError):
        for line in client.follow_logs(function_id):
            output.progress(shown_on_stderr(line.message))
