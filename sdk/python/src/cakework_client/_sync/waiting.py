"""Waiting, work that blocks, and work that is finished; a second Ctrl-C cuts it short."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import sleep
from typing import TypeVar

__all__ = ["aside", "shielded", "sleep"]

T = TypeVar("T")


def shielded() -> AbstractContextManager[object]:
    """Return a context that does nothing: without tasks there is no cancelling."""
    return nullcontext()


def aside(work: Callable[[], T]) -> T:
    """Do work that blocks."""
    return work()
