"""The log query, as it stands in a URL."""

from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import WithJsonSchema

from cakework.domain.errors import FieldError, InvalidRequest
from cakework.domain.times import TIME_SCHEMA_PATTERN, parse_time
from cakework.server.logs.lines import (
    BATCH_DEFAULT,
    BATCH_MAX,
    BATCH_MIN,
    QUERY_CHARS_MAX,
    LineQuery,
    Order,
)
from cakework.server.logs.tokens import TOKEN_CHARS_MAX, resume


def _parse_time(value: object) -> object:
    return parse_time(value) if isinstance(value, str) else value


def _parse_digits(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdecimal()):
        raise ValueError("must be a whole number")
    return value


def _parse_truth(value: object) -> object:
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value


Time = Annotated[
    int,
    BeforeValidator(_parse_time),
    WithJsonSchema({"type": "string", "pattern": TIME_SCHEMA_PATTERN}),
]
Truth = Annotated[bool, BeforeValidator(_parse_truth)]
Count = Annotated[int, BeforeValidator(_parse_digits)]


class LogParameters(BaseModel):
    """Which lines of a log, and how."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    query: str | None = Field(
        default=None,
        max_length=QUERY_CHARS_MAX,
        description="Only lines with this in them, without regard to case.",
    )
    batch: Count = Field(
        default=BATCH_DEFAULT, ge=BATCH_MIN, le=BATCH_MAX, description="Lines to return at most."
    )
    order: Order | None = Field(
        default=None, description="Which end comes first, by timestamp; `oldest_first` if absent."
    )
    from_: Time | None = Field(
        default=None,
        alias="from",
        description="Only lines of this time (ISO 8601, UTC unless it says) or later.",
        examples=["2022-07-19T13:32:56+0000"],
    )
    to: Time | None = Field(
        default=None,
        description="Only lines of this time (ISO 8601, UTC unless it says) or earlier.",
        examples=["2022-07-19T13:32:56+0000"],
    )
    pagination: str | None = Field(
        default=None,
        max_length=TOKEN_CHARS_MAX,
        description="Token that the page before gave. It carries the whole question, so that "
        "the next page answers the same one; another `order` or `query` with it is refused.",
        # For who reads the document alone: what fits it has to fit the head of a request, too.
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]*$"},
    )
    follow: Truth = Field(
        default=False,
        description="`true` streams lines as server-sent events, as they come, until the log "
        "ends; the oldest first. `batch` and `pagination` do not apply.",
    )

    def lines_of(self, every: LineQuery) -> LineQuery:
        """Return the question these parameters ask of the log that ``every`` names.

        Raises:
            InvalidRequest: the parameters do not go together.
        """
        if self.from_ is not None and self.to is not None and self.from_ > self.to:
            raise _refused("from", "must not be later than to")
        query = replace(
            every,
            contains=self.query or None,
            order=self.order or Order.OLDEST_FIRST,
            batch=self.batch,
            from_ms=self.from_,
            to_ms=self.to,
        )
        if self.follow:
            return self._followed(query)
        if not self.pagination:
            return query
        return resume(query, self.pagination, order_given=self.order is not None)

    def _followed(self, query: LineQuery) -> LineQuery:
        if query.order is not Order.OLDEST_FIRST:
            raise _refused("order", "must be oldest_first with follow")
        if self.pagination:
            raise _refused("pagination", "does not go with follow; use Last-Event-ID")
        return query


def _refused(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(
        f"The query is not valid: {field} {message}.", [FieldError(field, message)]
    )
