"""Looking through a log for a word: bounded in what one call looks at, and out of others' way.

A log may have gigabytes. A call looks at so many bytes, or for so long, and then says how far it
came; the next call goes on there. It looks at a piece at a time, short enough to stop in time, and
rests after each for as long as it took, so that it never has more than half a processor.

Text is compared without case, as Unicode has it, which SQLite cannot do; but ASCII it can, and
that it does without Python, for which the whole server would have to wait.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from cakework.server.logs.lines import Line, Source

PIECE_BYTES = 256 * 1024
PIECE_LINES_FIRST, PIECE_LINES_MIN, PIECE_LINES_MAX = 16, 8, 1024
_HOLDS = (
    "CASE WHEN length(text) = length(CAST(text AS BLOB))"
    " THEN instr(lower(text), :word) > 0 ELSE holds(text, :word) END"
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one call looks at, at most: bytes of text, and how long in seconds; and from how many
    characters on it gives no more. (As JSON, one may take six bytes.)"""

    text_bytes: int = 32 << 20
    seconds: float = 1.0
    chars: int = 512 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """Lines of a log: its key, and the numbers of the first and the last of them.

    ``of_function``: it is the log of a function, whose numbers are its own.
    """

    key: int
    first: int
    last: int
    of_function: bool = False

    @property
    def within(self) -> str:
        """In SQL, which lines they are, by ``:key``, ``:first`` and ``:last``."""
        key = "function" if self.of_function else "source"
        return f"{key} = :key AND {self.number} BETWEEN :first AND :last"

    @property
    def number(self) -> str:
        """The column with their numbers."""
        return "number" if self.of_function else "seq"

    def place(self, line: Line) -> int:
        """Return the number that a line has in this log."""
        return line.number if self.of_function else line.seq


@dataclass(frozen=True, slots=True)
class Found:
    """Lines that were found, and the part of the span that was not looked at, if it was bounded."""

    lines: list[Line]
    rest: Span | None = None


def allow(connection: sqlite3.Connection) -> None:
    """Make a connection one that ``find`` can use."""
    connection.create_function("holds", 2, _holds, deterministic=True)


def fold(text: str) -> str:
    """Return ``text`` without case, as Unicode has it; İ, the capital of the Turkish i, is i."""
    return text.casefold().replace("i\u0307", "i")


def find(
    connection: sqlite3.Connection,
    span: Span,
    word: str,
    most: int,
    *,
    newest: bool,
    bounds: Bounds,
) -> Found:
    """Return up to ``most`` lines of a span that hold ``word``, the newest first if so asked."""
    ends = time.monotonic() + bounds.seconds
    lines: list[Line] = []
    looked = 0
    chars = 0
    for piece, size in _pieces(connection, span, newest=newest):
        began = time.monotonic()
        found = _in_piece(connection, piece, fold(word), most - len(lines), newest=newest)
        lines += found
        if len(lines) == most:
            break
        looked += size
        chars += sum(len(line.text) for line in found)
        over = looked >= bounds.text_bytes or chars >= bounds.chars
        if over or time.monotonic() >= ends:
            edge = piece.first if newest else piece.last
            return Found(lines, behind(span, edge, newest=newest))
        time.sleep(time.monotonic() - began)
    return Found(lines)


def rows(
    connection: sqlite3.Connection,
    span: Span,
    most: int,
    *,
    newest: bool,
    chars: int = 1 << 62,
    condition: str = "",
    **values: object,
) -> list[Line]:
    """Return up to ``most`` lines of a span, of those that meet a condition in SQL; and none after
    one with which they have ``chars`` characters."""
    whose = "(SELECT name FROM sources WHERE id = source)" if span.of_function else "''"
    sql = (
        f"SELECT seq, at_ms, stderr, text, coalesce(number, 0), {whose} FROM lines"  # noqa: S608
        f" WHERE {span.within} {condition}"
        f" ORDER BY {span.number} {'DESC' if newest else 'ASC'} LIMIT :most"
    )
    named = {"key": span.key, "first": span.first, "last": span.last, "most": most, **values}
    lines: list[Line] = []
    with closing(connection.execute(sql, named)) as found:
        for seq, at, err, text, number, whose in found:
            stream = "stderr" if err else "stdout"
            lines.append(Line(seq, at, stream, text, number, Source(whose).vm_id))
            chars -= len(text)
            if chars <= 0:
                break
    return lines


def _pieces(
    connection: sqlite3.Connection, span: Span, *, newest: bool
) -> Iterator[tuple[Span, int]]:
    """Yield a span piece by piece, with the bytes in each."""
    sql = (
        "SELECT min(place), max(place), total(size), count(*) FROM"  # noqa: S608
        f" (SELECT {span.number} AS place, length(CAST(text AS BLOB)) AS size FROM lines"
        f" WHERE {span.within}"
        f" ORDER BY {span.number} {'DESC' if newest else 'ASC'} LIMIT :count)"
    )
    count = PIECE_LINES_FIRST
    while True:
        named = {"key": span.key, "first": span.first, "last": span.last, "count": count}
        row = connection.execute(sql, named).fetchone()
        if not row[3]:
            return
        piece, size = replace(span, first=int(row[0]), last=int(row[1])), int(row[2])
        yield piece, size
        fitting = PIECE_BYTES * int(row[3]) // max(size, 1)
        count = max(PIECE_LINES_MIN, min(fitting, PIECE_LINES_MAX))
        span = behind(span, piece.first if newest else piece.last, newest=newest)


def _in_piece(
    connection: sqlite3.Connection, piece: Span, word: str, most: int, *, newest: bool
) -> list[Line]:
    return rows(connection, piece, most, newest=newest, condition=f"AND {_HOLDS}", word=word)


def behind(span: Span, seq: int, *, newest: bool) -> Span:
    """Return what of a span comes after line ``seq``."""
    return replace(span, last=seq - 1) if newest else replace(span, first=seq + 1)


def _holds(text: str, folded: str) -> bool:
    return folded in fold(text)
