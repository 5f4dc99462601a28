"""Times on the wire: RFC 3339 out. What callers write is in :mod:`cakework.domain.times`."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(at_ms: int) -> str:
    """Return unix milliseconds as RFC 3339 in UTC with milliseconds."""
    at = _EPOCH + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
