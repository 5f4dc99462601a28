"""Calls about logs: getBuildLogs, getVMLogs and their like, a page at a time or followed."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.errors import (
    CakeworkError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.ids import AccountId, BuildId, VmId
from cakework.server.api.account_route import Account, Door
from cakework.server.api.builds import BuildIdPath
from cakework.server.api.log_parameters import LogParameters
from cakework.server.api.problems import responses
from cakework.server.api.times import rfc3339
from cakework.server.api.vms import VmIdPath
from cakework.server.api.wire import AnswerBody
from cakework.server.logs.lines import Line, LineQuery, Page
from cakework.server.logs.tokens import next_token
from cakework.server.services.logs import BuildLog, Logs, Owners, VmLog

EVENT_STREAM = "text/event-stream"
FOLLOWING, STILL_HERE = ": following\n\n", ": still here\n\n"
END = "event: end\ndata: {}\n\n"


class LogLine(AnswerBody):
    """A line that the program printed."""

    id: int = Field(description="Number of the line in its log, counted from 1; it stays.")
    timestamp: int = Field(description="When it was printed, in unix milliseconds.")
    level: Literal["info", "error"] = Field(description="info: stdout; error: stderr.")
    message: str = Field(description="The line, without its newline.")


class LogPage(AnswerBody):
    """A page of a log. When `pagination` is there, send all three back for the next page, however
    few lines this one has: a search looks at so much of a log in one call.
    """

    lines: list[LogLine] = Field(description="The lines.")
    pagination: str | SkipJsonSchema[None] = Field(
        default=None,
        description="Token for the next page; absent when there are no more lines now.",
    )
    from_: str | SkipJsonSchema[None] = Field(
        default=None,
        serialization_alias="from",
        description="Start of the range looked at.",
        json_schema_extra={"format": "date-time"},
    )
    to: str | SkipJsonSchema[None] = Field(
        default=None,
        description="End of the range looked at, so far.",
        json_schema_extra={"format": "date-time"},
    )


_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One event: a line, or the end.",
    "properties": {
        "id": {"type": "string", "description": "The line's id."},
        "event": {"type": "string", "description": "`end` for the end, else absent."},
        "data": {"description": "The line as JSON."},
    },
}
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def streamed(model: type[LogPage]) -> dict[int | str, dict[str, Any]]:
    """Return the answer of a call that gives a page of a log, or follows it."""
    described = {
        "model": model,
        "description": "A page of the log; or, with `follow=true`, its lines as server-sent "
        "events: each has the line's `id` and the line as JSON, comments are heartbeats, and "
        "an event `end` says that the log is whole.",
        "content": {EVENT_STREAM: {"schema": _EVENT}},
    }
    return {200: described}


def as_events(events: AsyncIterator[str]) -> Response:
    """Return an answer that sends events as they come."""
    return StreamingResponse(events, headers=_STREAM_HEADERS, media_type=EVENT_STREAM)


LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="With `follow=true`: go on behind the line with this id.",
        pattern=r"^[0-9]{1,18}$",
    ),
]


@dataclass(frozen=True, slots=True)
class LogRoutes:
    """The calls about logs."""

    logs: Logs
    owners: Owners

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Logs"], route_class=door.route_class())
        errors = responses(Unauthenticated, InvalidRequest, NotFound, QuotaExceeded, CakeworkError)
        for path, endpoint, name, what in (
            ("/v1/image/build/{buildId}/logs", self.of_build, "getBuildLogs", "a build"),
            ("/v1/function/build/{buildId}/logs", self.of_build, "getFunctionBuildLogs", "a build"),
            ("/v1/vm/{vmId}/logs", self.of_vm, "getVMLogs", "a VM"),
            ("/v1/vm/cached/{vmId}/logs", self.of_vm, "getCachedVMLogs", "a cached VM"),
        ):
            router.add_api_route(
                path,
                endpoint,
                methods=["GET"],
                operation_id=name,
                summary=f"Read or follow the log of {what}",
                response_model=LogPage,
                response_model_exclude_none=True,
                responses={**errors, **streamed(LogPage)},
            )
        return router

    async def of_build(
        self,
        account: Account,
        build_id: BuildIdPath,
        parameters: Annotated[LogParameters, Query()],
        last_event_id: LastEventId = None,
    ) -> Response:
        """Read or follow the log of a build."""
        log = BuildLog(BuildId(build_id))
        return await self._answer(account, log, parameters, last_event_id)

    async def of_vm(
        self,
        account: Account,
        vm_id: VmIdPath,
        parameters: Annotated[LogParameters, Query()],
        last_event_id: LastEventId = None,
    ) -> Response:
        """Read or follow what the program in a VM printed."""
        return await self._answer(account, VmLog(VmId(vm_id)), parameters, last_event_id)

    async def _answer(
        self,
        account: AccountId,
        log: VmLog | BuildLog,
        parameters: LogParameters,
        last_event_id: str | None,
    ) -> Response:
        query = parameters.lines_of(await self.owners.check(account, log))
        if not parameters.follow:
            return await self._page(account, query)
        self.logs.check_followed(account)
        query = replace(query, after=int(last_event_id or 0))
        return as_events(self._events(account, log, query))

    async def _page(self, account: AccountId, query: LineQuery) -> Response:
        body = await self.logs.page(account, query, partial(_body, query))
        return Response(body, media_type="application/json")

    async def _events(
        self, account: AccountId, log: VmLog | BuildLog, query: LineQuery
    ) -> AsyncIterator[str]:
        yield FOLLOWING
        async for lines in self.logs.follow(account, log, query):
            yield STILL_HERE if lines == "quiet" else "".join(event(_line(line)) for line in lines)
        if not self.logs.closing:
            yield END


def _body(query: LineQuery, page: Page, span: tuple[int, int] | None) -> bytes:
    """Return a page as JSON; ``span`` is what there is of the log, where there is more."""
    around = LogPage(lines=[])
    if page.more:
        # What the query looked at: where it names no end, the log's own.
        first, last = span or (0, 0)
        around = LogPage(
            lines=[],
            pagination=next_token(query, page.through),
            from_=rfc3339(query.from_ms if query.from_ms is not None else first),
            to=rfc3339(query.to_ms if query.to_ms is not None else last),
        )
    return rendered(map(_line, page.lines), around)


def _line(line: Line) -> LogLine:
    return LogLine(
        id=line.seq,
        timestamp=line.at_ms,
        level="error" if line.stream == "stderr" else "info",
        message=line.text,
    )


def rendered(lines: Iterable[LogLine], around: LogPage) -> bytes:
    """Return ``around`` as JSON, with these lines.

    One at a time: a thread that renders many in one call holds up all others meanwhile.
    """
    start, end = around.model_dump_json(exclude_none=True).split("[]", 1)
    inside = ",".join(line.model_dump_json(exclude_none=True) for line in lines)
    return f"{start}[{inside}]{end}".encode()


def event(line: LogLine) -> str:
    """Return a line as a server-sent event."""
    return f"id: {line.id}\ndata: {line.model_dump_json(exclude_none=True)}\n\n"
