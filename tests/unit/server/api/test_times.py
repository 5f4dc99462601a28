import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.domain.times import TIME_SCHEMA_PATTERN, parse_time
from cakework.server.api.times import rfc3339

AT = 1658237576000
LAST_MS = 253402300799999


@pytest.mark.parametrize(
    "text",
    [
        "2022-07-19T13:32:56+0000",
        "2022-07-19T13:32:56 0000",
        "2022-07-19T13:32:56Z",
        "2022-07-19T13:32:56.000Z",
        "2022-07-19t13:32:56z",
        "2022-07-19 13:32:56 UTC",
        "2022-07-19T13:32:56 UTC",
        "2022-07-19T13:32:56",
        "2022-07-19T15:32:56+02:00",
        "2022-07-19T15:32:56 02:00",
        "2022-07-19T08:02:56-0530",
    ],
)
def test_the_spellings_of_one_time_are_the_same(text: str) -> None:
    """With and without zone, colon, fraction, and with the plus that a URL lost."""
    assert parse_time(text) == AT
    assert re.search(TIME_SCHEMA_PATTERN, text)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2022-07-19", 1658188800000),
        ("2022-07-19 13:32", 1658237520000),
        ("2022-07-19T13:32:56.5Z", AT + 500),
        ("2022-07-19T13:32:56,123456789Z", AT + 123),
        ("1960-01-01", 0),
        ("0001-01-01T00:00+2300", 0),
    ],
)
def test_parts_may_be_left_out(text: str, at_ms: int) -> None:
    """A date alone is its midnight; digits beyond milliseconds are cut; 1970 is the earliest."""
    assert parse_time(text) == at_ms


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2022", "2022-02-30", "2022-07-19T25:00", "1658237576000", "2022-07-19Z"),
        *("2022-07-19T13:32:56+9900", "2022-07-19T13:32:60", "٢٠٢٢-07-19"),
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """No text makes it fail in another way than it says."""
    with pytest.raises(ValueError, match="must be"):
        parse_time(text)


@given(st.integers(0, LAST_MS))
def test_what_we_write_we_read(at_ms: int) -> None:
    """Our own output goes back in unchanged."""
    assert parse_time(rfc3339(at_ms)) == at_ms
