"""Records as they come and go: lines of JSON, rows of CSV. Bounded, whatever a stranger sends.

Bytes are fed in pieces and records are taken out of them, each as JSON; what is wrong is told when
it is its turn, behind all that was right before it.
"""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Protocol, cast

from pydantic_core import from_json, to_json

from cakework.domain.errors import InvalidRequest

NDJSON = "application/x-ndjson"
CSV = "text/csv"
RECORD_BYTES_MAX = 1 << 20
VALUES_MAX = 50_000
"""Of a record: to read more would keep others waiting."""
COLUMNS_MAX = 1_000
COLUMN_CHARS_MAX = 255
_BOM = b"\xef\xbb\xbf"
_NEWLINE = "\r\n"
dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class BadRecord(InvalidRequest):
    """A record that cannot be read; ``number`` counts from 1, and is 0 for the names of columns."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"Record {number} {why}." if number else f"The first row {why}.")
        self.number = number


class BadResult(Exception):
    """What a handler answered cannot be written in this form."""


class Reader(Protocol):
    """Takes bytes, gives records."""

    @property
    def size(self) -> int:
        """Bytes that wait to be taken, as records."""
        ...

    @property
    def partial(self) -> int:
        """Bytes of a record that is not whole yet."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether there is something to be taken, or told."""
        ...

    def feed(self, data: bytes) -> None:
        """Take bytes; what comes behind a fault is passed over."""
        ...

    def end(self) -> None:
        """There are no more bytes."""
        ...

    def take(self, most: int, bytes_max: int) -> list[bytes]:
        """Return what there is, at most so many records; as JSON, of so many bytes together but for
        the last.

        Raises:
            BadRecord: the next cannot be read.
        """
        ...


class _Pieces(ABC):
    """Whole lines, or rows of several lines, out of bytes."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._whole: deque[bytes] = deque()
        self._fault: BadRecord | None = None
        self._why: str | None = None
        """What is wrong behind what waits."""
        self._given = 0
        self.size = 0

    @property
    def partial(self) -> int:
        """Bytes of a record that is not whole yet."""
        return len(self._kept)

    @property
    def is_ready(self) -> bool:
        """Whether there is something to be taken, or told."""
        return bool(self._whole) or self._fault is not None or self._why is not None

    def feed(self, data: bytes) -> None:
        """Take bytes; what comes behind a fault is passed over."""
        if self._fault is not None or self._why is not None:
            return
        first, *others = data.split(b"\n")
        self._kept += first
        if len(self._kept) > RECORD_BYTES_MAX:
            self._too_long()
        elif others:
            *lines, last = others
            self._lines([bytes(self._kept), *lines])
            self._kept = bytearray(last)
            if len(last) > RECORD_BYTES_MAX:
                self._too_long()

    def end(self) -> None:
        """There are no more bytes."""
        if self._kept and self._why is None:
            self._lines([bytes(self._kept)])
        self._kept.clear()

    def take(self, most: int, bytes_max: int) -> list[bytes]:
        """Return records as JSON; see :class:`Reader`."""
        taken: list[bytes] = []
        size = 0
        while self._whole and len(taken) < most and size < bytes_max:
            whole = self._whole.popleft()
            self.size -= len(whole) + 1
            if not whole or whole.isspace():
                continue
            try:
                record = self._record(whole, self._given + 1)
            except BadRecord as fault:
                self._whole.clear()
                self.size, self._fault = 0, fault
                break
            if record is not None:
                self._given += 1
                size += len(record)
                taken.append(record)
        if taken or self._whole:
            return taken
        if self._fault is not None:
            raise self._fault
        if self._why is not None:
            raise BadRecord(self._next, self._why)
        return taken

    @property
    def _next(self) -> int:
        return self._given + 1

    def _lines(self, lines: list[bytes]) -> None:
        """Take whole lines, with what they take up: a blank one, too."""
        self._whole.extend(lines)
        self.size += sum(map(len, lines)) + len(lines)

    @abstractmethod
    def _record(self, whole: bytes, number: int) -> bytes | None:
        """Return what is whole as a record of JSON; None if it is none. Raises BadRecord."""

    def _too_long(self) -> None:
        self._kept.clear()
        self._why = f"has more than the {RECORD_BYTES_MAX >> 20} MiB that are taken"


class JsonLines(_Pieces):
    """A record of JSON on each line."""

    def _record(self, whole: bytes, number: int) -> bytes:
        record = whole.strip()
        if (why := fault_of(record)) is not None:
            raise BadRecord(number, why)
        return record


class Rows(_Pieces):
    """Rows of CSV below a row with the columns' names; a quoted cell may have several lines."""

    def __init__(self) -> None:
        super().__init__()
        self._open = bytearray()
        self._columns: list[str] | None = None

    @property
    def partial(self) -> int:
        """Bytes of a row that is not whole yet."""
        return len(self._open) + len(self._kept)

    @property
    def columns(self) -> list[str]:
        """The names of the columns, empty before they have been read."""
        return self._columns or []

    def end(self) -> None:
        """There are no more bytes."""
        super().end()
        if self._open and self._why is None:
            self._why = "has a quote that is never closed"
        self._open.clear()

    @property
    def _next(self) -> int:
        return 0 if self._columns is None else self._given + 1

    def _lines(self, lines: list[bytes]) -> None:
        rows: list[bytes] = []
        for line in lines:
            # Quotes come in pairs: within a row that is whole their number is even.
            is_odd = line.count(b'"') % 2 == 1
            if not self._open and not is_odd:
                rows.append(line)
                continue
            closes = bool(self._open) and is_odd
            self._open += line if closes else line + b"\n"
            if len(self._open) > RECORD_BYTES_MAX:
                self._open.clear()
                self._too_long()
                break
            if closes:
                rows.append(bytes(self._open))
                self._open.clear()
        super()._lines(rows)

    def _record(self, whole: bytes, number: int) -> bytes | None:
        if self._columns is None:
            self._columns = _columns(_cells(whole.removeprefix(_BOM), 0))
            return None
        cells = _cells(whole, number)
        if len(cells) != len(self._columns):
            told = f"has {len(cells)} cells, and the first row {len(self._columns)}"
            raise BadRecord(number, told)
        return dumps(dict(zip(self._columns, cells, strict=True))).encode()


