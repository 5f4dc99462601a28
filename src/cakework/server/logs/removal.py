"""Lines going from the log file, and the room they took: in steps, each of them short.

A log keeps the number of its last line, so that no number is given twice.
"""

import sqlite3

from cakework.server.logs import ledger
from cakework.server.logs.file import transaction
from cakework.server.logs.lines import Source

LOGS_A_STEP = 500
LINES_A_STEP = 5000
PAGES_A_STEP = 250


def remove_before(connection: sqlite3.Connection, before_ms: int, after: int) -> int | None:
    """Remove lines printed before ``before_ms``, log by log, from behind log number ``after``.

    Returns the number to go on behind; None when every log was seen to.
    """
    with transaction(connection):
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
    with transaction(connection):
        row = connection.execute("SELECT id FROM sources WHERE name = ?", (source.name,)).fetchone()
        if row is None:
            return True
        if _remove_oldest(connection, int(row[0]), None) >= LINES_A_STEP:
            return False
        connection.execute("DELETE FROM sources WHERE id = ?", (row[0],))
    return True


def drop_beyond(connection: sqlite3.Connection, most: int) -> bool:
    """Drop the oldest lines of an account that has more than ``most`` bytes, as appending does when
    lines come; says whether there is more to drop."""
    with transaction(connection):
        over = ledger.over(connection, most)
        return any(ledger.drop_oldest(connection, account, most) for account in over)


def give_back(connection: sqlite3.Connection) -> bool:
    """Give some of the file's free room back to the disk; says whether there is more."""
    before = _free_pages(connection)
    connection.execute(f"PRAGMA incremental_vacuum({PAGES_A_STEP})").fetchall()
    return 0 < _free_pages(connection) < before


def _remove_oldest(connection: sqlite3.Connection, key: int, before_ms: int | None) -> int:
    """Remove the first lines of a log, of before ``before_ms`` if given; returns how many.

    Times never fall within a log, so they are the first ones.
    """
    last = connection.execute(
        "SELECT max(seq) FROM"
        " (SELECT seq, at_ms FROM lines WHERE source = ?1 ORDER BY seq LIMIT ?2)"
        " WHERE ?3 IS NULL OR at_ms < ?3",
        (key, LINES_A_STEP, before_ms),
    ).fetchone()[0]
    if last is None:
        return 0
    count, size = ledger.remove_through(connection, key, int(last))
    account = connection.execute("SELECT account FROM sources WHERE id = ?", (key,)).fetchone()[0]
    ledger.charge(connection, account or "", -size)
    return count


def _free_pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])
