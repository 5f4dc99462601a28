"""Calls about invocations, and dead letters."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import Response as BytesResponse
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.functions import USER_ID_PATTERN
from cakework.domain.ids import (
    ACCOUNT_ITSELF,
    FUNCTION_ID_PATTERN,
    INVOCATION_ID_PATTERN,
    TRIGGER_ID_PATTERN,
    VM_ID_PATTERN,
    AccountId,
    FunctionId,
    InvocationId,
    TriggerId,
    UserId,
)
from cakework.domain.invocations import HELD_MS, InvocationState, Reason
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.functions import FunctionIdPath
from cakework.server.api.log_parameters import Time, Truth
from cakework.server.api.logs import EVENT_STREAM
from cakework.server.api.paging import GivenToken, Page, place_of, token_of
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import AnswerBody, RequestBody, Text
from cakework.server.functions.changes import Changes
from cakework.server.functions.dead_letters import DeadLetters
from cakework.server.functions.invocations import (
    DELAY_S_MAX,
    Found,
    InvocationFilter,
    Invocations,
    NewInvocation,
)
from cakework.server.services.logs import Logs
from cakework.server.store.function_models import AttemptRow, InvocationRow

WAIT_S_MAX = 50.0
INLINE_BYTES_MAX = 64 << 10
LISTED_BYTES_MAX = 4 << 10
"""Of an event and of a result in a list: a page has a hundred of each."""
IDS_MAX = 1_000
PER_SECOND_MAX = 1_000
InvocationIdPath = Annotated[
    str,
    Path(alias="invocationId", pattern=INVOCATION_ID_PATTERN, description="Id of the invocation."),
]
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="With `follow=true`: go on behind the event with this id.",
        pattern=r"^[0-9]{1,18}$",
    ),
]


class InvokeFunction(RequestBody):
    """What invokeFunction takes: an event, or what is to be the data of one; or neither."""

    mode: Literal["sync", "async"] = Field(
        default="sync",
        description="`sync` waits for the end, and tries once; `async` answers when it is taken, "
        "with 202.",
    )
    event: dict[str, Any] | None = Field(
        default=None,
        description="A CloudEvent; what it lacks of id, source, type, time is filled in.",
        examples=[{"type": "order.paid", "data": {"total": 12.5}}],
    )
    data: Any = Field(
        default=None,
        description="The data of an event that is made around it.",
        examples=[{"total": 12.5}],
    )
    user_id: Annotated[Text, Field(pattern=USER_ID_PATTERN)] | None = Field(
        default=None, description="The end user for whom it is."
    )
    version: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Number of a version to run on, in all attempts; what is live if absent.",
    )
    delay: float = Field(
        default=0, ge=0, le=DELAY_S_MAX, description="Seconds until it may start; for `async`."
    )
    ttl: float | None = Field(
        default=None, gt=0, le=DELAY_S_MAX, description="Seconds after which it must not start."
    )
    wait: float = Field(
        default=WAIT_S_MAX,
        ge=0,
        le=WAIT_S_MAX,
        description="Seconds that `sync` waits for its end; getInvocation waits on.",
    )


class ReplayInvocation(RequestBody):
    """What replayInvocation takes."""

    version: Literal["live", "original"] | Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(
        default="live", description="The version to run: live, original, or a number."
    )
    event: dict[str, Any] | None = Field(
        default=None, description="Another event; the same if absent."
    )


class DeadLetterFilter(RequestBody):
    """Which dead letters; what is absent takes all."""

    function_id: Annotated[str, Field(pattern=FUNCTION_ID_PATTERN)] | None = Field(
        default=None, description="Only of this function."
    )
    user_id: Annotated[Text, Field(pattern=USER_ID_PATTERN)] | None = Field(
        default=None, description="Only for this end user."
    )
    trigger_id: Annotated[str, Field(pattern=TRIGGER_ID_PATTERN)] | None = Field(
        default=None, description="Only those that this trigger made."
    )
    reason: Annotated[Reason, Field(strict=False)] | None = Field(
        default=None, description="Only those that ended so."
    )
    from_: Time | None = Field(
        default=None, alias="from", description="Only those taken at this time (ISO 8601) or later."
    )
    to: Time | None = Field(default=None, description="Only those taken before this time.")

    def told(self) -> InvocationFilter:
        """Return it as the store is asked."""
        return InvocationFilter(
            function_id=FunctionId(self.function_id) if self.function_id else None,
            user_id=UserId(self.user_id) if self.user_id else None,
            reason=self.reason,
            from_ms=self.from_,
            to_ms=self.to,
            trigger_id=TriggerId(self.trigger_id) if self.trigger_id else None,
        )


class DiscardDeadLetters(RequestBody):
    """Which dead letters: `ids`, or a `filter`; one of the two."""

    ids: list[Annotated[Text, Field(pattern=INVOCATION_ID_PATTERN)]] | None = Field(
        default=None, min_length=1, max_length=IDS_MAX, description="Ids of dead letters."
    )
    filter: DeadLetterFilter | None = Field(
        default=None, description="Those that it fits; all of them if it is empty."
    )

    @model_validator(mode="after")
    def _check_one(self) -> "DiscardDeadLetters":
        if (self.ids is None) == (self.filter is None):
            raise ValueError("needs one of ids and filter")
        return self

    def which(self) -> InvocationFilter | list[InvocationId]:
        """Return which are meant."""
        if self.filter is not None:
            return self.filter.told()
        return [InvocationId(each) for each in self.ids or ()]


class ReplayDeadLetters(DiscardDeadLetters):
    """Which dead letters, `ids` or a `filter`, and how fast."""

    per_second: float | None = Field(
        default=None,
        gt=0,
        le=PER_SECOND_MAX,
        description="So many of them a second; as fast as may be if absent.",
    )


class Matched(AnswerBody):
    """How many there were."""

    matched: int = Field(description="How many dead letters were meant.")


class InvocationError(AnswerBody):
    """What an attempt raised."""

    type: str = Field(description="Name of its class.")
    message: str = Field(description="What it says.")
    stack: str | SkipJsonSchema[None] = Field(
        default=None, description="Where it was raised, in the function's own code."
    )
    retriable: bool = Field(description="Whether another attempt may follow.")
    retry_after: float | SkipJsonSchema[None] = Field(
        default=None, description="Seconds that it asked to wait before the next."
    )


class Attempt(AnswerBody):
    """One run of the handler."""

    attempt: int = Field(description="Its number, from 1.")
    version: int = Field(description="What it ran on.")
    vm_id: str = Field(description="The instance: id of a VM.", pattern=VM_ID_PATTERN)
    start: Literal["warm", "fork", "restore", "cold"] = Field(
        description="What the instance began with: `warm`, it was there and had served before."
    )
    started_at: str = Field(description="When it began.", json_schema_extra={"format": "date-time"})
    ended_at: str | SkipJsonSchema[None] = Field(
        default=None, description="When it ended.", json_schema_extra={"format": "date-time"}
    )
    outcome: str | SkipJsonSchema[None] = Field(
        default=None, description="`succeeded`, or a reason; absent while it goes on."
    )
    duration_ms: int | SkipJsonSchema[None] = Field(
        default=None, description="How long the handler took, where it answered."
    )


class Cause(AnswerBody):
    """What an invocation was made by."""

    invocation_id: str | SkipJsonSchema[None] = Field(
        default=None, description="The invocation that made it."
    )
    event_id: str | SkipJsonSchema[None] = Field(
        default=None, description="The event that made it."
    )


class Invocation(AnswerBody):
    """An invocation: one piece of work, and what became of it."""

    id: str = Field(description="Id of the invocation.", pattern=INVOCATION_ID_PATTERN)
    function_id: str = Field(description="The function.", pattern=FUNCTION_ID_PATTERN)
    user_id: str | SkipJsonSchema[None] = Field(
        default=None, description="The end user for whom it is."
    )
    version: int | SkipJsonSchema[None] = Field(
        default=None, description="What its last attempt ran on; absent before the first."
    )
    trigger: str = Field(
        description="What made it: `api`, `http`, `cron`, `event`, `webhook`, `lifecycle`, "
        "`failure`, `replay` or `test`."
    )
    trigger_id: str | SkipJsonSchema[None] = Field(
        default=None, description="The trigger that made it."
    )
    scheduled_at: str | SkipJsonSchema[None] = Field(
        default=None,
        description="When its schedule came round.",
        json_schema_extra={"format": "date-time"},
    )
    kind: Literal["direct", "queued"] = Field(
        description="direct: a request to the function's URL; queued: all else."
    )
    state: InvocationState = Field(
        description="queued; running; waiting, for its next attempt; or how it ended, for good."
    )
    reason: Reason | SkipJsonSchema[None] = Field(
        default=None, description="Why it ended so; absent when it succeeded, and before."
    )
    attempt: int = Field(description="Number of the last attempt; 0 before the first.")
    max_attempts: int | SkipJsonSchema[None] = Field(
        default=None, description="How many there may be; absent when its function is deleted."
    )
    next_attempt_at: str | SkipJsonSchema[None] = Field(
        default=None,
        description="When the next attempt is due.",
        json_schema_extra={"format": "date-time"},
    )
    event: dict[str, Any] | SkipJsonSchema[None] = Field(
        default=None,
        description="Its event, up to 64 KiB, in lists up to 4 KiB; getInvocationEvent has any.",
    )
    result: Any = Field(
        default=None,
        description="What the handler answered, if that is JSON and has up to 64 KiB, in lists up "
        "to 4 KiB; getInvocationResult has any.",
    )
    error: InvocationError | SkipJsonSchema[None] = Field(
        default=None, description="What the last attempt raised."
    )
    attempts: list[Attempt] = Field(description="Its attempts, the first one first.")
    queued_ms: int | SkipJsonSchema[None] = Field(
        default=None, description="From when it was taken until its first attempt began."
    )
    duration_ms: int | SkipJsonSchema[None] = Field(
        default=None, description="How long the handler took in its last attempt that answered."
    )
    replay_of: str | SkipJsonSchema[None] = Field(
        default=None, description="The invocation that it repeats."
    )
    cause: Cause | SkipJsonSchema[None] = Field(
        default=None, description="What it was made by, if not by a caller."
    )
    depth: int = Field(description="How many invocations led to it.")
    created_at: str = Field(
        description="When it was taken.", json_schema_extra={"format": "date-time"}
    )
    updated_at: str = Field(
        description="When it last changed.", json_schema_extra={"format": "date-time"}
    )


class InvocationPage(Page):
    """A page of the list of invocations."""

    invocations: list[Invocation] = Field(description="Invocations, newest first, at most 100.")


class DeadLetterParameters(BaseModel):
    """What listDeadLetters takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    function_id: str | None = Field(
        default=None, alias="functionId", description="Only of this function."
    )
    user_id: str | None = Field(default=None, alias="userId", description="Only for this end user.")
    trigger_id: str | None = Field(
        default=None, alias="triggerId", description="Only those that this trigger made."
    )
    event_id: str | None = Field(
        default=None, alias="eventId", description="Only those that this event made."
    )
    reason: Reason | None = Field(default=None, description="Only those that ended so.")
    from_: Time | None = Field(
        default=None,
        alias="from",
        description="Only those taken at this time (ISO 8601, UTC unless it says) or later.",
        examples=["2026-07-19T13:32:56Z"],
    )
    to: Time | None = Field(
        default=None,
        description="Only those taken before this time (ISO 8601, UTC unless it says).",
        examples=["2026-07-19T13:32:56Z"],
    )
    pagination: GivenToken = None

    def told(self, *, state: InvocationState | None = None, dead: bool = False) -> InvocationFilter:
        """Return it as the store is asked."""
        return InvocationFilter(
            FunctionId(self.function_id) if self.function_id is not None else None,
            UserId(self.user_id) if self.user_id is not None else None,
            state,
            dead,
            self.reason,
            self.from_,
            self.to,
            TriggerId(self.trigger_id) if self.trigger_id is not None else None,
            self.event_id,
        )