def _cells(row: bytes, number: int) -> list[str]:
    if row.count(b",") > VALUES_MAX:
        raise BadRecord(number, f"has more than {VALUES_MAX} commas")
    try:
        return next(csv.reader([row.removesuffix(b"\r").decode()], strict=True))
    except UnicodeDecodeError as error:
        raise BadRecord(number, "is no UTF-8") from error
    except (csv.Error, StopIteration) as error:
        raise BadRecord(number, f"is no CSV: {error}") from error


def _columns(names: list[str]) -> list[str]:
    if len(names) > COLUMNS_MAX:
        raise BadRecord(0, f"has {len(names)} columns, and {COLUMNS_MAX} are taken")
    if any(len(name) > COLUMN_CHARS_MAX for name in names):
        raise BadRecord(0, f"has a column whose name has more than {COLUMN_CHARS_MAX} characters")
    if len(set(names)) < len(names):
        raise BadRecord(0, "has two columns of one name")
    return names


def fault_of(record: bytes) -> str | None:
    """Say what is wrong with a record as JSON; None: nothing is."""
    if len(record) > RECORD_BYTES_MAX:
        return f"has more than the {RECORD_BYTES_MAX >> 20} MiB that are taken"
    is_long = len(record) > VALUES_MAX
    if is_long and len(record) - len(record.translate(None, b",:[{")) > VALUES_MAX:
        return f"has more than {VALUES_MAX} values"
    try:
        from_json(record, allow_inf_nan=False)
    except ValueError as error:
        return f"is no JSON: {error}"
    return None


class Writer(Protocol):
    """Gives bytes for results."""

    def results(self, outs: list[Any]) -> bytes:
        """Return the results of a record as they are answered. Raises BadResult."""
        ...

    def unchanged(self, record: bytes) -> bytes:
        """Return a record as it came. Raises BadResult."""
        ...

    def error(self, told: dict[str, Any]) -> bytes:
        """Return the last line of an answer that did not come to its end."""
        ...


class LinesOut:
    """A result of JSON on each line."""

    def results(self, outs: list[Any]) -> bytes:
        """Return results as they are answered."""
        try:
            return b"".join([to_json(out, inf_nan_mode="null") + b"\n" for out in outs])
        except ValueError as error:
            raise BadResult("A result is no JSON.") from error

    def unchanged(self, record: bytes) -> bytes:
        """Return a record as it came."""
        return record + b"\n"

    def error(self, told: dict[str, Any]) -> bytes:
        """Return the last line of an answer that did not come to its end."""
        return written(told) + b"\n"


class RowsOut:
    """A row for each result, below one with the names that the first result has."""

    def __init__(self) -> None:
        self._columns: list[str] | None = None

    def results(self, outs: list[Any]) -> bytes:
        """Return rows. Raises BadResult for what does not fit the columns."""
        before = self._columns
        try:
            return b"".join([self._result(out) for out in outs])
        except BadResult:
            # Where none is written of a record, none of it has named the columns.
            self._columns = before
            raise

    def _result(self, out: Any) -> bytes:
        if not isinstance(out, dict) or not out:
            raise BadResult("A result has to be an object with the row's cells.")
        cells = cast("dict[str, Any]", out)
        if self._columns is None:
            if len(cells) > COLUMNS_MAX:
                raise BadResult(f"A result has {len(cells)} cells, and {COLUMNS_MAX} are written.")
            told = [_cell(value) for value in cells.values()]
            self._columns = list(cells)
            return _row(self._columns) + _row(told)
        if others := cells.keys() - set(self._columns):
            raise BadResult(f"The first result has no column {min(others)[:COLUMN_CHARS_MAX]}.")
        return _row([_cell(cells.get(name)) for name in self._columns])

    def unchanged(self, record: bytes) -> bytes:
        """Return a record as it came, if it fits the columns. Raises BadResult."""
        return self.results([json.loads(record)])

    def error(self, told: dict[str, Any]) -> bytes:
        """Return a row of one cell, with JSON."""
        return _row([written(told).decode()])


def written(out: Any) -> bytes:
    """Return a result as JSON. Raises BadResult."""
    try:
        return to_json(out, inf_nan_mode="null")
    except ValueError as error:
        raise BadResult("A result is no JSON.") from error


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else written(value).decode()


def _row(cells: list[str]) -> bytes:
    row = io.StringIO()
    csv.writer(row, lineterminator=_NEWLINE).writerow(cells)
    try:
        return row.getvalue().encode()
    except UnicodeEncodeError as error:
        raise BadResult("A result has text that UTF-8 cannot hold.") from error
