from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.domain.errors import InvalidRequest
from cakework.server.logs.lines import LineQuery, Order, build_source, vm_source
from cakework.server.logs.tokens import TOKEN_CHARS_MAX, next_token, resume

QUERY = LineQuery(vm_source("0123456789abcd"), contains="é", from_ms=5, to_ms=9)


def test_a_token_carries_the_whole_question() -> None:
    """Sent back alone, it goes on with the same order, query and range, behind the last line."""
    token = next_token(replace(QUERY, order=Order.NEWEST_FIRST), 7)
    resumed = resume(LineQuery(QUERY.source, batch=50), token, order_given=False)
    assert resumed == replace(QUERY, order=Order.NEWEST_FIRST, after=7, batch=50)


@pytest.mark.parametrize(
    "asked",
    [
        replace(QUERY, order=Order.NEWEST_FIRST),
        replace(QUERY, contains="other"),
        replace(QUERY, source=vm_source("f" * 14)),
        replace(QUERY, source=build_source("0123456789abcd")),
    ],
)
def test_a_token_is_bound_to_order_query_and_log(asked: LineQuery) -> None:
    """With another order, query or log it is refused, naming the parameter."""
    with pytest.raises(InvalidRequest) as caught:
        resume(asked, next_token(QUERY, 7), order_given=True)
    assert caught.value.fields[0].field == "pagination"


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.hex()))
def test_what_is_no_token_is_refused(text: str) -> None:
    """No text makes it fail in another way than it says."""
    with pytest.raises(InvalidRequest):
        resume(QUERY, text, order_given=True)


def test_the_longest_token_is_taken() -> None:
    """The longest query a caller may ask has a token that a caller may send back."""
    longest = replace(QUERY, contains="\U0001f370" * 500, from_ms=2**47, to_ms=2**47)
    token = next_token(longest, 2**60)
    assert len(token) <= TOKEN_CHARS_MAX
