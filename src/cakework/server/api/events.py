"""Calls about events: emitted in the forms of CloudEvents, listed, and tried on filters."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.cloudevents import (
    BATCH_BYTES_MAX,
    BATCH_MAX,
    EVENT_BYTES_MAX,
    NOT_JSON,
    TYPE_CHARS_MAX,
    BadEvent,
    is_json_type,
    of_batch,
    of_binary,
    of_structured,
)
from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    TooLarge,
    Unauthenticated,
)
from cakework.domain.event_attributes import SUBJECT_CHARS_MAX, EventTooLarge
from cakework.domain.functions import USER_ID_PATTERN
from cakework.domain.ids import (
    ACCOUNT_ITSELF,
    EVENT_ID_PATTERN,
    FUNCTION_ID_PATTERN,
    INVOCATION_ID_PATTERN,
    TRIGGER_ID_PATTERN,
    EventId,
    UserId,
)
from cakework.domain.invocations import InvocationState
from cakework.domain.patterns import BadPattern, Pattern
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.log_parameters import Time
from cakework.server.api.paging import GivenToken, Page, place_of, token_of
from cakework.server.api.problems import BODY_ERRORS, not_valid, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import AnswerBody, RequestBody
from cakework.server.automations.event_records import EventFilter, EventRecords, KeptEvent, Led
from cakework.server.automations.events import Emitted, Events

LISTED_BYTES_MAX = 4 << 10
"""Of an event in a list: a page has a hundred."""
CLOUD_EVENT = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
JSON = "application/json"
_CLOUD_EVENTS = "application/cloudevents"
_BINARY = ("ce-specversion", "ce-type")
Json = dict[str, Any]
EventIdPath = Annotated[
    str, Path(alias="eventId", pattern=EVENT_ID_PATTERN, description="Id of the event.")
]
_TriggerId = Annotated[str, Field(pattern=TRIGGER_ID_PATTERN)]
_InvocationId = Annotated[str, Field(pattern=INVOCATION_ID_PATTERN)]
UserParameter = Annotated[str, Field(pattern=USER_ID_PATTERN)]


class EmittedEvent(AnswerBody):
    """What became of an event that was emitted."""

    id: str = Field(
        description="Under which it is kept: what getEvent takes.", pattern=EVENT_ID_PATTERN
    )
    duplicate: bool = Field(
        description="Whether one of the same `source` and `id` was there already: this one makes "
        "nothing, and the rest is told of that one."
    )
    invocations: int = Field(
        description="Invocations it has made by now; those of triggers beyond the first hundred "
        "come after."
    )


class EmittedEvents(AnswerBody):
    """What became of the events of a request."""

    events: list[EmittedEvent] = Field(description="One for each that was sent, in order.")


class EventInvocation(AnswerBody):
    """An invocation that an event has led to."""

    id: str = Field(description="Id of the invocation.", pattern=INVOCATION_ID_PATTERN)
    function_id: str = Field(description="Whose it is.", pattern=FUNCTION_ID_PATTERN)
    trigger_id: _TriggerId | SkipJsonSchema[None] = Field(default=None, description="What made it.")
    state: InvocationState = Field(description="How far it is.")


class Event(AnswerBody):
    """An event that was emitted, as long as it is kept."""

    id: str = Field(description="Id of the event, ours.", pattern=EVENT_ID_PATTERN)
    type: str = Field(description="Its type.")
    subject: str | SkipJsonSchema[None] = Field(default=None, description="Its subject.")
    user_id: str | SkipJsonSchema[None] = Field(
        default=None, description="The end user whose it is; absent: the account's own."
    )
    event: Json | SkipJsonSchema[None] = Field(
        default=None,
        description="The CloudEvent, with what it lacked filled in; in a list only up to 4 KiB.",
    )
    bytes: int = Field(description="How much room it takes of what the account may keep.")
    made: int = Field(description="Invocations it has made by now.")
    pending: bool = Field(description="Whether there are triggers that it is still to be given to.")
    depth: int = Field(
        description="How many events are before it, each of which comes of the one before."
    )
    cause_id: _InvocationId | SkipJsonSchema[None] = Field(
        default=None, description="The invocation that emitted it, by its own word."
    )
    invocations: list[EventInvocation] | SkipJsonSchema[None] = Field(
        default=None,
        description="The first hundred that it has made; not in lists. listInvocations takes "
        "`eventId`.",
    )
    created_at: str = Field(
        description="When it was taken.", json_schema_extra={"format": "date-time"}
    )


class EventPage(Page):
    """A page of events."""

    events: list[Event] = Field(description="Events, newest first.")


class MatchEvent(RequestBody):
    """What testFilter takes."""

    filter: Json = Field(
        description="A filter, as triggers have them.",
        examples=[{"data": {"total": [{"numeric": [">", 100]}]}}],
    )
    event: Json = Field(
        description="An event, or as much of one as the filter looks at.",
        examples=[{"type": "order.paid", "data": {"total": 120}}],
    )


class Match(AnswerBody):
    """Whether a filter takes an event, and why."""

    matches: bool = Field(description="Whether it takes it.")
    because: list[str] = Field(description="How each field compares, in words.")


class EventParameters(BaseModel):
    """What listEvents takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    type: str | None = Field(
        default=None, max_length=TYPE_CHARS_MAX, description="Only of this type."
    )
    subject: str | None = Field(
        default=None, max_length=SUBJECT_CHARS_MAX, description="Only with this subject."
    )
    user_id: UserParameter | None = Field(
        default=None, alias="userId", description="Only of this end user."
    )
    from_: Time | None = Field(
        default=None, alias="from", description="Only those taken at this time (ISO 8601) or later."
    )
    to: Time | None = Field(default=None, description="Only those taken before this time.")
    pagination: GivenToken = None

    def told(self) -> EventFilter:
        """Return it as the store is asked."""
        user_id = None if self.user_id is None else UserId(self.user_id)
        return EventFilter(self.type, self.subject, user_id, self.from_, self.to)


