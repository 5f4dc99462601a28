"""Pagination tokens of logs: opaque to callers, bound to one log, order and query.

A token says where the page before ended and which question it answered, so that the next
page goes on with the same question whatever else comes with it.
"""

import base64
import binascii
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cakework.domain.errors import FieldError, InvalidRequest
from cakework.server.logs.lines import QUERY_CHARS_MAX, LineQuery, Order

_MS_MAX = 253402300799999
TOKEN_CHARS_MAX = 4000


class _Token(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    s: str
    o: Order
    a: int = Field(ge=0, le=2**62)
    q: str | None = Field(None, max_length=QUERY_CHARS_MAX)
    f: int | None = Field(None, ge=0, le=_MS_MAX)
    t: int | None = Field(None, ge=0, le=_MS_MAX)


def next_token(query: LineQuery, last_seq: int) -> str:
    """Return the token for the page after the one that ended with line ``last_seq``."""
    token = _Token(
        s=query.source.name,
        o=query.order,
        a=last_seq,
        q=query.contains,
        f=query.from_ms,
        t=query.to_ms,
    )
    text = token.model_dump_json(exclude_none=True)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def resume(query: LineQuery, text: str, *, order_given: bool) -> LineQuery:
    """Return ``query`` as it goes on after the page that gave the token ``text``.

    Raises:
        InvalidRequest: the token is none of ours, or of another log, order or query.
    """
    token = _parse(text)
    if token.s != query.source.name:
        raise _refused("is of another log")
    if order_given and token.o is not query.order:
        raise _refused("was given for the other order")
    if query.contains is not None and token.q != query.contains:
        raise _refused("was given for another query")
    return replace(
        query, order=token.o, contains=token.q, from_ms=token.f, to_ms=token.t, after=token.a
    )


def _parse(text: str) -> _Token:
    try:
        padded = text + "=" * (-len(text) % 4)
        return _Token.model_validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, ValidationError) as error:
        raise _refused("is not one that was given") from error


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest("The pagination token cannot be used.", [FieldError("pagination", why)])
