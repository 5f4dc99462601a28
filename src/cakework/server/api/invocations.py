"""Calls about invocations, and dead letters."""

import base64
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import Response as BytesResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
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
    AccountId,
    FunctionId,
    InvocationId,
    UserId,
)
from cakework.domain.invocations import InvocationState, Reason
from cakework.domain.times import TIME_PATTERN, parse_time
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.functions import FunctionIdPath
from cakework.server.api.paging import GivenToken, Page, place_of, token_of
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import AnswerBody, RequestBody, Text
from cakework.server.functions.invocations import (
    DELAY_S_MAX,
    Found,
    InvocationFilter,
    Invocations,
    NewInvocation,
)
from cakework.server.store.function_models import InvocationRow

WAIT_S_MAX = 50.0
INLINE_BYTES_MAX = 64 << 10
IDS_MAX = 1_000
InvocationIdPath = Annotated[
    str,
    Path(alias="invocationId", pattern=INVOCATION_ID_PATTERN, description="Id of the invocation."),
]
_Time = Annotated[str | None, Field(pattern=TIME_PATTERN)]


class Invoke(RequestBody):
    """What invokeFunction takes: an event, or what is to be the data of one."""

    mode: Literal["sync", "async"] = Field(
        default="sync", description="sync waits for the end; async answers when it is taken (202)."
    )
    event: dict[str, Any] | None = Field(
        default=None, description="A CloudEvent; what it lacks is filled in."
    )
    data: Any = Field(default=None, description="The data of an event that is made around it.")
    user_id: Annotated[Text, Field(pattern=USER_ID_PATTERN)] | None = Field(
        default=None, description="The end user for whom it is."
    )
    version: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="A version that is not live."
    )
    delay: float = Field(
        default=0, ge=0, le=DELAY_S_MAX, description="Seconds until it may start; async only."
    )
    ttl: float | None = Field(
        default=None, gt=0, le=DELAY_S_MAX, description="Seconds after which it must not start."
    )
    wait: float = Field(
        default=WAIT_S_MAX, ge=0, le=WAIT_S_MAX, description="Seconds to wait for its end; sync."
    )


class Replay(RequestBody):
    """What replayInvocation takes."""

    version: Literal["live", "original"] | int = Field(
        default="live", description="The version to run: live, original, or a number."
    )
    event: dict[str, Any] | None = Field(default=None, description="Another event.")


class Ids(RequestBody):
    """Which dead letters."""

    ids: list[Annotated[Text, Field(pattern=INVOCATION_ID_PATTERN)]] = Field(
        min_length=1, max_length=IDS_MAX, description="Ids of dead letters."
    )


class Matched(AnswerBody):
    """How many there were."""

    matched: int = Field(description="How many of them were dead letters.")


class AttemptAnswer(AnswerBody):
    """One run of the handler."""

    attempt: int = Field(description="Its number, from 1.")
    version: int = Field(description="What it ran on.")
    vm_id: str = Field(description="The instance.")
    start: Literal["warm", "fork", "restore", "cold"] = Field(
        description="What the instance had begun with when it came."
    )
    started_at: str = Field(description="When it began.", json_schema_extra={"format": "date-time"})
    ended_at: str | SkipJsonSchema[None] = Field(
        default=None, description="When it ended.", json_schema_extra={"format": "date-time"}
    )
    outcome: str | SkipJsonSchema[None] = Field(
        default=None, description="succeeded, or why not; absent while it goes on."
    )
    duration_ms: int | SkipJsonSchema[None] = Field(
        default=None, description="How long the handler took."
    )


