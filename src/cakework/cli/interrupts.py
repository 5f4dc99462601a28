"""Ctrl-C and SIGTERM, held back while something is made that would else be lost."""

import signal
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def held_interrupt() -> Generator[list[int]]:
    """Hold Ctrl-C and SIGTERM back, listing them, so that nothing is left without its id."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda got, _frame: caught.append(got)) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
