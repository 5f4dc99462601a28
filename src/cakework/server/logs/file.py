"""The log file: lines keyed (source, seq), and how far each node's journal is stored in it.

A source's line numbers and times both never fall, so order by time is order by number, and a
page is a range of one key. A time earlier than its predecessor's (a clock set back) is raised
to it when stored.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from cakework.domain.facts import BuildLine, VmLine
from cakework.server.logs.lines import Line, LineQuery, Order, Page, Source, source_of

_INCREMENTAL = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL,
    last_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS lines (
    source INTEGER NOT NULL REFERENCES sources (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL CHECK (seq > 0),
    at_ms INTEGER NOT NULL,
    stderr INTEGER NOT NULL CHECK (stderr IN (0, 1)),
    text TEXT NOT NULL,
    PRIMARY KEY (source, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors (
    node_id TEXT PRIMARY KEY,
    cursor INTEGER NOT NULL
) STRICT;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the log file, making it when it is not there; one thread at a time may use it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.create_function("holds", 2, _holds, deterministic=True)
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
    connection.executescript(_SCHEMA)


def cursor_of(connection: sqlite3.Connection, node_id: str) -> int:
    """Return how far a node's journal is stored; 0 for a node never heard of."""
    row = connection.execute("SELECT cursor FROM cursors WHERE node_id = ?", (node_id,)).fetchone()
    return int(row[0]) if row else 0


def append(
    connection: sqlite3.Connection,
    node_id: str,
    cursor: int,
    facts: Sequence[VmLine | BuildLine],
    keep: int,
) -> set[Source]:
    """Store lines and the cursor in one transaction; returns the logs that grew.

    Lines at or below the stored cursor, and lines already there, are left out. Each log keeps
    its newest ``keep`` lines.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        stored = cursor_of(connection, node_id)
        grown = _append_each(connection, [fact for fact in facts if fact.cursor > stored], keep)
        connection.execute(
            "INSERT INTO cursors VALUES (?, ?) ON CONFLICT (node_id)"
            " DO UPDATE SET cursor = max(cursor, excluded.cursor)",
            (node_id, cursor),
        )
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return grown


def page(connection: sqlite3.Connection, query: LineQuery) -> Page:
    """Return the lines that answer a query."""
    conditions, values = ["source = (SELECT id FROM sources WHERE name = ?)"], [query.source.name]
    newest = query.order is Order.NEWEST_FIRST
    optional: list[tuple[str, object]] = [
        ("seq < ?" if newest else "seq > ?", query.after),
        ("at_ms >= ?", query.from_ms),
        ("at_ms <= ?", query.to_ms),
        ("holds(text, ?)", fold(query.contains) if query.contains else None),
    ]
    arguments: list[object] = [*values]
    for condition, value in optional:
        if value is not None:
            conditions.append(condition)
            arguments.append(value)
    sql = (
        f"SELECT seq, at_ms, stderr, text FROM lines WHERE {' AND '.join(conditions)}"  # noqa: S608
        f" ORDER BY seq {'DESC' if newest else 'ASC'} LIMIT ?"
    )
    # First: what comes meanwhile may not be among the lines.
    through = last_seq(connection, query.source)
    with closing(connection.execute(sql, [*arguments, query.batch + 1])) as rows:
        lines = [Line(seq, at, "stderr" if err else "stdout", text) for seq, at, err, text in rows]
    more, lines = len(lines) > query.batch, lines[: query.batch]
    if lines:
        through = lines[-1].seq if more else max(through, lines[-1].seq)
    return Page(lines, more, through)


def fold(text: str) -> str:
    """Return ``text`` without case, as Unicode has it; İ, the capital of the Turkish i, is i."""
    return text.casefold().replace("i\u0307", "i")


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


def _append_each(
    connection: sqlite3.Connection, facts: Iterable[VmLine | BuildLine], keep: int
) -> set[Source]:
    by_source: dict[Source, list[VmLine | BuildLine]] = {}
    for fact in facts:
        by_source.setdefault(source_of(fact), []).append(fact)
    return {
        source for source, lines in by_source.items() if _extend(connection, source, lines, keep)
    }


def _extend(
    connection: sqlite3.Connection, source: Source, facts: list[VmLine | BuildLine], keep: int
) -> bool:
    """Add lines to one log and trim it; says whether it grew."""
    row = connection.execute(
        "INSERT INTO sources (name, last_seq, last_ms) VALUES (?, 0, 0)"
        " ON CONFLICT (name) DO UPDATE SET name = name RETURNING id, last_seq, last_ms",
        (source.name,),
    ).fetchone()
    key, last_seq, last_ms = int(row[0]), int(row[1]), int(row[2])
    rows: list[tuple[int, int, int, int, str]] = []
    for fact in facts:
        if fact.seq > last_seq:
            last_seq, last_ms = fact.seq, max(last_ms, fact.at_ms)
            rows.append((key, last_seq, last_ms, fact.stream == "stderr", fact.text))
    connection.executemany("INSERT INTO lines VALUES (?, ?, ?, ?, ?)", rows)
    connection.execute(
        "UPDATE sources SET last_seq = ?, last_ms = ? WHERE id = ?", (last_seq, last_ms, key)
    )
    connection.execute("DELETE FROM lines WHERE source = ? AND seq <= ?", (key, last_seq - keep))
    return bool(rows)


def _holds(text: str, folded: str) -> bool:
    return folded in fold(text)
