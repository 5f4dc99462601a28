"""What functions print: of one invocation, or of all instances."""

import threading
from collections import deque
from contextlib import suppress

from cakework.cli.output import Output, shown_on_stderr
from cakework_client import CakeworkClient, CakeworkError, NotFound

LINES_KEPT = 500
"""Of what an invocation printed; tracebacks are shorter."""
SOON_S = 1.0


def show_invocation_log(client: CakeworkClient, invocation_id: str, output: Output) -> str:
    """Show the log of an invocation on standard error, until it has ended; return its end."""
    kept: deque[str] = deque(maxlen=LINES_KEPT)
    with suppress(NotFound):
        for line in client.follow_logs(invocation_id):
            output.progress(shown_on_stderr(line.message))
            kept.append(line.message)
    return "\n".join(kept)


class FunctionLog:
    """What all instances of a function print."""

    def __init__(self, client: CakeworkClient, function_id: str, output: Output) -> None:
        self._client = client
        self._function_id = function_id
        self._output = output
        self._shown: deque[str] = deque(maxlen=LINES_KEPT)
        self._changed = threading.Condition()
        self._ended = False

    def follow(self) -> None:
        """Show it on standard error until the function is deleted or cannot be reached."""
        with suppress(CakeworkError):
            for line in self._client.follow_logs(self._function_id):
                self._output.progress(shown_on_stderr(line.message))
                with self._changed:
                    self._shown.append(line.message)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def forget(self) -> None:
        """Take what was shown until now for not shown."""
        with self._changed:
            self._shown.clear()

    def has_shown(self, text: str) -> bool:
        """Say whether a text of whole lines was shown, or is soon: lines come after answers."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._has(text), SOON_S)
            return self._has(text)

    def _has(self, text: str) -> bool:
        return text in "\n".join(self._shown)
