"""Waiting for something to be so, with a deadline, instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.pauses import pauses

POLL_S = 0.02
POLL_MOST_S = 0.1
T = TypeVar("T")


def until(condition: Callable[[], T | None], within_s: float, what: str | Callable[[], str]) -> T:
    """Return what ``condition`` returns as soon as that is true.

    Raises:
        AssertionError: it was not so in time; ``what`` says what was waited for.
    """
    deadline = time.monotonic() + within_s
    pause_s = pauses(POLL_S, POLL_MOST_S)
    while not (found := condition()):
        if time.monotonic() > deadline:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {within_s:g} s: {told}")
        time.sleep(next(pause_s))
    return found
