"""Pages of a list, newest first: by when a thing was made, then by its id.

A page goes on behind a place and not at a number, so that what is made or goes in between
neither repeats nor hides anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

from sqlalchemy import Select, tuple_
from sqlalchemy.sql.elements import SQLCoreOperations

PAGE = 100
Columns = TypeVarTuple("Columns")
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a list: behind what was made at this time with this id."""

    created_ms: int
    id: str


def newest_first(
    query: Select[*Columns],
    created_ms: SQLCoreOperations[int],
    key: SQLCoreOperations[str],
    after: Place | None,
) -> Select[*Columns]:
    """Return ``query`` for the page that is behind ``after``, and one row more."""
    if after is not None:
        query = query.where(tuple_(created_ms, key) < (after.created_ms, after.id))
    return query.order_by(created_ms.desc(), key.desc()).limit(PAGE + 1)


def cut(rows: list[Row], place_of: Callable[[Row], Place]) -> tuple[list[Row], Place | None]:
    """Return the rows of a page, at most 100, and the place where the next page goes on."""
    if len(rows) <= PAGE:
        return rows, None
    return rows[:PAGE], place_of(rows[PAGE - 1])
