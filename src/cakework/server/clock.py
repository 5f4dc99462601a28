"""The clock, passed in wherever time is read so that a test can set it."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Tells the time in unix milliseconds."""


def now_ms() -> int:
    """Return the time of day in unix milliseconds."""
    return time.time_ns() // 1_000_000
