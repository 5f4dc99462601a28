"""Calls of editors: drafts, and code that is run once without a version of it."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Response
from pydantic import FailFast, Field

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.functions import USER_ID_PATTERN, Runtime
from cakework.domain.ids import ACCOUNT_ITSELF, FunctionId, InvocationId, UserId
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.builds import File
from cakework.server.api.functions import (
    Deleted,
    FunctionIdPath,
    SourceFile,
    SourceGiven,
    files_answer,
    given_of,
    source_from,
)
from cakework.server.api.invocations import WAIT_S_MAX, Invocation, InvocationRoutes
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import AnswerBody, RequestBody, Text
from cakework.server.functions.drafts import Drafts, etag_of
from cakework.server.functions.functions import Functions
from cakework.server.functions.intake import Draft, Intake
from cakework.server.functions.sources import FILES_MAX
from cakework.server.functions.trials import NewTrial, Trials

_IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=256,
        description='The ETag of what was looked at; `"0"` for no draft, `*` for any.',
    ),
]


class SaveDraft(RequestBody):
    """What putDraft takes."""

    files: Annotated[list[File], FailFast(), Field(min_length=1, max_length=FILES_MAX)] = Field(
        description="The files of the code, all of them."
    )


class SavedDraft(AnswerBody):
    """A draft that was saved."""

    etag: str = Field(description="What tells this saving from others, as in the header ETag.")
    source_digest: str = Field(description="What tells its code from other code.")
    updated_at: str = Field(
        description="When it was saved.", json_schema_extra={"format": "date-time"}
    )


class DraftAnswer(SavedDraft):
    """A draft."""

    files: list[SourceFile] = Field(description="Its files.")


class TryCode(RequestBody):
    """What testFunction takes: code, and an event or what is to be the data of one."""

    source: SourceGiven | None = Field(default=None, description="The code; the draft if absent.")
    entry: Text | None = Field(default=None, max_length=1024, description="As deployFunction.")
    signature: Literal["rest"] | None = Field(default=None, description="As deployFunction.")
    lock: Text | None = Field(default=None, description="As deployFunction.")
    event: dict[str, Any] | None = Field(
        default=None, description="A CloudEvent; what it lacks is filled in."
    )
    data: Any = Field(default=None, description="The data of an event that is made around it.")
    user_id: Annotated[Text, Field(pattern=USER_ID_PATTERN)] | None = Field(
        default=None, description="The end user for whom it is."
    )
    wait: float = Field(
        default=WAIT_S_MAX, ge=0, le=WAIT_S_MAX, description="Seconds to wait for its end."
    )


@dataclass(frozen=True, slots=True)
class DraftRoutes:
    """The calls about drafts and tests."""

    functions: Functions
    drafts: Drafts
    intake: Intake
    trials: Trials
    invocations: InvocationRoutes

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Functions"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError, NotFound)
        sent = (*always, Conflict, *BODY_ERRORS, QuotaExceeded)
        one = "/v1/functions/{functionId}"
        for path, method, call, name, summary, errors in (
            (f"{one}/draft", "GET", self.get, "getDraft", "Get the draft of a function", always),
            (
                *(f"{one}/draft", "PUT", self.put, "putDraft"),
                *("Save the draft of a function", (*sent, PreconditionFailed)),
            ),
            (
                *(f"{one}/draft", "DELETE", self.delete, "deleteDraft"),
                *("Forget the draft of a function", (*always, PreconditionFailed)),
            ),
            (
                *(f"{one}/test", "POST", self.test, "testFunction"),
                *("Run code once, without a version of it", sent),
            ),
        ):
            files = name in ("putDraft", "testFunction")
            router.add_api_route(
                path,
                call,
                methods=[method],
                operation_id=name,
                summary=summary,
                route_class_override=door.route_class(with_files=True) if files else None,
                response_model_exclude_none=True,
                responses=responses(*errors),
            )
        return router

    async def get(
        self, account: Account, function_id: FunctionIdPath, response: Response
    ) -> DraftAnswer:
        """Get the draft of a function; its ETag is for saving another in its place."""
        found = await self.drafts.get(account, FunctionId(function_id))
        response.headers["ETag"] = found.etag
        return DraftAnswer(
            files=files_answer(found.source),
            etag=found.etag,
            source_digest=found.source.digest,
            updated_at=rfc3339(found.updated_ms),
        )

    async def put(
        self,
        account: Account,
        function_id: FunctionIdPath,
        body: SaveDraft,
        response: Response,
        if_match: _IfMatch = None,
    ) -> SavedDraft:
        """Save a draft in the place of the one that was looked at."""
        source = await asyncio.to_thread(source_from, body.files)
        row = await self.drafts.save(account, FunctionId(function_id), source, if_match)
        response.headers["ETag"] = etag_of(row)
        return SavedDraft(
            etag=etag_of(row), source_digest=row.source_digest, updated_at=rfc3339(row.updated_ms)
        )

    async def delete(
        self, account: Account, function_id: FunctionIdPath, if_match: _IfMatch = None
    ) -> Deleted:
        """Forget the draft of a function; none is no error."""
        await self.drafts.delete(account, FunctionId(function_id), if_match)
        return Deleted()

    async def test(
        self, account: Account, token: Token, function_id: FunctionIdPath, body: TryCode
    ) -> Invocation:
        """Run the draft, or other code, once in an instance of its own, and wait for the end.

        What has not ended in time is answered as it is; getInvocation goes on waiting.
        """
        if body.event is not None and "data" in body.model_fields_set:
            raise InvalidRequest("Give `event`, or `data` for an event to be made of; not both.")
        function = await self.functions.get(account, FunctionId(function_id))
        given = Draft() if body.source is None else await given_of(body.source, None)
        taken = await self.intake.take(
            account, FunctionId(function_id), Runtime(function.runtime), given, body.lock
        )
        event = body.event
        if event is None:
            event = {"data": body.data} if "data" in body.model_fields_set else {}
        new = NewTrial(
            taken.source,
            event,
            body.entry or taken.entry,
            body.signature or taken.signature,
            taken.fresh,
            UserId(body.user_id) if body.user_id else ACCOUNT_ITSELF,
        )
        row = await self.trials.take(account, FunctionId(function_id), new, token)
        invocations = self.invocations.invocations
        row = await invocations.wait(account, InvocationId(row.id), body.wait)
        return await self.invocations.answer(row)