_OBJECT: Json = {"type": "object", "additionalProperties": True}
_ONE: Json = {
    **_OBJECT,
    "description": "A CloudEvent (1.0). What it lacks of `id`, `source`, `time`, `specversion` is "
    "filled in. `cakeworkuserid` says of which end user it is, `cakeworkcause` which invocation "
    "emits it.",
    "required": ["type"],
    "properties": {
        "type": {
            "type": "string",
            "minLength": 1,
            "maxLength": TYPE_CHARS_MAX,
            "description": "What happened, such as `order.paid`; not `cakework.…`.",
        }
    },
    "example": {"type": "order.paid", "subject": "order-17", "data": {"total": 120}},
}
_MANY: Json = {
    "type": "array",
    "maxItems": BATCH_MAX,
    "items": _ONE,
    "description": "CloudEvents; all of them are taken, or none.",
}
_BODY: Json = {
    "requestBody": {
        "required": True,
        "description": "One event, or up to 1,000 of them; each up to 256 KiB, all up to 4 MiB. "
        "With headers `ce-type` and its like, the body is the data of one, of any type.",
        "content": {
            CLOUD_EVENT: {"schema": _ONE},
            BATCH: {"schema": _MANY},
            JSON: {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["events"],
                    "properties": {"events": _MANY},
                }
            },
        },
    }
}


