"""Times as people and programs write them: the ISO 8601 spellings that are taken."""

import re
from datetime import UTC, datetime, timedelta, timezone

TIME_PATTERN = (
    r"^(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:[Tt ](?P<clock>\d{2}:\d{2}(?::\d{2})?)(?:[.,](?P<fraction>\d{1,9}))?"
    r" ?(?P<zone>[Zz]|UTC|GMT|(?P<sign>[+ -])?(?P<hours>\d{2}):?(?P<minutes>\d{2}))?)?$"
)
TIME_SCHEMA_PATTERN = re.sub(r"\?P<[a-z]+>", "?:", TIME_PATTERN)
_TIME = re.compile(TIME_PATTERN, re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def parse_time(text: str) -> int:
    """Return unix milliseconds for an ISO 8601 time; without a zone it is UTC.

    A space stands for the plus sign of a zone, which is what a plus becomes in a URL when it
    is not encoded. Times before 1970 count as 1970.

    Raises:
        ValueError: it is no such time.
    """
    found = _TIME.match(text)
    if found is None:
        raise ValueError("must be an ISO 8601 time, such as 2022-07-19T13:32:56+0000")
    clock = found["clock"] or "00:00"
    fraction = (found["fraction"] or "").ljust(3, "0")[:3]
    try:
        at = datetime.fromisoformat(f"{found['date']}T{clock}").replace(
            microsecond=int(fraction) * 1000, tzinfo=_zone(found)
        )
        return max(0, (at - _EPOCH) // _MS)
    except (ValueError, OverflowError) as error:
        raise ValueError("must be a time that there is") from error


def _zone(found: re.Match[str]) -> timezone:
    if found["hours"] is None:
        return UTC
    offset = timedelta(hours=int(found["hours"]), minutes=int(found["minutes"]))
    return timezone(-offset if found["sign"] == "-" else offset)
