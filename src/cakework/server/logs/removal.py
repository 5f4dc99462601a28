"""Lines going from the log file, and the room they took: in steps, each of them short.

A log keeps the number of its last line, so that no number is given twice.
"""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager

from cakework.server.logs.lines import Source

LOGS_A_STEP = 500
LINES_A_STEP = 5000
PAGES_A_STEP = 250


def remove_before(connection: sqlite3.Connection, before_ms: int, after: int) -> int | None:
    """Remove lines printed before ``before_ms``, log by log, from behind log number ``after``.

    Returns the number to go on behind; None when every log was seen to.
    """
    with _transaction(connection):
        found = connection.execute(
            "SELECT id FROM sources WHERE id > ? ORDER BY id LIMIT ?", (after, LOGS_A_STEP)
        ).fetchall()
        left = LINES_A_STEP
        for (key,) in found:
            left -= _remove_oldest(connection, int(key), before_ms)
            if left <= 0:
                return int(key) - 1
    return int(found[-1][0]) if found else None


def remove_log(connection: sqlite3.Connection, source: Source) -> bool:
    """Remove a log from its beginning; says whether nothing is left of it."""
    with _transaction(connection):
        row = connection.execute("SELECT id FROM sources WHERE name = ?", (source.name,)).fetchone()
        if row is None:
            return True
        if _remove_oldest(connection, int(row[0]), None) >= LINES_A_STEP:
            return False
        connection.execute("DELETE FROM sources WHERE id = ?", (row[0],))
    return True


def give_back(connection: sqlite3.Connection) -> bool:
    """Give some of the file's free room back to the disk; says whether there is more."""
    before = _free_pages(connection)
    connection.execute(f"PRAGMA incremental_vacuum({PAGES_A_STEP})").fetchall()
    return 0 < _free_pages(connection) < before


def _remove_oldest(connection: sqlite3.Connection, key: int, before_ms: int | None) -> int:
    """Remove the first lines of a log, of before ``before_ms`` if given; returns how many.

    Times never fall within a log, so they are the first ones.
    """
    return connection.execute(
        "DELETE FROM lines WHERE source = ?1 AND seq <= ("
        " SELECT max(seq) FROM"
        " (SELECT seq, at_ms FROM lines WHERE source = ?1 ORDER BY seq LIMIT ?2)"
        " WHERE ?3 IS NULL OR at_ms < ?3)",
        (key, LINES_A_STEP, before_ms),
    ).rowcount


def _free_pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