class InvocationParameters(DeadLetterParameters):
    """What listInvocations takes."""

    state: InvocationState | None = Field(default=None, description="Only in this state.")
    follow: Truth = Field(
        default=False,
        description="`true` streams invocations as server-sent events, each time one changes, from "
        "now on. `pagination` does not apply.",
    )


_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One event: an invocation that has changed.",
    "properties": {
        "id": {"type": "string", "description": "What `Last-Event-ID` takes."},
        "data": {"description": "The invocation as JSON, as in a list."},
    },
}
_LISTED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": InvocationPage,
        "description": "A page of the list; or, with `follow=true`, server-sent events: each is an "
        "invocation as JSON, as it is after it changed. Comments are heartbeats. With "
        "`Last-Event-ID` it goes on there, and may give the last ones again.",
        "content": {EVENT_STREAM: {"schema": _EVENT}},
    }
}
_TAKEN: dict[int | str, dict[str, Any]] = {
    202: {"model": Invocation, "description": "It is taken, and will be done: `mode: async`."}
}
_ASKED: dict[int | str, dict[str, Any]] = {
    202: {"model": Matched, "description": "It is on record, and will be done."}
}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What the handler answered, with the content type that it gave.",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@dataclass(frozen=True, slots=True)
class InvocationRoutes:
    """The calls about invocations. ``logs`` counts who follows."""

    invocations: Invocations
    dead_letters: DeadLetters
    changes: Changes
    logs: Logs

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Invocations"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        looked = (*always, NotFound)
        posted = (*looked, Conflict, *BODY_ERRORS)
        one, dead = "/v1/invocations/{invocationId}", "/v1/dead-letters"

        def add(
            method: str,
            path: str,
            call: Any,
            name: str,
            summary: str,
            errors: tuple[type[CakeworkError], ...],
            more: dict[int | str, dict[str, Any]] | None = None,
            **options: Any,
        ) -> None:
            router.add_api_route(
                path,
                call,
                methods=[method],
                operation_id=name,
                summary=summary,
                response_model_exclude_none=True,
                responses={**responses(*errors), **(more or {})},
                **options,
            )

        add(
            *("POST", "/v1/functions/{functionId}/invoke", self.invoke, "invokeFunction"),
            *("Invoke a function", (*posted, QuotaExceeded), _TAKEN),
        )
        add(
            *("GET", "/v1/invocations", self.list, "listInvocations"),
            *("List invocations, newest first, or follow them", (*always, QuotaExceeded), _LISTED),
            response_model=InvocationPage,
        )
        add("GET", one, self.get, "getInvocation", "Look at an invocation, or wait for it", looked)
        add(
            *("GET", f"{one}/event", self.event, "getInvocationEvent"),
            *("Get the event of an invocation, however large", looked),
        )
        add(
            *("GET", f"{one}/result", self.result, "getInvocationResult"),
            *("Get what an invocation answered, as it is", looked, _BYTES),
            response_class=BytesResponse,
        )
        add(
            *("POST", f"{one}/cancel", self.cancel, "cancelInvocation"),
            *("Give an invocation up; one that has ended stays as it is", posted),
        )
        add(
            *("POST", f"{one}/replay", self.replay, "replayInvocation"),
            *("Do an invocation again, as a new one", (*posted, QuotaExceeded)),
        )
        add(
            *("GET", dead, self.dead, "listDeadLetters"),
            *("List what failed for good, newest first", always),
        )
        add(
            *("POST", f"{dead}/replay", self.replay_dead, "replayDeadLetters"),
            *("Do what failed for good again", posted, _ASKED),
            status_code=202,
        )
        add(
            *("POST", f"{dead}/discard", self.discard_dead, "discardDeadLetters"),
            *("Take what failed for good off the list", posted, _ASKED),
            status_code=202,
        )
        return router

    async def invoke(
        self,
        account: Account,
        token: Token,
        function_id: FunctionIdPath,
        body: InvokeFunction,
        response: Response,
    ) -> Invocation:
        """Invoke a function: wait for the end, or only until it is taken.

        A handler that failed is an answer: 200, with `state: failed`. What has not ended in time is
        answered as it is then, and goes on.
        """
        sync = body.mode == "sync"
        if sync and body.delay:
            raise _refused("delay", "is for `mode: async`: nobody waits for it")
        if body.event is not None and "data" in body.model_fields_set:
            raise _refused("data", "does not go with event, which has its own")
        event = body.event
        if event is None:
            event = {"data": body.data} if "data" in body.model_fields_set else {}
        new = NewInvocation(
            event,
            UserId(body.user_id) if body.user_id else ACCOUNT_ITSELF,
            version=body.version,
            delay_s=body.delay,
            ttl_s=body.ttl,
            max_attempts=1 if sync else None,
        )
        if sync:
            function = FunctionId(function_id)
            found = await self.invocations.call(account, function, new, token, body.wait)
            return invocation_answer(found.up_to(INLINE_BYTES_MAX))
        row = await self.invocations.take(account, FunctionId(function_id), new, token)
        response.status_code = 202
        return await self._answer(row)

    async def list(
        self,
        account: Account,
        parameters: Annotated[InvocationParameters, Query()],
        last_event_id: LastEventId = None,
    ) -> InvocationPage | Response:
        """List the account's invocations, newest first, 100 a page; or follow them."""
        wanted = parameters.told(state=parameters.state)
        if not parameters.follow:
            return await self._page(account, wanted, parameters.pagination)
        if parameters.pagination:
            raise _refused("pagination", "does not go with follow; use Last-Event-ID")
        self.logs.check_followed(account)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        after_ms = int(last_event_id) if last_event_id else None
        events = self._events(account, wanted, after_ms)
        return StreamingResponse(events, headers=headers, media_type=EVENT_STREAM)

    async def get(
        self,
        account: Account,
        invocation_id: InvocationIdPath,
        wait: Annotated[
            float, Query(ge=0, le=WAIT_S_MAX, description="Seconds to wait for its end.")
        ] = 0.0,
    ) -> Invocation:
        """Look at an invocation, when it has ended or after ``wait`` seconds."""
        row = await self.invocations.wait(account, InvocationId(invocation_id), wait)
        return await self._answer(row)

    async def event(self, account: Account, invocation_id: InvocationIdPath) -> dict[str, Any]:
        """Get the event that an invocation was made with, whole."""
        return json.loads((await self._found(account, invocation_id)).event or b"{}")

    async def result(self, account: Account, invocation_id: InvocationIdPath) -> BytesResponse:
        """Get the bytes that a handler answered with."""
        found = await self._found(account, invocation_id)
        if found.result is None:
            raise NotFound(f"The invocation {invocation_id} has no result.")
        kept = json.loads(found.result)
        if "base64" in kept:
            content = base64.b64decode(kept["base64"])
        else:
            content = json.dumps(kept["json"], ensure_ascii=False).encode()
        headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
        return BytesResponse(content, 200, headers, media_type=found.row.result_type)

    async def cancel(
        self, account: Account, _token: Token, invocation_id: InvocationIdPath
    ) -> Invocation:
        """Give an invocation up; its instance goes, if an attempt is under way."""
        row = await self.invocations.cancel(account, InvocationId(invocation_id))
        return await self._answer(row)

    async def replay(
        self,
        account: Account,
        token: Token,
        invocation_id: InvocationIdPath,
        body: ReplayInvocation | None = None,
    ) -> Invocation:
        """Do an invocation again, as a new one; a dead letter is none any more then."""
        wanted = body or ReplayInvocation()
        row = await self.invocations.get(account, InvocationId(invocation_id))
        version = None if wanted.version == "live" else wanted.version
        if version == "original":
            version = row.version
        made = await self.invocations.replay(
            account, InvocationId(row.id), version, wanted.event, token
        )
        return await self._answer(made)

    async def dead(
        self, account: Account, parameters: Annotated[DeadLetterParameters, Query()]
    ) -> InvocationPage:
        """List queued work that failed for good and was neither replayed nor discarded."""
        return await self._page(account, parameters.told(dead=True), parameters.pagination)

    async def replay_dead(
        self, account: Account, _token: Token, body: ReplayDeadLetters
    ) -> Matched:
        """Have dead letters done again, the oldest first, on what is live then.

        They go off the list one by one. One whose function has nothing live stays.
        """
        matched = await self.dead_letters.replay(account, body.which(), body.per_second)
        return Matched(matched=matched)

    async def discard_dead(
        self, account: Account, _token: Token, body: DiscardDeadLetters
    ) -> Matched:
        """Take dead letters off their list; their records stay for their time."""
        return Matched(matched=await self.dead_letters.discard(account, body.which()))

    async def _found(self, account: AccountId, invocation_id: str) -> Found:
        row = await self.invocations.get(account, InvocationId(invocation_id))
        (found,) = await self.invocations.found([row])
        return found

    async def answer(self, row: InvocationRow) -> Invocation:
        """Return an invocation as the API shows it."""
        return await self._answer(row)

    async def _page(
        self, account: AccountId, wanted: InvocationFilter, pagination: str | None
    ) -> InvocationPage:
        rows, place = await self.invocations.page(account, wanted, place_of(pagination))
        found = await self.invocations.found(rows, LISTED_BYTES_MAX)
        return InvocationPage(
            invocations=[invocation_answer(each) for each in found], pagination=token_of(place)
        )

    async def _events(
        self, account: AccountId, wanted: InvocationFilter, after_ms: int | None
    ) -> AsyncIterator[str]:
        with self.logs.counted(account):
            async for found in self.changes.follow(account, wanted, after_ms, LISTED_BYTES_MAX):
                match found:
                    case int():
                        # With an id, so that who is cut off before anything changed goes on here.
                        yield f"id: {found}\n: following\n\n"
                    case "quiet":
                        yield ": still here\n\n"
                    case _:
                        yield "".join(_event(each) for each in found)

    async def _answer(self, row: InvocationRow) -> Invocation:
        (found,) = await self.invocations.found([row], INLINE_BYTES_MAX)
        return invocation_answer(found)


