"""Waiting for something to be so, with a deadline, instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

POLL_S = 0.02
T = TypeVar("T")


def until(condition: Callable[[], T | None], within_s: float, what: str | Callable[[], str]) -> T:
    """Return what ``condition`` returns as soon as that is true.

    Raises:
        AssertionError: it was not so in time; ``what`` says what was waited for.
    """
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {within_s:g} s: {told}")
        time.sleep(POLL_S)
    return found
