"""Calls about logs: getBuildLogs, getVMLogs and their like, a page at a time or followed."""

from collections.abc import AsyncIterator, Sequence
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
from cakework.server.services.logs import BuildLog, Log, Logs, Owners, VmLog

EVENT_STREAM = "text/event-stream"


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
_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": LogPage,
        "description": "A page of the log; or, with `follow=true`, its lines as server-sent "
        "events: each has the line's `id` and the line as JSON, comments are heartbeats, and "
        "an event `end` says that the log is whole.",
        "content": {EVENT_STREAM: {"schema": _EVENT}},
    }
}

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
                responses={**errors, **_STREAMED},
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
        self, account: AccountId, log: Log, parameters: LogParameters, last_event_id: str | None
    ) -> Response:
        query = parameters.lines_of(await self.owners.check(account, log))
        if not parameters.follow:
            return await self._page(account, query)
        self.logs.check_followed(account)
        query = replace(query, after=int(last_event_id or 0))
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        events = self._events(account, log, query)
        return StreamingResponse(events, headers=headers, media_type=EVENT_STREAM)

    async def _page(self, account: AccountId, query: LineQuery) -> Response:
        body = await self.logs.page(account, query, partial(_body, query))
        return Response(body, media_type="application/json")

    async def _events(self, account: AccountId, log: Log, query: LineQuery) -> AsyncIterator[str]:
        yield ": following\n\n"
        async for lines in self.logs.follow(account, log, query):
            if lines == "quiet":
                yield ": still here\n\n"
            else:
                yield "".join(_event(line) for line in lines)
        if not self.logs.closing:
            yield "event: end\ndata: {}\n\n"


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
    return rendered(page.lines, around)


def _line(line: Line) -> LogLine:
    return LogLine(
        id=line.seq,
        timestamp=line.at_ms,
        level="error" if line.stream == "stderr" else "info",
        message=line.text,
    )


def rendered(lines: Sequence[Line], around: LogPage) -> bytes:
    """Return ``around`` as JSON, with these lines.

    One at a time: a thread that renders many in one call holds up all others meanwhile.
    """
    start, end = around.model_dump_json(exclude_none=True).split("[]", 1)
    inside = ",".join(_line(line).model_dump_json() for line in lines)
    return f"{start}[{inside}]{end}".encode()


def _event(line: Line) -> str:
    return f"id: {line.seq}\ndata: {_line(line).model_dump_json()}\n\n"