class Invocation(AnswerBody):
    """An invocation."""

    id: str = Field(description="Id of the invocation.", pattern=INVOCATION_ID_PATTERN)
    function_id: str = Field(description="The function.", pattern=FUNCTION_ID_PATTERN)
    user_id: str | SkipJsonSchema[None] = Field(
        default=None, description="The end user for whom it is."
    )
    version: int | SkipJsonSchema[None] = Field(
        default=None, description="What its last attempt ran on."
    )
    trigger: str = Field(description="What made it.")
    kind: Literal["direct", "queued"] = Field(description="Whether a caller waited.")
    state: InvocationState = Field(description="Where it is.")
    reason: Reason | SkipJsonSchema[None] = Field(default=None, description="Why it ended so.")
    attempt: int = Field(description="Number of the last attempt; 0 before the first.")
    next_attempt_at: str | SkipJsonSchema[None] = Field(
        default=None,
        description="When the next attempt is due.",
        json_schema_extra={"format": "date-time"},
    )
    event: dict[str, Any] | SkipJsonSchema[None] = Field(
        default=None, description="Its event, where that is not larger than 64 KiB."
    )
    result: Any = Field(default=None, description="What the handler answered, if that is JSON.")
    error: dict[str, Any] | SkipJsonSchema[None] = Field(
        default=None, description="What the last attempt raised: type, message, stack, retriable."
    )
    attempts: list[AttemptAnswer] = Field(description="Its attempts.")
    replay_of: str | SkipJsonSchema[None] = Field(
        default=None, description="The invocation that it repeats."
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


class InvocationParameters(BaseModel):
    """What listInvocations takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    function_id: str | None = Field(
        default=None, alias="functionId", description="Only of this function."
    )
    user_id: str | None = Field(default=None, alias="userId", description="Only for this user.")
    state: InvocationState | None = Field(default=None, description="Only in this state.")
    reason: Reason | None = Field(default=None, description="Only those that ended so.")
    since: _Time = Field(default=None, alias="from", description="Only those taken since then.")
    to: _Time = Field(default=None, description="Only those taken before then.")
    pagination: GivenToken = None


@dataclass(frozen=True, slots=True)
class InvocationRoutes:
    """The calls about invocations."""

    invocations: Invocations

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Invocations"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        looked = (*always, NotFound)
        posted = (*looked, Conflict, *BODY_ERRORS)
        one = "/v1/invocations/{invocationId}"
        for path, method, call, name, summary, errors in (
            (
                *("/v1/functions/{functionId}/invoke", "POST", self.invoke, "invokeFunction"),
                *("Invoke a function", (*posted, QuotaExceeded)),
            ),
            (
                *("/v1/invocations", "GET", self.list, "listInvocations"),
                *("List invocations, newest first", always),
            ),
            (one, "GET", self.get, "getInvocation", "Look at an invocation", looked),
            (
                *(f"{one}/result", "GET", self.result, "getInvocationResult"),
                *("Get what an invocation answered, as it is", looked),
            ),
            (
                *(f"{one}/cancel", "POST", self.cancel, "cancelInvocation"),
                *("Give an invocation up; one that has ended stays as it is", posted),
            ),
            (
                *(f"{one}/replay", "POST", self.replay, "replayInvocation"),
                *("Do an invocation again, as a new one", (*posted, QuotaExceeded)),
            ),
            (
                *("/v1/dead-letters", "GET", self.dead, "listDeadLetters"),
                *("List what failed for good, newest first", always),
            ),
            (
                *("/v1/dead-letters/replay", "POST", self.replay_dead, "replayDeadLetters"),
                *("Do what failed for good again", (*posted, QuotaExceeded)),
            ),
            (
                *("/v1/dead-letters/discard", "POST", self.discard_dead, "discardDeadLetters"),
                *("Take what failed for good off the list", posted),
            ),
        ):
            router.add_api_route(
                path,
                call,
                methods=[method],
                operation_id=name,
                summary=summary,
                response_model_exclude_none=True,
                responses=responses(*errors),
            )
        return router

    async def invoke(
        self,
        account: Account,
        token: Token,
        function_id: FunctionIdPath,
        body: Invoke,
        response: Response,
    ) -> Invocation:
        """Invoke a function: wait for the end, or only until it is taken."""
        sync = body.mode == "sync"
        if sync and body.delay:
            raise InvalidRequest("`delay` is for `mode: async`: nobody waits for it.")
        if body.event is not None and "data" in body.model_fields_set:
            raise InvalidRequest("Give `event`, or `data` for an event to be made of; not both.")
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
            return _answer(await self.invocations.call(account, function, new, token, body.wait))
        row = await self.invocations.take(account, FunctionId(function_id), new, token)
        response.status_code = 202
        return await self._answer(row)

    async def list(
        self, account: Account, parameters: Annotated[InvocationParameters, Query()]
    ) -> InvocationPage:
        """List the account's invocations, newest first, 100 a page."""
        return await self._page(account, parameters, dead=False)

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

    async def result(self, account: Account, invocation_id: InvocationIdPath) -> BytesResponse:
        """Get the bytes that a handler answered with."""
        row = await self.invocations.get(account, InvocationId(invocation_id))
        found = await self.invocations.found(row)
        if found.result is None:
            raise NotFound(f"The invocation {invocation_id} has no result.")
        kept = json.loads(found.result)
        if "base64" in kept:
            content = base64.b64decode(kept["base64"])
        else:
            content = json.dumps(kept["json"], ensure_ascii=False).encode()
        headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
        return BytesResponse(content, 200, headers, media_type=row.result_type)

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
        body: Replay | None = None,
        response: Response = Response(),  # noqa: B008 - given by the framework
    ) -> Invocation:
        """Do an invocation again, as a new one."""
        wanted = body or Replay()
        row = await self.invocations.get(account, InvocationId(invocation_id))
        version = None if wanted.version == "live" else wanted.version
        if version == "original":
            version = row.version
        made = await self.invocations.replay(
            account, InvocationId(row.id), version, wanted.event, token
        )
        response.status_code = 202
        return await self._answer(made)

    async def dead(
        self, account: Account, parameters: Annotated[InvocationParameters, Query()]
    ) -> InvocationPage:
        """List queued work that failed for good and was neither replayed nor discarded."""
        return await self._page(account, parameters, dead=True)

    async def replay_dead(
        self, account: Account, _token: Token, body: Ids, response: Response
    ) -> Matched:
        """Do dead letters again, on what is live."""
        matched = 0
        for each in dict.fromkeys(body.ids):
            try:
                await self.invocations.replay_dead(account, InvocationId(each))
            except (NotFound, Conflict):
                continue
            matched += 1
        response.status_code = 202
        return Matched(matched=matched)

    async def discard_dead(self, account: Account, _token: Token, body: Ids) -> Matched:
        """Take dead letters off their list; their records stay for their time."""
        ids = [InvocationId(each) for each in body.ids]
        return Matched(matched=await self.invocations.settle(account, ids))

    async def answer(self, row: InvocationRow) -> Invocation:
        """Return an invocation as the API shows it."""
        return await self._answer(row)

    async def _page(
        self, account: AccountId, parameters: InvocationParameters, *, dead: bool
    ) -> InvocationPage:
        wanted = InvocationFilter(
            FunctionId(parameters.function_id) if parameters.function_id else None,
            UserId(parameters.user_id) if parameters.user_id is not None else None,
            parameters.state,
            dead,
            parameters.reason,
            parse_time(parameters.since) if parameters.since else None,
            parse_time(parameters.to) if parameters.to else None,
        )
        rows, place = await self.invocations.page(account, wanted, place_of(parameters.pagination))
        answers = [await self._answer(row) for row in rows]
        return InvocationPage(invocations=answers, pagination=token_of(place))

    async def _answer(self, row: InvocationRow) -> Invocation:
        return _answer(await self.invocations.found(row))


