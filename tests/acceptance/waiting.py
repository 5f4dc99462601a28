"""Waiting for something to be so, with a deadline, instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

POLL_S = 0.02
T = TypeVar("T")


def until(condition: Callable[[], T | None], within_s: float, what: str) -> T:
    """Return what ``condition`` returns as soon as that is true.

    Raises:
        AssertionError: it was not so in time; ``what`` says what was waited for.
    """
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)
    return found
