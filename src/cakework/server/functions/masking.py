"""What programs print of secrets, made unreadable: which spellings are found, and how.

A value is looked for as it is, and as it is spelt in JSON, by Python's ``repr``, in URLs and in
base64, wherever that begins; of values of several lines each line. What is longer than WHOLE_CHARS
is looked for in pieces, so that it is found where it is wrapped or cut, too. All that has CHARS_MIN
characters at least: what is shorter is in too much else.

The work grows with the text and not with the number of spellings: these are looked up by the
beginnings that the text has in it. Nothing of a value becomes a pattern.
"""

import base64
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from urllib.parse import quote, quote_plus

MASKED = "***"
CHARS_MIN = 8
WHOLE_CHARS, PIECE_CHARS = 64, 32
EDGE_CHARS_MIN = 4
"""Of a spelling that goes over the end of a piece of a line, what each side must have of it."""
SPELLINGS_MAX = 50_000
"""More than the values have lines that one function can be given; what is over that are other
spellings of the last of them."""
FEW = 512
"""So many are looked for one after the other, which is quicker than to look them up. Where more
than that may be in a text, lines that may have one are masked as a whole."""
CHUNK_CHARS = 64 * 1024
URI_COMPONENT = "!'()*"
"""What JavaScript's encodeURIComponent leaves besides what Python's quote does."""


class Mask:
    """Finds the values of some secrets in text."""

    def __init__(self, values: Iterable[str]) -> None:
        """Look for ``values``."""
        values = list(values)
        self._has_pieces = any(len(value) > WHOLE_CHARS for value in values)
        spellings = dict.fromkeys(islice(_spellings(values), SPELLINGS_MAX))
        self._spellings = sorted(spellings, key=len, reverse=True)

    def __len__(self) -> int:
        """How many spellings it looks for."""
        return len(self._spellings)

    def text(self, text: str) -> str:
        """Return ``text`` without the values."""
        return "\n".join(self.lines(text.split("\n")))

    def lines(self, lines: Sequence[str]) -> list[str]:
        """Return lines without the values, one for one."""
        if not self._spellings:
            return list(lines)
        masked: list[str] = []
        chunk: list[str] = []
        size = 0
        for line in lines:
            chunk.append(line)
            size += len(line) + 1
            if size >= CHUNK_CHARS:
                masked += self._chunk(chunk)
                chunk, size = [], 0
        return masked + self._chunk(chunk)

    def end(self, piece: str) -> str:
        """Return a piece of a line that goes on, without what may be the beginning of a value."""
        first = max(0, len(piece) - WHOLE_CHARS + 1)
        for at in range(first, len(piece) - EDGE_CHARS_MIN + 1):
            if _any_begins(self._sorted, piece[at:]):
                return piece[:at].removesuffix(MASKED) + MASKED
        return piece

    def begin(self, piece: str) -> str:
        """Return a piece that a line goes on with, without what may be the end of a value."""
        for size in range(min(len(piece), WHOLE_CHARS - 1), EDGE_CHARS_MIN - 1, -1):
            if _any_begins(self._backwards, piece[:size][::-1]):
                return MASKED + piece[size:].removeprefix(MASKED)
        return piece

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._spellings)

    @cached_property
    def _backwards(self) -> list[str]:
        return sorted(spelling[::-1] for spelling in self._spellings)

    def _chunk(self, lines: list[str]) -> list[str]:
        text = "\n".join(lines)
        maybe = self._spellings
        if len(maybe) > FEW:
            there = {text[at : at + CHARS_MIN] for at in range(len(text) - CHARS_MIN + 1)}
            maybe = [each for each in maybe if each[:CHARS_MIN] in there]
            if len(maybe) > FEW:
                heads = {each[:CHARS_MIN] for each in maybe}
                return [MASKED if _has_any(line, heads) else line for line in lines]
        found = [each for each in maybe if each in text]
        return [self._line(line, found) for line in lines] if found else lines

    def _line(self, line: str, found: list[str]) -> str:
        masked = _masked(line, found)
        if self._has_pieces and masked != line:
            # The rest of one that is wrapped.
            masked = self.begin(self.end(masked))
        return masked


def _spellings(values: list[str]) -> Iterator[str]:
    """Yield what to look for: first what no value may be without."""
    yield from (piece for value in values for piece in _pieces(value))
    for value in values:
        lines = value.replace("\\n", "\n").split("\n")
        if len(lines) > 1:
            yield from (piece for line in lines for piece in _pieces(line.strip()))
    for value in values:
        for other in (
            json.dumps(value)[1:-1],
            json.dumps(value, ensure_ascii=False)[1:-1],
            repr(value)[1:-1],
            quote(value, safe=""),
            quote(value, safe=URI_COMPONENT),
            quote(value),
            quote_plus(value),
            *_in_base64(value.encode()),
        ):
            yield from _pieces(other)


def _pieces(text: str) -> Iterator[str]:
    if CHARS_MIN <= len(text) <= WHOLE_CHARS:
        yield text
    elif len(text) > WHOLE_CHARS:
        for at in range(0, len(text) - PIECE_CHARS + 1, PIECE_CHARS):
            yield text[at : at + PIECE_CHARS]
        yield text[-PIECE_CHARS:]


def _in_base64(value: bytes) -> Iterator[str]:
    """Yield what base64 has of a value alone, with 0, 1 and 2 bytes before it."""
    for before in range(3):
        first, last = (8 * before + 5) // 6, 8 * (before + len(value)) // 6
        spelt = base64.b64encode(bytes(before) + value).decode()[first:last]
        yield spelt
        yield spelt.replace("+", "-").replace("/", "_")


def _masked(line: str, found: list[str]) -> str:
    """Return a line without what was found, what overlaps or touches as one."""
    spans: list[tuple[int, int]] = []
    for spelling in found:
        at = line.find(spelling)
        while at >= 0:
            spans.append((at, at + len(spelling)))
            at = line.find(spelling, at + len(spelling))
    if not spans:
        return line
    parts: list[str] = []
    done = -1
    for first, last in sorted(spans):
        if first > done:
            parts += [line[max(done, 0) : first], MASKED]
        done = max(done, last)
    return "".join([*parts, line[done:]])


def _has_any(line: str, heads: set[str]) -> bool:
    return any(line[at : at + CHARS_MIN] in heads for at in range(len(line) - CHARS_MIN + 1))


def _any_begins(ordered: list[str], text: str) -> bool:
    """Whether one of ``ordered`` begins with ``text``."""
    at = bisect_left(ordered, text)
    return at < len(ordered) and ordered[at].startswith(text)