def invocation_answer(found: Found) -> Invocation:
    """Return an invocation as the API shows it."""
    row, attempts = found.row, found.attempts
    kept: dict[str, Any] = json.loads(found.result) if found.result is not None else {}
    waits = row.state in (InvocationState.QUEUED, InvocationState.WAITING)
    due = waits and row.next_ms < HELD_MS
    took = [each.duration_ms for each in attempts if each.duration_ms is not None]
    return Invocation(
        id=row.id,
        function_id=row.function_id,
        user_id=row.user_id or None,
        version=row.version,
        trigger=row.trigger,
        kind="direct" if row.kind == "direct" else "queued",
        state=InvocationState(row.state),
        reason=Reason(row.reason) if row.reason and row.ended_ms else None,
        attempt=row.attempt,
        max_attempts=found.max_attempts,
        trigger_id=row.trigger_id,
        scheduled_at=None if row.scheduled_ms is None else rfc3339(row.scheduled_ms),
        next_attempt_at=rfc3339(row.next_ms) if due else None,
        event=json.loads(found.event) if found.event is not None else None,
        result=kept.get("json"),
        error=InvocationError.model_validate_json(row.error) if row.error else None,
        attempts=[_attempt(each) for each in attempts],
        queued_ms=max(0, attempts[0].started_ms - row.created_ms) if attempts else None,
        duration_ms=took[-1] if took else None,
        replay_of=row.replay_of,
        cause=_cause(row),
        depth=row.depth,
        created_at=rfc3339(row.created_ms),
        updated_at=rfc3339(row.updated_ms),
    )


def _cause(row: InvocationRow) -> Cause | None:
    if row.cause_id is None and row.event_id is None:
        return None
    return Cause(invocation_id=row.cause_id, event_id=row.event_id)


def _attempt(row: AttemptRow) -> Attempt:
    return Attempt(
        attempt=row.attempt,
        version=row.version,
        vm_id=row.vm_id,
        start=row.start,  # type: ignore[arg-type]
        started_at=rfc3339(row.started_ms),
        ended_at=rfc3339(row.ended_ms) if row.ended_ms else None,
        outcome=row.outcome,
        duration_ms=row.duration_ms,
    )


def _event(found: Found) -> str:
    told = invocation_answer(found).model_dump_json(exclude_none=True)
    return f"id: {found.row.updated_ms}\ndata: {told}\n\n"


def _refused(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(
        f"The request is not valid: {field} {message}.", [FieldError(field, message)]
    )
