"""Whose a line of an instance is, by what is on record of the attempts that ran in it."""

import pytest

from cakework.server.functions.logs import attempt_of
from cakework.server.logs.lines import Line
from cakework.server.store.function_models import AttemptRow

Attempt = tuple[str, int | None, int | None, int, int | None]
"""Name, first line, last line, started, ended."""
ONE: Attempt = ("one", 10, 20, 100, 150)
TWO: Attempt = ("two", 25, 30, 200, 250)


@pytest.mark.parametrize(
    ("attempts", "seq", "at_ms", "whose"),
    [
        ([ONE, TWO], 10, 100, None),
        ([ONE, TWO], 11, 100, "one"),
        ([ONE, TWO], 20, 100, "one"),
        ([ONE, TWO], 21, 160, None),
        ([ONE, TWO], 26, 100, "two"),
        # Its instance went with it: all that came after is its own.
        ([ONE, ("two", 25, None, 200, 250)], 9999, 260, "two"),
        # It goes on.
        ([ONE, ("two", 25, None, 200, None)], 9999, 260, "two"),
        # Where it began was not written: by the time, but never what is another's.
        ([ONE, ("two", None, 30, 200, 250)], 20, 300, "one"),
        ([ONE, ("two", None, 30, 200, 250)], 22, 160, None),
        ([ONE, ("two", None, 30, 200, 250)], 22, 200, "two"),
        ([ONE, ("two", None, 30, 200, 250)], 31, 300, None),
        # Where the one before ended was not written: up to the next.
        ([("one", 10, None, 100, 150), TWO], 24, 160, "one"),
        ([("one", 10, None, 100, 150), TWO], 26, 160, "two"),
        ([("one", 10, None, 100, 150), ("two", None, None, 200, None)], 26, 160, "one"),
        ([("one", 10, None, 100, 150), ("two", None, None, 200, None)], 26, 210, "two"),
        # At once: what one printed alone is its own.
        ([("one", 10, 30, 100, 300), ("two", 20, 40, 200, 400)], 15, 0, "one"),
        ([("one", 10, 30, 100, 300), ("two", 20, 40, 200, 400)], 25, 0, None),
        ([("one", 10, 30, 100, 300), ("two", 20, 40, 200, 400)], 35, 0, "two"),
        ([("one", 10, None, 100, None), ("two", 20, None, 200, None)], 25, 0, None),
    ],
)
def test_a_line_is_of_one_attempt_or_of_none(
    attempts: list[Attempt], seq: int, at_ms: int, whose: str | None
) -> None:
    """Whatever the order in which they are found."""
    rows = [
        AttemptRow(
            invocation_id=name,
            attempt=1,
            first_line=first,
            last_line=last,
            started_ms=started,
            ended_ms=ended,
        )
        for name, first, last, started, ended in attempts
    ]
    for found in (rows, rows[::-1]):
        attempt = attempt_of(Line(seq, at_ms, "stdout", "x"), found)
        assert (attempt.invocation_id if attempt else None) == whose