def _answer(found: Found) -> Invocation:
    row = found.row
    kept: dict[str, Any] = json.loads(found.result) if found.result is not None else {}
    inline = len(found.event) <= INLINE_BYTES_MAX
    shown = found.result is not None and len(found.result) <= INLINE_BYTES_MAX
    due = row.state in (InvocationState.QUEUED, InvocationState.WAITING)
    return Invocation(
        id=row.id,
        function_id=row.function_id,
        user_id=row.user_id or None,
        version=row.version,
        trigger=row.trigger,
        kind="direct" if row.kind == "direct" else "queued",
        state=InvocationState(row.state),
        reason=Reason(row.reason) if row.reason else None,
        attempt=row.attempt,
        next_attempt_at=rfc3339(row.next_ms) if due else None,
        event=json.loads(found.event) if inline else None,
        result=kept.get("json") if shown else None,
        error=json.loads(row.error) if row.error else None,
        attempts=[
            AttemptAnswer(
                attempt=each.attempt,
                version=each.version,
                vm_id=each.vm_id,
                start=each.start,  # type: ignore[arg-type]
                started_at=rfc3339(each.started_ms),
                ended_at=rfc3339(each.ended_ms) if each.ended_ms else None,
                outcome=each.outcome,
                duration_ms=each.duration_ms,
            )
            for each in found.attempts
        ],
        replay_of=row.replay_of,
        depth=row.depth,
        created_at=rfc3339(row.created_ms),
        updated_at=rfc3339(row.updated_ms),
    )
