"""What functions print: of one invocation, or of all instances."""

from contextlib import suppress

from cakework.cli.output import Output, shown_on_stderr
from cakework_client import CakeworkClient, CakeworkError, NotFound


def show_invocation_log(client: CakeworkClient, invocation_id: str, output: Output) -> None:
    """Show the log of an invocation on standard error, until it has ended."""
    with suppress(NotFound):
        for line in client.follow_logs(invocation_id):
            output.progress(shown_on_stderr(line.message))


def follow_function_log(client: CakeworkClient, function_id: str, output: Output) -> None:
    """Show what all instances of a function print, until it is deleted or cannot be reached."""
    with suppress(CakeworkError):
        for line in client.follow_logs(function_id):
            output.progress(shown_on_stderr(line.message))
