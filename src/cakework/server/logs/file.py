"""The log file: lines keyed (source, seq), and the number of each source's last one.

A source's line numbers and times both never fall, so order by time is order by number, and a
page is a range of one key. A time earlier than its predecessor's (a clock set back) is raised
to it when stored.
"""

import sqlite3
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cakework.domain.facts import AnyLine
from cakework.server.logs import ledger
from cakework.server.logs.lines import LineQuery, Order, Page, Source, source_of
from cakework.server.logs.search import Bounds, Found, Span, allow, behind, find, rows

ANY_CALL = Bounds()
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
    notice INTEGER NOT NULL DEFAULT 0
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
    PRIMARY KEY (source, seq)
) STRICT, WITHOUT ROWID;
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
    connection.executescript(_SCHEMA)


def append(
    connection: sqlite3.Connection,
    facts: Sequence[AnyLine],
    kept: Kept,
    accounts: Mapping[Source, str],
) -> set[Source]:
    """Store lines in one transaction; returns the logs that grew.

    Lines up to the number of a log's last are left out: they are there, or were. Each log keeps
    its newest lines, and so does each account. ``accounts`` says whose logs are that are new.

    Raises:
        Unowned: it does not say so of all; nothing is stored.
    """
    with transaction(connection):
        return _append_each(connection, facts, kept, accounts)


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
        last = lines[-1].seq if lines else 0
        whole = len(lines) > query.batch or not lines
        found = Found(lines, None if whole else behind(span, last, newest=newest))
    else:
        found = find(connection, span, query.contains, one_more, newest=newest, bounds=bounds)
    lines = found.lines[: query.batch]
    if len(found.lines) > query.batch:
        return Page(lines, more=True, through=lines[-1].seq)
    if found.rest is not None and rows(connection, found.rest, 1, newest=newest):
        looked_through = found.rest.last + 1 if newest else found.rest.first - 1
        return Page(lines, more=True, through=looked_through)
    return Page(lines, more=False, through=max(through, lines[-1].seq if lines else 0))


def span(connection: sqlite3.Connection, source: Source) -> tuple[int, int] | None:
    """Return the times of a log's first and last line, in unix milliseconds; None when empty."""
    row = connection.execute(
        "SELECT (SELECT at_ms FROM lines WHERE source = s.id ORDER BY seq LIMIT 1), last_ms"
        " FROM sources AS s WHERE name = ?",
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
    key, first, last = int(row[0]), 1, int(row[1])
    if query.after is not None and query.order is Order.NEWEST_FIRST:
        last = min(last, query.after - 1)
    elif query.after is not None:
        first = query.after + 1
    if query.from_ms is not None:
        first = max(first, _first_at(connection, key, int(row[1]), query.from_ms))
    if query.to_ms is not None:
        last = min(last, _first_at(connection, key, int(row[1]), query.to_ms + 1) - 1)
    return Span(key, first, last)


def _first_at(connection: sqlite3.Connection, key: int, last: int, at_ms: int) -> int:
    """Return a number that all lines of ``at_ms`` or later reach, and no earlier ones do.

    Times never fall within a log, so halving finds it without looking at every line.
    """
    before, behind = 0, last + 1
    while behind - before > 1:
        middle = (before + behind) // 2
        row = connection.execute(
            "SELECT seq, at_ms FROM lines WHERE source = ? AND seq >= ? ORDER BY seq LIMIT 1",
            (key, middle),
        ).fetchone()
        if row is None or row[1] >= at_ms:
            behind = middle
        else:
            before = int(row[0])
    return behind


def _append_each(
    connection: sqlite3.Connection,
    facts: Iterable[AnyLine],
    kept: Kept,
    accounts: Mapping[Source, str],
) -> set[Source]:
    by_source: dict[Source, list[AnyLine]] = {}
    for fact in facts:
        by_source.setdefault(source_of(fact), []).append(fact)
    logs = {source: _find(connection, source) for source in by_source}
    if unowned := [source for source, log in logs.items() if not log and source not in accounts]:
        raise Unowned(unowned)
    grown: set[Source] = set()
    sizes: Counter[str] = Counter()
    for source, lines in by_source.items():
        log = logs[source] or _begin(connection, source, accounts[source])
        size = _extend(connection, log, lines, kept.lines)
        if size is not None:
            grown.add(source)
            sizes[log.account] += size
    for account, size in sizes.items():
        total = ledger.charge(connection, account, size)
        most = kept.size if kept.grows else min(kept.size, max(total - size, LITTLE_BYTES))
        if total > most:
            ledger.drop_oldest(connection, account, most)
    return grown


def _find(connection: sqlite3.Connection, source: Source) -> _Log | None:
    row = connection.execute(
        "SELECT id, last_seq, last_ms, account FROM sources WHERE name = ?", (source.name,)
    ).fetchone()
    return _Log(int(row[0]), int(row[1]), int(row[2]), str(row[3] or "")) if row else None


def _begin(connection: sqlite3.Connection, source: Source, account: str) -> _Log:
    row = connection.execute(
        "INSERT INTO sources (name, last_seq, last_ms, account) VALUES (?, 0, 0, ?) RETURNING id",
        (source.name, account),
    ).fetchone()
    return _Log(int(row[0]), 0, 0, account)


def _extend(
    connection: sqlite3.Connection, log: _Log, facts: list[AnyLine], keep: int
) -> int | None:
    """Add lines to one log and trim it; returns by how much more it counts, None if it did not
    grow."""
    last_seq, last_ms, size = log.last_seq, log.last_ms, 0
    rows: list[tuple[int, int, int, int, str]] = []
    for fact in facts:
        if fact.seq > last_seq:
            last_seq, last_ms = fact.seq, max(last_ms, fact.at_ms)
            rows.append((log.key, last_seq, last_ms, fact.stream == "stderr", fact.text))
            size += ledger.size_of(fact.text)
    if not rows:
        return None
    connection.executemany("INSERT INTO lines VALUES (?, ?, ?, ?, ?)", rows)
    connection.execute(
        "UPDATE sources SET last_seq = ?, last_ms = ?, first_ms = coalesce(first_ms, ?)"
        " WHERE id = ?",
        (last_seq, last_ms, rows[0][2], log.key),
    )
    _, gone = ledger.remove_through(connection, log.key, last_seq - keep)
    return size - gone
