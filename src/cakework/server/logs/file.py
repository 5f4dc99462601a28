"""The log file: lines keyed (source, seq), and the number of each source's last one.

A source's line numbers and times both never fall, so order by time is order by number, and a
page is a range of one key. A time earlier than its predecessor's (a clock set back) is raised
to it when stored.

Lines of a function's VMs are keyed (function, number), too, in the order in which they came, so a
page of its log is a range of one key, however many VMs it had. ``came_ms`` is a time that never
falls in that order. A function is a source without lines of its own; it keeps the number of its
last one.
"""

import sqlite3
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cakework.domain.facts import AnyLine
from cakework.server.logs import ledger
from cakework.server.logs.lines import LineQuery, Order, Page, Source, source_of
from cakework.server.logs.search import Bounds, Found, Span, allow, behind, find, rows
from cakework.server.logs.stretches import NO_STRETCHES, Begun, Stretches, notice

ANY_CALL = Bounds()
NO_FUNCTIONS: Mapping[Source, Source] = {}
LITTLE_BYTES = 256 * 1024
"""So much of an account is kept on a disk that is nearly full, so that nobody is left without."""
_INCREMENTAL = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    account TEXT,
    first_ms INTEGER,
    notice INTEGER NOT NULL DEFAULT 0,
    function INTEGER,
    left_out INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS sources_by_age ON sources (account, first_ms) WHERE first_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lines (
    source INTEGER NOT NULL REFERENCES sources (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL CHECK (seq > 0),
    at_ms INTEGER NOT NULL,
    stderr INTEGER NOT NULL CHECK (stderr IN (0, 1)),
    text TEXT NOT NULL,
    function INTEGER,
    number INTEGER,
    came_ms INTEGER,
    PRIMARY KEY (source, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS lines_of_functions ON lines (function, number)
    WHERE function IS NOT NULL;
DROP TABLE IF EXISTS cursors;
"""
_WITHOUT_LEDGER = "SELECT count(*) = 4 FROM pragma_table_info('sources')"
_ADD_LEDGER = (
    "ALTER TABLE sources ADD COLUMN account TEXT",
    "ALTER TABLE sources ADD COLUMN first_ms INTEGER",
    "ALTER TABLE sources ADD COLUMN notice INTEGER NOT NULL DEFAULT 0",
    "UPDATE sources SET first_ms ="
    " (SELECT at_ms FROM lines WHERE source = sources.id ORDER BY seq LIMIT 1)",
)
_WITHOUT_FUNCTIONS = "SELECT count(*) = 5 FROM pragma_table_info('lines')"
_ADD_FUNCTIONS = (
    "ALTER TABLE sources ADD COLUMN function INTEGER",
    "ALTER TABLE sources ADD COLUMN left_out INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE lines ADD COLUMN function INTEGER",
    "ALTER TABLE lines ADD COLUMN number INTEGER",
    "ALTER TABLE lines ADD COLUMN came_ms INTEGER",
)
TRIM_EVERY = 1000
"""Of a log of which lines were left out, those that it keeps are counted once in so many."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept: so many ``lines`` of each log, and of each account's so many ``size`` bytes.
    Unless it ``grows``, no account has more than before, or than LITTLE_BYTES."""

    lines: int
    size: int
    grows: bool = True


@dataclass(frozen=True, slots=True)
class _Log:
    key: int
    last_seq: int
    last_ms: int
    account: str
    function: int | None
    left_out: int


_Row = tuple[int, int, int, int, str]
"""Of a line: its source, seq, at_ms, stderr, text."""


class Unowned(Exception):
    """Lines of logs that are new, and of which it was not said whose they are."""

    def __init__(self, sources: Sequence[Source]) -> None:
        super().__init__(f"{len(sources)} new logs")
        self.sources = sources


def connect(path: Path) -> sqlite3.Connection:
    """Open the log file, making it when it is not there; one thread at a time may use it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    allow(connection)
    return connection


def make_tables(connection: sqlite3.Connection) -> None:
    """Create what is missing.

    A file that could not give room back until now is written anew once; where there is no room
    for that, it uses its own again.
    """
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
        connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
        with suppress(sqlite3.OperationalError):
            connection.execute("VACUUM")
    if connection.execute(_WITHOUT_LEDGER).fetchone()[0]:
        with transaction(connection):
            for statement in _ADD_LEDGER:
                connection.execute(statement)
    if connection.execute(_WITHOUT_FUNCTIONS).fetchone()[0]:
        with transaction(connection):
            for statement in _ADD_FUNCTIONS:
                connection.execute(statement)
    connection.executescript(_SCHEMA)


def append(
    connection: sqlite3.Connection,
    facts: Sequence[AnyLine],
    kept: Kept,
    accounts: Mapping[Source, str],
    functions: Mapping[Source, Source] = NO_FUNCTIONS,
    stretches: Stretches = NO_STRETCHES,
) -> set[Source]:
    """Store lines in one transaction; returns the logs that grew.

    Lines up to the number of a log's last are left out: they are there, or were. Each log keeps
    its newest lines, and so does each account, and each stretch its oldest. ``accounts`` says whose
    logs are that are new, and ``functions`` which function's log they are part of, if of one.

    Raises:
        Unowned: it does not say so of all; nothing is stored.
    """
    with transaction(connection):
        return _append_each(connection, facts, kept, _Whose(accounts, functions), stretches)


@dataclass(frozen=True, slots=True)
class _Whose:
    accounts: Mapping[Source, str]
    functions: Mapping[Source, Source]


def adopt(connection: sqlite3.Connection, accounts: Mapping[Source, str]) -> None:
    """Note whose logs are that a version without a ledger made."""
    with transaction(connection):
        ledger.adopt(connection, accounts)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """Do what is done within as a whole, or not at all."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def page(connection: sqlite3.Connection, query: LineQuery, bounds: Bounds = ANY_CALL) -> Page:
    """Return the lines that answer a query, of those that were looked at within ``bounds``."""
    # First: what comes meanwhile may not be among the lines.
    through = last_seq(connection, query.source)
    newest = query.order is Order.NEWEST_FIRST
    span = _span_of(connection, query)
    if span is None:
        return Page([], more=False, through=through)
    one_more = query.batch + 1
    if query.contains is None:
        lines = rows(connection, span, one_more, newest=newest, chars=bounds.chars)
        last = span.place(lines[-1]) if lines else 0
        whole = len(lines) > query.batch or not lines
        found = Found(lines, None if whole else behind(span, last, newest=newest))
    else:
        found = find(connection, span, query.contains, one_more, newest=newest, bounds=bounds)
    lines = found.lines[: query.batch]
    if len(found.lines) > query.batch:
        return Page(lines, more=True, through=span.place(lines[-1]))
    if found.rest is not None and rows(connection, found.rest, 1, newest=newest):
        looked_through = found.rest.last + 1 if newest else found.rest.first - 1
        return Page(lines, more=True, through=looked_through)
    return Page(lines, more=False, through=max(through, span.place(lines[-1]) if lines else 0))


def span(connection: sqlite3.Connection, source: Source) -> tuple[int, int] | None:
    """Return the times of a log's first and last line, in unix milliseconds; None when empty."""
    first = "SELECT at_ms FROM lines WHERE source = s.id ORDER BY seq LIMIT 1"
    if source.of_function:
        first = "SELECT came_ms FROM lines WHERE function = s.id ORDER BY number LIMIT 1"
    row = connection.execute(
        f"SELECT ({first}), last_ms FROM sources AS s WHERE name = ?",  # noqa: S608
        (source.name,),
    ).fetchone()
    return (int(row[0]), int(row[1])) if row and row[0] is not None else None


def last_seq(connection: sqlite3.Connection, source: Source) -> int:
    """Return the number of a log's last line, kept or not; 0 when it had none."""
    query = "SELECT last_seq FROM sources WHERE name = ?"
    row = connection.execute(query, (source.name,)).fetchone()
    return int(row[0]) if row else 0


def _span_of(connection: sqlite3.Connection, query: LineQuery) -> Span | None:
    """Return the lines among which a query's are; None for a log that has none."""
    row = connection.execute(
        "SELECT id, last_seq FROM sources WHERE name = ?", (query.source.name,)
    ).fetchone()
    if row is None:
        return None
    every = Span(int(row[0]), 1, int(row[1]), query.source.of_function)
    first = every.first if query.first is None else max(every.first, query.first)
    last = every.last if query.last is None else min(every.last, query.last)
    if query.after is not None and query.order is Order.NEWEST_FIRST:
        last = min(last, query.after - 1)
    elif query.after is not None:
        first = max(first, query.after + 1)
    if query.from_ms is not None:
        first = max(first, _first_at(connection, every, query.from_ms))
    if query.to_ms is not None:
        last = min(last, _first_at(connection, every, query.to_ms + 1) - 1)
    return replace(every, first=first, last=last)


def _first_at(connection: sqlite3.Connection, every: Span, at_ms: int) -> int:
    """Return a number that all lines of ``at_ms`` or later reach, and no earlier ones do.

    Times never fall within a log, so halving finds it without looking at every line.
    """
    time = "came_ms" if every.of_function else "at_ms"
    sql = (
        f"SELECT {every.number}, {time} FROM lines WHERE {every.within}"  # noqa: S608
        f" ORDER BY {every.number} LIMIT 1"
    )
    before, behind = 0, every.last + 1
    while behind - before > 1:
        middle = (before + behind) // 2
        named = {"key": every.key, "first": middle, "last": every.last}
        row = connection.execute(sql, named).fetchone()
        if row is None or row[1] >= at_ms:
            behind = middle
        else:
            before = int(row[0])
    return behind


def _append_each(
    connection: sqlite3.Connection,
    facts: Iterable[AnyLine],
    kept: Kept,
    whose: _Whose,
    stretches: Stretches,
) -> set[Source]:
    by_source: dict[Source, list[tuple[int, AnyLine]]] = {}
    for place, fact in enumerate(facts):
        by_source.setdefault(source_of(fact), []).append((place, fact))
    logs = {source: _find(connection, source) for source in by_source}
    if unowned := [s for s, log in logs.items() if not log and s not in whose.accounts]:
        raise Unowned(unowned)
    grown: set[Source] = set()
    sizes: Counter[str] = Counter()
    new: dict[int | None, list[tuple[int, _Row]]] = {}
    extended: list[tuple[_Log, int]] = []
    for source, lines in by_source.items():
        log = logs[source] or _begin(connection, source, whose)
        rows, now = _taken(log, lines, stretches.of(source))
        if now is None:
            continue
        grown.add(source)
        extended.append((now, log.last_seq))
        of_function = log.function is not None
        sizes[log.account] += sum(
            ledger.size_of(text, of_function=of_function) for _, (*_, text) in rows
        )
        new.setdefault(log.function, []).extend(rows)
    for function, rows in new.items():
        grown |= _insert(connection, function, rows)
    for log, before in extended:
        sizes[log.account] -= _trim(connection, log, before, kept.lines)
    for account, size in sizes.items():
        total = ledger.charge(connection, account, size)
        most = kept.size if kept.grows else min(kept.size, max(total - size, LITTLE_BYTES))
        if total > most:
            ledger.drop_oldest(connection, account, most)
    return grown


def _find(connection: sqlite3.Connection, source: Source) -> _Log | None:
    row = connection.execute(
        "SELECT id, last_seq, last_ms, account, function, left_out FROM sources WHERE name = ?",
        (source.name,),
    ).fetchone()
    if row is None:
        return None
    function = None if row[4] is None else int(row[4])
    return _Log(int(row[0]), int(row[1]), int(row[2]), str(row[3] or ""), function, int(row[5]))


def _begin(connection: sqlite3.Connection, source: Source, whose: _Whose) -> _Log:
    account = whose.accounts[source]
    function = whose.functions.get(source)
    key = None if function is None else _key_of(connection, function, account)
    row = connection.execute(
        "INSERT INTO sources (name, last_seq, last_ms, account, function) VALUES (?, 0, 0, ?, ?)"
        " RETURNING id",
        (source.name, account, key),
    ).fetchone()
    return _Log(int(row[0]), 0, 0, account, key, 0)


def _key_of(connection: sqlite3.Connection, function: Source, account: str) -> int:
    row = connection.execute(
        "INSERT INTO sources (name, last_seq, last_ms, account) VALUES (?, 0, 0, ?)"
        " ON CONFLICT (name) DO UPDATE SET name = name RETURNING id",
        (function.name, account),
    ).fetchone()
    return int(row[0])


def _taken(
    log: _Log, facts: list[tuple[int, AnyLine]], begun: Begun
) -> tuple[list[tuple[int, _Row]], _Log | None]:
    """Return the rows of those lines that are new and to be kept, with their places in what came;
    and the log as it is then, None if none was new."""
    last_seq, last_ms, left_out = log.last_seq, log.last_ms, log.left_out
    rows: list[tuple[int, _Row]] = []
    for place, fact in facts:
        if fact.seq <= last_seq:
            continue
        last_seq, last_ms = fact.seq, max(last_ms, fact.at_ms)
        over = begun.over(fact.seq)
        if over > 1:
            left_out += 1
            continue
        stderr = over == 1 or fact.stream == "stderr"
        text = notice(begun.most) if over else fact.text
        rows.append((place, (log.key, last_seq, last_ms, stderr, text)))
    if last_seq == log.last_seq:
        return rows, None
    return rows, replace(log, last_seq=last_seq, last_ms=last_ms, left_out=left_out)


def _insert(
    connection: sqlite3.Connection, function: int | None, placed: list[tuple[int, _Row]]
) -> set[Source]:
    """Store rows, those of a function numbered in the order in which they came; returns the
    function's log if it grew."""
    sql = "INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    if function is None or not placed:
        connection.executemany(sql, [(*row, None, None, None) for _, row in placed])
        return set()
    name, number, came_ms = connection.execute(
        "SELECT name, last_seq, last_ms FROM sources WHERE id = ?", (function,)
    ).fetchone()
    numbered: list[tuple[int, int, int, int, str, int, int, int]] = []
    for _, row in sorted(placed, key=lambda each: each[0]):
        number, came_ms = number + 1, max(came_ms, row[2])
        numbered.append((*row, function, number, came_ms))
    connection.executemany(sql, numbered)
    connection.execute(
        "UPDATE sources SET last_seq = ?, last_ms = ? WHERE id = ?", (number, came_ms, function)
    )
    return {Source(name)}


def _trim(connection: sqlite3.Connection, log: _Log, before: int, keep: int) -> int:
    """Note that a log has come from line ``before`` to its last, and remove what is more than it
    keeps; returns how much that counted with."""
    connection.execute(
        "UPDATE sources SET last_seq = ?, last_ms = ?, left_out = ?, first_ms = coalesce(first_ms,"
        " (SELECT at_ms FROM lines WHERE source = ?4 ORDER BY seq LIMIT 1)) WHERE id = ?4",
        (log.last_seq, log.last_ms, log.left_out, log.key),
    )
    over = log.last_seq - keep
    if log.left_out:
        if log.last_seq // TRIM_EVERY == before // TRIM_EVERY:
            return 0
        # Numbers do not say how many lines there are.
        row = connection.execute(
            "SELECT seq FROM lines WHERE source = ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
            (log.key, keep),
        ).fetchone()
        over = int(row[0]) if row else 0
    _, gone = ledger.remove_through(connection, log.key, over)
    return gone
