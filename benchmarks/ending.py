"""How a benchmark is ended by a signal: all that it has brought up is taken down first."""

import contextlib
import signal
import sys
from collections.abc import Generator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ended_by_signals() -> Generator[None]:
    """Within, have SIGINT and SIGTERM leave whatever is entered, and end the program then.

    Only the first does: another must not break off what the first one has begun.
    """
    before = [signal.signal(number, _end) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    for each in SIGNALS:
        # Not SIG_IGN, which the programs that take down the rest would inherit.
        signal.signal(each, _wait)
    sys.exit(128 + number)


def _wait(_number: int, _frame: FrameType | None) -> None:
    print("taking down what was brought up", file=sys.stderr, flush=True)
