"""Events on their way in: filled with what they lack, told whose they are, and sealed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json
from ulid import ULID

from cakework.domain.cloudevents import CAUSE, USER_ID, dedupe_key, filled
from cakework.domain.errors import FieldError, InvalidRequest
from cakework.domain.ids import ACCOUNT_ITSELF, EventId, UserId, new_event_id
from cakework.server.automations.plans import Incoming
from cakework.server.store.sealing import Sealer

SOURCE = "/events"
"""Of events that name none."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """An event as it is to be kept. ``digest`` tells its source and id."""

    incoming: Incoming
    digest: str
    sealed: bytes = field(repr=False)
    now_ms: int


def arrived(
    given: Sequence[dict[str, Any]],
    depths: Mapping[str, int],
    user_id: UserId,
    token: str | None,
    sealer: Sealer,
    now_ms: int,
) -> list[Arrived]:
    """Return events as they are to be kept; of ``user_id`` are those that name nobody, and
    ``depths`` has what their causes lead to. The same ``token`` gives them the same ids.

    Raises:
        InvalidRequest: one is of another user.
    """
    return [
        _arrived(_owned(event, n, user_id), n, _id(n, token, sealer), depths, sealer, now_ms)
        for n, event in enumerate(given)
    ]


def _arrived(
    event: dict[str, Any],
    number: int,
    event_id: EventId,
    depths: Mapping[str, int],
    sealer: Sealer,
    now_ms: int,
) -> Arrived:
    whole = filled(event, event_id=event_id, source=SOURCE, now_ms=now_ms)
    told, cause = _json(whole, number), event.get(CAUSE)
    incoming = Incoming(
        event_id,
        event.get(USER_ID, ACCOUNT_ITSELF),
        whole,
        told,
        depths[cause] if cause is not None else 0,
        cause,
    )
    return Arrived(incoming, dedupe_key(whole), sealer.seal(told, f"event:{event_id}"), now_ms)


def _owned(event: dict[str, Any], number: int, user_id: UserId) -> dict[str, Any]:
    if not user_id:
        return event
    if event.get(USER_ID, user_id) != user_id:
        field = FieldError(f"events.{number}.{USER_ID}", "is another user than userId in the URL")
        raise InvalidRequest(f"The request is not valid: {field.field} {field.message}.", [field])
    return {**event, USER_ID: user_id}


def _json(event: dict[str, Any], number: int) -> bytes:
    """Return an event as JSON that every reader of ours takes."""
    told = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    try:
        from_json(told)
    except ValueError as error:
        field = FieldError(f"events.{number}.data", "is nested too deeply")
        raise InvalidRequest(
            f"The request is not valid: {field.field} {field.message}.", [field]
        ) from error
    return told


def _id(number: int, token: str | None, sealer: Sealer) -> EventId:
    if token is None:
        return new_event_id()
    drawn = sealer.draw(f"event {token} {number}")
    return EventId(f"evt_{ULID.from_bytes(drawn[:16])}")
