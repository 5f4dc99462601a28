"""Values made fit for the store."""

from sqlalchemy import ColumnElement, case
from sqlalchemy.orm import InstrumentedAttribute


def storable(text: str) -> str:
    """Return ``text`` as every store can hold it: PostgreSQL has no NUL in text."""
    return text.replace("\0", "\ufffd")


def not_before(column: InstrumentedAttribute[int], now_ms: int) -> ColumnElement[int]:
    """Return ``now_ms``, or what ``column`` holds if the clock was set back behind it."""
    return case((column > now_ms, column), else_=now_ms)
