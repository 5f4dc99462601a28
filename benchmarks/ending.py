"""How a benchmark is ended by a signal: all that it has brought up is taken down first."""

import contextlib
import signal
import sys
from collections.abc import Generator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Ending:
    """What is known of the end of this program: who asked for it, and may it be now?"""

    def __init__(self) -> None:
        self.asked_by: int | None = None
        self.begun = False
        self.open = False

    def ask(self, number: int, _: FrameType | None) -> None:
        """Take a signal; only the first counts, as others must not break off what it began."""
        if self.begun or not self.open:
            # Nobody should think that it was not heard: what goes on may take half a minute.
            print("ending: what was brought up is taken down first", file=sys.stderr, flush=True)
        self.asked_by = self.asked_by or number
        self.heed()

    def heed(self) -> None:
        """End the program, if it was asked to and may be broken off here."""
        if self.asked_by is not None and self.open and not self.begun:
            self.begun = True
            sys.exit(128 + self.asked_by)


_ending = _Ending()


@contextlib.contextmanager
def ended_by_signals() -> Generator[None]:
    """Within, have SIGINT and SIGTERM end the program where it is :func:`interruptible`."""
    before = [signal.signal(number, _ending.ask) for number in SIGNALS]
    try:
        yield
        may_end()
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Within, a signal breaks off what goes on; one that came before does so at once.

    Nothing else is broken off. A process that is begun and not yet noted would be left behind,
    and so would what a half-done clean-up had still to take down.
    """
    _ending.open = True
    try:
        _ending.heed()
        yield
    finally:
        _ending.open = False


def may_end() -> None:
    """Let a signal that came before this end the program: all that there is has been noted."""
    with interruptible():
        pass
