"""How long to wait between one look and the next, for tests that wait until something is so."""

from collections.abc import Iterator

GROWTH = 1.25
"""A look may come that much later than it could, in parts of what has been waited already."""


def pauses(first_s: float, most_s: float) -> Iterator[float]:
    """Yield pauses that get longer: a look takes processor time from what it waits for."""
    pause_s = first_s
    while True:
        yield pause_s
        pause_s = min(pause_s * GROWTH, most_s)
