"""Calls about the logs of functions and of their invocations."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.errors import (
    CakeworkError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.ids import AccountId, FunctionId, InvocationId
from cakework.server.api.account_route import Account, Door
from cakework.server.api.functions import FunctionIdPath
from cakework.server.api.invocations import InvocationIdPath
from cakework.server.api.log_parameters import LogParameters
from cakework.server.api.logs import (
    END,
    FOLLOWING,
    STILL_HERE,
    LastEventId,
    LogLine,
    LogPage,
    as_events,
    event,
    rendered,
    streamed,
)
from cakework.server.api.problems import responses
from cakework.server.api.times import rfc3339
from cakework.server.functions.functions import Functions
from cakework.server.functions.logs import FunctionLogs, InvocationPage, Told, Whose
from cakework.server.logs.lines import Line, LineQuery, Page, Source, function_source
from cakework.server.logs.tokens import next_token
from cakework.server.services.logs import FunctionLog, Logs


class FunctionLogLine(LogLine):
    """A line that a program of a function printed."""

    id: int = Field(
        description="Number of the line among all of its function, counted from 1; it stays."
    )
    version: int = Field(description="The version that printed it.")
    invocation_id: str | SkipJsonSchema[None] = Field(
        default=None,
        description="The invocation that printed it; absent for what was printed between "
        "invocations or while code was imported, and where several ran at once.",
    )
    attempt: int | SkipJsonSchema[None] = Field(
        default=None, description="Which of the invocation's attempts."
    )
    vm_id: str = Field(description="The instance.")


class FunctionLogPage(LogPage):
    """A page of a function's log, in the order in which its lines came."""

    lines: list[FunctionLogLine] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        description="The lines."
    )


class InvocationLogPage(FunctionLogPage):
    """A page of an invocation's log, attempt by attempt."""

    complete: bool = Field(
        description="Whether the invocation has ended and all that it printed is in its log."
    )


@dataclass(frozen=True, slots=True)
class FunctionLogRoutes:
    """The calls about logs of functions."""

    functions: Functions
    logs: Logs
    function_logs: FunctionLogs

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Logs"], route_class=door.route_class())
        errors = responses(Unauthenticated, InvalidRequest, NotFound, QuotaExceeded, CakeworkError)
        for path, endpoint, name, what, model in (
            (
                *("/v1/functions/{functionId}/logs", self.of_function, "getFunctionLogs"),
                *("of a function", FunctionLogPage),
            ),
            (
                *("/v1/invocations/{invocationId}/logs", self.of_invocation, "getInvocationLogs"),
                *("of an invocation", InvocationLogPage),
            ),
        ):
            router.add_api_route(
                path,
                endpoint,
                methods=["GET"],
                operation_id=name,
                summary=f"Read or follow the log {what}",
                response_model=model,
                response_model_exclude_none=True,
                responses={**errors, **streamed(model)},
            )
        return router

    async def of_function(
        self,
        account: Account,
        function_id: FunctionIdPath,
        parameters: Annotated[LogParameters, Query()],
        last_event_id: LastEventId = None,
    ) -> Response:
        """Read or follow what all instances of a function print, those to come as well."""
        log = FunctionLog(FunctionId(function_id))
        await self.functions.get(account, log.function_id)
        query = parameters.lines_of(LineQuery(function_source(function_id)))
        if not parameters.follow:
            body = await self.function_logs.page(account, query, partial(_function_body, query))
            return Response(body, media_type="application/json")
        self.logs.check_followed(account)
        query = replace(query, after=int(last_event_id or 0))
        return as_events(self._of_function(account, log, query))

    async def of_invocation(
        self,
        account: Account,
        invocation_id: InvocationIdPath,
        parameters: Annotated[LogParameters, Query()],
        last_event_id: LastEventId = None,
    ) -> Response:
        """Read or follow what an invocation printed. Right after its end this waits a moment for
        the last lines."""
        which = InvocationId(invocation_id)
        query = parameters.lines_of(LineQuery(Source(f"invocation:{invocation_id}")))
        if not parameters.follow:
            render = partial(_invocation_body, query)
            body = await self.function_logs.page_of(account, which, query, render)
            return Response(body, media_type="application/json")
        place = await self.function_logs.behind(account, which, int(last_event_id or 0))
        self.logs.check_followed(account)
        return as_events(self._of_invocation(account, which, replace(query, after=place)))

    async def _of_function(
        self, account: AccountId, log: FunctionLog, query: LineQuery
    ) -> AsyncIterator[str]:
        yield FOLLOWING
        async for lines in self.logs.follow(account, log, query):
            if lines == "quiet":
                yield STILL_HERE
            else:
                yield "".join(map(event, _lines(await self.function_logs.told(lines))))
        if not self.logs.closing:
            yield END

    async def _of_invocation(
        self, account: AccountId, invocation_id: InvocationId, query: LineQuery
    ) -> AsyncIterator[str]:
        yield FOLLOWING
        async for told in self.function_logs.follow_of(account, invocation_id, query):
            yield STILL_HERE if told == "quiet" else "".join(map(event, _lines(told)))
        if not self.logs.closing:
            yield END


def _function_body(query: LineQuery, page: Page, span: tuple[int, int] | None, told: Told) -> bytes:
    around = FunctionLogPage(lines=[])
    if page.more:
        first, last = span or (0, 0)
        around = FunctionLogPage(
            lines=[],
            pagination=next_token(query, page.through),
            from_=rfc3339(query.from_ms if query.from_ms is not None else first),
            to=rfc3339(query.to_ms if query.to_ms is not None else last),
        )
    return rendered(_lines(told), around)


def _invocation_body(query: LineQuery, page: InvocationPage) -> bytes:
    around = InvocationLogPage(lines=[], complete=page.whole)
    if page.more:
        around = InvocationLogPage(
            lines=[],
            complete=page.whole,
            pagination=next_token(query, page.place),
            from_=rfc3339(query.from_ms if query.from_ms is not None else page.began_ms),
            to=rfc3339(query.to_ms if query.to_ms is not None else page.ended_ms),
        )
    return rendered(_lines(page.told), around)


def _lines(told: Told) -> Iterator[FunctionLogLine]:
    for line, whose in zip(told.lines, told.whose, strict=True):
        yield _line(line, whose)


def _line(line: Line, whose: Whose) -> FunctionLogLine:
    return FunctionLogLine(
        id=line.number,
        timestamp=line.at_ms,
        level="error" if line.stream == "stderr" else "info",
        message=line.text,
        version=whose.version,
        invocation_id=whose.invocation_id,
        attempt=whose.attempt,
        vm_id=line.vm_id,
    )
