"""What is said of a series of measurements."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Of times in milliseconds, or of ratios."""

    median: float
    p95: float
    least: float
    most: float


def summarise(values: Sequence[float]) -> Summary:
    """Return the summary of ``values``; p95 is the value that 95 % of them do not exceed."""
    ordered = sorted(values)
    rank = -(-95 * len(ordered) // 100)
    return Summary(statistics.median(ordered), ordered[rank - 1], ordered[0], ordered[-1])


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return each value over the other of the same turn."""
    return [value / other for value, other in zip(values, others, strict=True)]