@dataclass(frozen=True, slots=True)
class EventRoutes:
    """The calls about events."""

    events: Events
    records: EventRecords

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        tags: list[str | Enum] = ["Events"]
        emitting = APIRouter(tags=tags, route_class=door.route_class(raw_bytes_max=BATCH_BYTES_MAX))
        router = APIRouter(tags=tags, route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        emitting.add_api_route(
            "/v1/events",
            self.emit,
            methods=["POST"],
            operation_id="emitEvents",
            summary="Emit events",
            status_code=202,
            openapi_extra=_BODY,
            responses=responses(*always, Conflict, *BODY_ERRORS, QuotaExceeded),
        )
        for path, call, name, summary, errors in (
            ("", self.list, "listEvents", "List events, newest first", always),
            ("/{eventId}", self.get, "getEvent", "Look at an event", (*always, NotFound)),
        ):
            router.add_api_route(
                f"/v1/events{path}",
                call,
                methods=["GET"],
                operation_id=name,
                summary=summary,
                response_model_exclude_none=True,
                responses=responses(*errors),
            )
        router.add_api_route(
            "/v1/events/match",
            self.match,
            methods=["POST"],
            operation_id="testFilter",
            summary="Try a filter on an event",
            responses=responses(*always, Conflict, *BODY_ERRORS),
        )
        emitting.routes.extend(router.routes)
        return emitting

    async def emit(
        self,
        request: Request,
        account: Account,
        token: Token,
        user_id: Annotated[
            UserParameter | None,
            Query(alias="userId", description="The end user whose they are, if they name nobody."),
        ] = None,
    ) -> EmittedEvents:
        """Emit events: all of them are taken, or none.

        Each makes an invocation for each trigger that wants it. One whose `source` and `id` were
        there in the last 24 hours makes nothing, and is told to be a duplicate.
        """
        given = await _given(request)
        owner = UserId(user_id) if user_id else ACCOUNT_ITSELF
        emitted = await self.events.emit(account, given, owner, token)
        return EmittedEvents(events=[_emitted(each) for each in emitted])

    async def list(
        self, account: Account, parameters: Annotated[EventParameters, Query()]
    ) -> EventPage:
        """List the account's events, newest first, 100 a page."""
        place = place_of(parameters.pagination)
        found, after = await self.records.page(account, parameters.told(), place, LISTED_BYTES_MAX)
        return EventPage(events=[_event(each) for each in found], pagination=token_of(after))

    async def get(self, account: Account, event_id: EventIdPath) -> Event:
        """Look at an event, and at which invocations it made."""
        found, led = await self.records.get(account, EventId(event_id))
        return _event(found, led)

    async def match(self, _account: Account, _token: Token, body: MatchEvent) -> Match:
        """Try a filter on an event, without emitting it."""
        return await asyncio.to_thread(_match, body.filter, body.event)


async def _given(request: Request) -> Sequence[Json]:
    """Return the events of a request, whichever way they are told.

    Raises:
        InvalidRequest: they are none that are taken.
        TooLarge: one of them is, or all together.
    """
    kind = request.headers.get("content-type", "")
    media = kind.partition(";")[0].strip().lower()
    body = await request.body()
    is_binary = not media.startswith(_CLOUD_EVENTS) and any(
        name in request.headers for name in _BINARY
    )
    if (is_binary or media == CLOUD_EVENT) and len(body) > EVENT_BYTES_MAX:
        raise TooLarge(f"The event is larger than the {EVENT_BYTES_MAX >> 10} KiB taken here.")
    try:
        if is_binary:
            value = await _json(request, NOT_JSON) if is_json_type(kind) and body else NOT_JSON
            headers = [
                (name.decode("latin-1"), text.decode("latin-1"))
                for name, text in request.headers.raw
            ]
            return [await asyncio.to_thread(of_binary, headers, body, value)]
        if media not in (CLOUD_EVENT, BATCH, JSON):
            raise BadEvent(f"needs the header Content-Type: {CLOUD_EVENT}, {BATCH} or {JSON}")
        value = await _json(request)
        if media == CLOUD_EVENT:
            return [await asyncio.to_thread(of_structured, value)]
        if isinstance(value, list) != (media == BATCH):
            said = "a list of events" if media == BATCH else '{"events": [...]}'
            raise BadEvent(f"must be {said} with Content-Type: {media}")
        return await asyncio.to_thread(of_batch, value)
    except EventTooLarge as error:
        raise TooLarge(f"{error.path or 'The event'} {error}.") from error
    except BadEvent as error:
        raise not_valid([FieldError(error.path or "body", str(error))]) from error


async def _json(request: Request, otherwise: object = None) -> object:
    """Return what a body says; ``otherwise``, if that is given, where it is no JSON."""
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        if otherwise is not None:
            return otherwise
        why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise BadEvent(f"is not JSON: {why}") from error


def _match(given: Json, event: Json) -> Match:
    try:
        told = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
        if len(told) > EVENT_BYTES_MAX:
            raise TooLarge(f"The event is larger than the {EVENT_BYTES_MAX >> 10} KiB taken here.")
        pattern = Pattern.compile(given)
        return Match(matches=pattern.matches(event), because=pattern.because(event))
    except BadPattern as error:
        field = f"filter.{error.path}" if error.path else "filter"
        raise not_valid([FieldError(field, str(error))]) from error
    except (RecursionError, ValueError) as error:
        raise not_valid([FieldError("event", "is nested too deeply, or no Unicode")]) from error


def _emitted(emitted: Emitted) -> EmittedEvent:
    return EmittedEvent(id=emitted.id, duplicate=emitted.duplicate, invocations=emitted.invocations)


def _event(found: KeptEvent, led: Sequence[Led] | None = None) -> Event:
    row = found.row
    return Event(
        id=row.id,
        type=row.type,
        subject=row.subject,
        user_id=row.user_id or None,
        event=None if found.event is None else json.loads(found.event),
        bytes=row.bytes,
        made=row.made,
        pending=row.after is not None,
        depth=row.depth,
        cause_id=row.cause_id,
        invocations=None if led is None else [_invocation(each) for each in led],
        created_at=rfc3339(row.created_ms),
    )


def _invocation(led: Led) -> EventInvocation:
    return EventInvocation(
        id=led.id,
        function_id=led.function_id,
        trigger_id=led.trigger_id,
        state=InvocationState(led.state),
    )
