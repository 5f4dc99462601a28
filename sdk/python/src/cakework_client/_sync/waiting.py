"""Waiting, and work that must be finished; a second Ctrl-C cuts it short."""

from contextlib import AbstractContextManager, nullcontext
from time import sleep

__all__ = ["shielded", "sleep"]


def shielded() -> AbstractContextManager[object]:
    """Return a context that does nothing: without tasks there is no cancelling."""
    return nullcontext()
