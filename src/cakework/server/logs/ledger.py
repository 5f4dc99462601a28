"""The ledger: what the lines of each account take of the log file, kept in the file itself.

It changes in the transactions in which lines come and go, so it is right after any crash, and
nobody counts lines to know it. An account that has more than it may loses its oldest lines,
whichever of its logs they are in; in the place of the last that goes from a log a notice says so.

A line counts with what it takes of the file: its text, LINE_BYTES beside it, FUNCTION_BYTES where
it is in the log of a function, too, and PAGE_BYTES where the text is so long that SQLite puts it on
pages of its own, the last of which is not full.
(https://www.sqlite.org/fileformat2.html, "Cell payload overflow pages")
"""

import sqlite3
from collections.abc import Mapping, Sequence

from cakework.server.logs.lines import Source

LINE_BYTES = 40
FUNCTION_BYTES = 30
LONG_BYTES = 960
PAGE_BYTES = 4096
NOTICE = "[cakework: earlier lines were dropped: the account's logs take more than they may]"
PIECE_LINES = 200
"""Lines are dropped log by log in so many, the log with the oldest line first."""
LINES_A_STEP = 20_000
"""More than come at once, so that an account whose bound was lowered gets there, too."""
LOGS_A_STEP = 500
_TEXT_BYTES = "length(CAST(text AS BLOB))"
SIZE = (
    f"({_TEXT_BYTES} + {LINE_BYTES} + (lines.function IS NOT NULL) * {FUNCTION_BYTES}"
    f" + ({_TEXT_BYTES} > {LONG_BYTES}) * {PAGE_BYTES})"
)
"""In SQL, what a line counts with."""


def size_of(text: str, *, of_function: bool = False) -> int:
    """Return what a line with this text counts with, in bytes."""
    size = len(text.encode())
    beside = LINE_BYTES + (FUNCTION_BYTES if of_function else 0)
    return size + beside + (PAGE_BYTES if size > LONG_BYTES else 0)


def taken(connection: sqlite3.Connection, account: str) -> int:
    """Return what the lines of an account count with together, in bytes."""
    row = connection.execute("SELECT bytes FROM accounts WHERE name = ?", (account,)).fetchone()
    return int(row[0]) if row else 0


def charge(connection: sqlite3.Connection, account: str, size: int) -> int:
    """Count ``size`` bytes more for an account, or less; returns what it has then."""
    row = connection.execute(
        "INSERT INTO accounts (name, bytes) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET bytes = bytes + excluded.bytes RETURNING bytes",
        (account, size),
    ).fetchone()
    return int(row[0])


def remove_through(connection: sqlite3.Connection, key: int, seq: int) -> tuple[int, int]:
    """Remove the lines of a log up to number ``seq``; returns how many, and what they counted with.

    Whoever calls has the account charged with that much less.
    """
    count, size = connection.execute(
        f"SELECT count(*), coalesce(sum({SIZE}), 0) FROM lines WHERE source = ? AND seq <= ?",  # noqa: S608
        (key, seq),
    ).fetchone()
    if count:
        connection.execute("DELETE FROM lines WHERE source = ? AND seq <= ?", (key, seq))
        note_first(connection, key)
    return int(count), int(size)


def note_first(connection: sqlite3.Connection, key: int) -> None:
    """Note when the first line of a log was printed, by which it is known how old its lines are."""
    connection.execute(
        "UPDATE sources SET first_ms = (SELECT at_ms FROM lines"
        " WHERE source = ?1 AND seq > notice ORDER BY seq LIMIT 1) WHERE id = ?1",
        (key,),
    )


def drop_oldest(connection: sqlite3.Connection, account: str, most: int) -> bool:
    """Drop the oldest lines of an account that has more than ``most`` bytes, in its transaction.

    Says whether this was a step, and there is more to drop.
    """
    over = taken(connection, account) - most
    size, left = 0, LINES_A_STEP
    while size < over and left > 0:
        row = connection.execute(
            "SELECT id, notice FROM sources WHERE account = ? AND first_ms IS NOT NULL"
            " ORDER BY first_ms LIMIT 1",
            (account,),
        ).fetchone()
        if row is None:
            break
        count, dropped = _drop_piece(connection, int(row[0]), int(row[1]), over - size)
        size += dropped
        left -= count
    if size:
        charge(connection, account, -size)
    return left <= 0


def over(connection: sqlite3.Connection, most: int) -> list[str]:
    """Return the accounts that have more than ``most`` bytes."""
    query = "SELECT name FROM accounts WHERE bytes > ?"
    return [str(name) for (name,) in connection.execute(query, (most,)).fetchall()]


def unowned(connection: sqlite3.Connection) -> Sequence[Source]:
    """Return some logs that no account is noted for: those of a version that had no ledger."""
    query = "SELECT name FROM sources WHERE account IS NULL LIMIT ?"
    return [Source(name) for (name,) in connection.execute(query, (LOGS_A_STEP,)).fetchall()]


def adopt(connection: sqlite3.Connection, accounts: Mapping[Source, str]) -> None:
    """Note whose logs are that had no account, and count their lines."""
    for source, account in accounts.items():
        row = connection.execute(
            "UPDATE sources SET account = ? WHERE name = ? AND account IS NULL RETURNING id",
            (account, source.name),
        ).fetchone()
        if row is not None:
            size = connection.execute(
                f"SELECT coalesce(sum({SIZE}), 0) FROM lines WHERE source = ?",  # noqa: S608
                (row[0],),
            ).fetchone()
            charge(connection, account, int(size[0]))


def _drop_piece(
    connection: sqlite3.Connection, key: int, notice: int, enough: int
) -> tuple[int, int]:
    """Drop the first lines of a log, of ``enough`` bytes or PIECE_LINES, the last of which becomes
    a notice; returns how many, and how much less they count with."""
    rows = connection.execute(
        f"SELECT seq, {SIZE}, function FROM lines"  # noqa: S608
        " WHERE source = ? ORDER BY seq LIMIT ?",
        (key, PIECE_LINES + 1),
    ).fetchall()
    of_function = any(function is not None for _, _, function in rows)
    count, size, last = 0, -size_of(NOTICE, of_function=of_function), 0
    for seq, each, _ in rows:
        count, size, last = count + 1, size + int(each), int(seq)
        if size >= enough and last > notice:
            break
    connection.execute("DELETE FROM lines WHERE source = ? AND seq < ?", (key, last))
    connection.execute(
        "UPDATE lines SET stderr = 1, text = ? WHERE source = ? AND seq = ?", (NOTICE, key, last)
    )
    connection.execute("UPDATE sources SET notice = ? WHERE id = ?", (last, key))
    note_first(connection, key)
    return count, size
