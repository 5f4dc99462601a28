"""Pagination tokens of lists: opaque to callers, a place each."""

import base64
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.errors import FieldError, InvalidRequest
from cakework.server.api.wire import AnswerBody
from cakework.server.store.pages import Place

TOKEN_CHARS_MAX = 200
_ID_CHARS_MAX = 36
GivenToken = Annotated[
    str | None,
    Field(max_length=TOKEN_CHARS_MAX, description="Token that the page before gave."),
]


class Page(AnswerBody):
    """A page of a list."""

    pagination: str | SkipJsonSchema[None] = Field(
        default=None, description="Token for the next page; absent on the last one."
    )


class _Token(BaseModel):
    model_config = ConfigDict(extra="forbid")

    c: int = Field(ge=0, le=2**62)
    i: str = Field(pattern=rf"^[0-9A-Za-z_-]{{1,{_ID_CHARS_MAX}}}$")


def token_of(place: Place | None) -> str | None:
    """Return the token for the page behind ``place``; None when there is none."""
    if place is None:
        return None
    text = _Token(c=place.created_ms, i=place.id).model_dump_json()
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def place_of(token: str | None) -> Place | None:
    """Return the place that ``token`` stands for; None when none was given.

    Raises:
        InvalidRequest: it is none of ours.
    """
    if not token:
        return None
    try:
        padded = token + "=" * (-len(token) % 4)
        found = _Token.model_validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, ValidationError) as error:
        raise InvalidRequest(
            "The pagination token cannot be used.",
            [FieldError("pagination", "is not one that was given")],
        ) from error
    return Place(found.c, found.i)
