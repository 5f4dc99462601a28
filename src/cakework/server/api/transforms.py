"""The call of transforms: records in, results out, one after the other as they come."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from cakework.domain.errors import (
    CakeworkError,
    ConcurrencyExceeded,
    Conflict,
    HandlerFailed,
    HandlerTimeout,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    ResultTooLarge,
    TooLarge,
    Unauthenticated,
)
from cakework.domain.functions import FunctionSettings
from cakework.domain.ids import AccountId, FunctionId
from cakework.server.api.account_route import BODY_BYTES_MAX, Account, Door
from cakework.server.api.functions import FunctionIdPath
from cakework.server.api.problems import BODY_ERRORS, problem, responses
from cakework.server.store.function_models import FunctionRow
from cakework.server.transforms.apply import Transforms
from cakework.server.transforms.calls import Call, CallerGone, RecordFailed
from cakework.server.transforms.formats import (
    CSV,
    NDJSON,
    RECORD_BYTES_MAX,
    BadRecord,
    JsonLines,
    LinesOut,
    Reader,
    Rows,
    RowsOut,
    Writer,
    dumps,
    fault_of,
)
from cakework.server.transforms.sources import Body, Given
from cakework.turns import Turns

JSON = "application/json"
ANSWER_BYTES_MAX = 4 << 20
"""Of an answer that is given as a whole."""
STREAMS = 128
STREAMS_EACH = 4
"""Of one account: who sends slowly holds one for an hour."""
WHOLES = 256
SEND_S = 30.0
"""Within which who called takes what there is of the answer; else nobody is there."""
TAKEN = f"{JSON}, {NDJSON} and {CSV}"
_Form = Callable[[], tuple[Reader, Writer]]
_FORMS: dict[str, _Form] = {
    NDJSON: lambda: (JsonLines(), LinesOut()),
    CSV: lambda: (Rows(), RowsOut()),
}
_TEXT = {"schema": {"type": "string"}}
_ANYTHING = {"schema": {"description": "One record, or `records` alone in an object: a list."}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {JSON: _ANYTHING, NDJSON: _TEXT, CSV: _TEXT},
    }
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The results, in the form and the order of the records. "
        "`Cakework-Invocation-Id` names the invocation, whose result says how many there were, "
        "`Cakework-Transform` what became of them.",
        "content": {
            JSON: {"schema": {"description": "As was sent: of one record null, or its results."}},
            NDJSON: _TEXT,
            CSV: _TEXT,
        },
    }
}


@dataclass(frozen=True, slots=True)
class TransformRoutes:
    """The calls about transforms. ``streams`` and ``wholes`` bound how many there are at once."""

    transforms: Transforms
    streams: Turns[AccountId]
    wholes: Turns[AccountId]

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Transforms"], route_class=door.streamed_route_class())

        async def apply(account: Account, function_id: FunctionIdPath, request: Request) -> Any:
            """Take records through a transform, once: they are not kept, and nothing is tried
            again. The body is read as the results are taken."""
            return await self._apply(door, account, FunctionId(function_id), request)

        router.add_api_route(
            "/v1/transforms/{functionId}/apply",
            apply,
            methods=["POST"],
            operation_id="applyTransform",
            summary="Take data through a transform",
            response_model=None,
            response_class=Response,
            openapi_extra=_BODY,
            responses={
                **responses(
                    *(Unauthenticated, InvalidRequest, NotFound, Conflict, QuotaExceeded),
                    *(*BODY_ERRORS, HandlerFailed, HandlerTimeout, CakeworkError),
                ),
                **_ANSWERS,
            },
        )
        return router

    async def _apply(
        self, door: Door, account: AccountId, function_id: FunctionId, request: Request
    ) -> Response:
        row, settings = await self.transforms.find(account, function_id)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON and kind not in _FORMS:
            raise InvalidRequest(
                f"Transforms take {TAKEN}. Send other bytes to the URL of a function with an http "
                "handler."
            )
        if kind == JSON:
            return await self._whole(door, account, row, settings, request)
        _take(self.streams, account)
        return _Stream(self, door, account, kind, self.transforms.call(row, settings, whole=False))

    async def _whole(
        self,
        door: Door,
        account: AccountId,
        row: FunctionRow,
        settings: FunctionSettings,
        request: Request,
    ) -> Response:
        _take(self.wholes, account)
        try:
            with door.bodies.one(account) as room:
                body = await room.read(request, BODY_BYTES_MAX)
                value, is_list = await _read(door, account, body)
                records = [_checked(number, each) for number, each in enumerate(value, 1)]
                call = self.transforms.call(row, settings, whole=True)
                return await _answered(call, records, request, is_list=is_list)
        finally:
            self.wholes.give_back(account)


def _take(turns: Turns[AccountId], account: AccountId) -> None:
    if not turns.take(account):
        raise ConcurrencyExceeded(
            "As many calls of transforms as the account may have are under way.", retry_after_s=1
        )


async def _read(door: Door, account: AccountId, body: bytes) -> tuple[list[Any], bool]:
    """Return the records of a body, and whether they are a list."""
    try:
        value = await door.parser.parsed(body, account)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The body is no JSON.") from error
    except HTTPException as error:
        raise TooLarge(str(error.detail)) from error
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if fields.keys() == {"records"} and isinstance(fields["records"], list):
            return cast("list[Any]", fields["records"]), True
    return [value], False


def _checked(number: int, record: Any) -> bytes:
    try:
        told = dumps(record).encode()
    except (ValueError, RecursionError) as error:
        raise BadRecord(number, "is no JSON") from error
    if len(told) > RECORD_BYTES_MAX:
        raise TooLarge(f"Record {number} has more than {RECORD_BYTES_MAX >> 20} MiB.")
    if (why := fault_of(told)) is not None:
        raise BadRecord(number, why)
    return told


async def _answered(
    call: Call, records: list[bytes], request: Request, *, is_list: bool
) -> Response:
    results = bytearray()

    async def emit(lines: bytes) -> None:
        results.extend(lines)
        if len(results) > ANSWER_BYTES_MAX:
            most = ANSWER_BYTES_MAX >> 20
            raise ResultTooLarge(f"The results have more than {most} MiB together.")

    gone = asyncio.Event()
    watching = asyncio.create_task(_watch(request, gone))
    try:
        await call.run(Given(records), LinesOut(), emit, gone)
    except RecordFailed as failed:
        return _with_id(problem(request, failed.error), call)
    except CallerGone:
        return _with_id(Response(status_code=499), call)
    except (HandlerFailed, HandlerTimeout) as error:
        return _with_id(problem(request, error), call)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    lines = bytes(results).split(b"\n")[:-1]
    n = call.counts.failed or call.counts.taken
    headers = {"Cakework-Transform": f"{call.word}; n={n}"}
    return _with_id(Response(_shaped(lines, is_list=is_list), 200, headers, JSON), call)


def _shaped(lines: list[bytes], *, is_list: bool) -> bytes:
    if is_list:
        return b'{"records":[' + b",".join(lines) + b"]}"
    if len(lines) == 1:
        return lines[0]
    return b"[" + b",".join(lines) + b"]" if lines else b"null"


async def _watch(request: Request, gone: asyncio.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _with_id(response: Response, call: Call) -> Response:
    if call.start:
        response.headers["Cakework-Invocation-Id"] = call.id
        response.headers["Cakework-Start"] = call.start
    return response


class _Stream(Response):
    """An answer that is made while its request's body comes."""

    def __init__(
        self, routes: TransformRoutes, door: Door, account: AccountId, kind: str, call: Call
    ) -> None:
        super().__init__(None, 200, media_type=kind)
        self._routes = routes
        self._door = door
        self._account = account
        self._kind = kind
        self._call = call
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await self._answer(Request(scope, receive), receive, _in_time(send))
        except CallerGone:
            return
        finally:
            self._routes.streams.give_back(self._account)

    async def _answer(self, request: Request, receive: Receive, send: Send) -> None:
        reader, writer = _FORMS[self._kind]()
        body = Body(receive, reader, self._paced, self._call.idle_since_s)
        reading = asyncio.create_task(body.run())

        async def emit(lines: bytes) -> None:
            await self._begin(send)
            if lines:
                await send({"type": "http.response.body", "body": lines, "more_body": True})

        try:
            await self._call.run(body, writer, emit, body.gone)
            await self._begin(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (RecordFailed, CakeworkError) as error:
            await self._end(error, writer, request, receive, send)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _paced(self, size: int) -> None:
        await self._door.bodies.pace(self._account, size)

    async def _begin(self, send: Send) -> None:
        if self._begun:
            return
        self._begun = True
        _with_id(self, self._call)
        self.headers["Cakework-Transform"] = self._call.word
        headers = [each for each in self.raw_headers if each[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _end(
        self,
        error: RecordFailed | CakeworkError,
        writer: Writer,
        request: Request,
        receive: Receive,
        send: Send,
    ) -> None:
        """End with what went wrong: as a line, where some of the answer was given, or a record
        failed."""
        if not self._begun and isinstance(error, CakeworkError):
            await _with_id(problem(request, error), self._call)(request.scope, receive, send)
            return
        await self._begin(send)
        told = _told(error, self._call)
        await send({"type": "http.response.body", "body": writer.error(told), "more_body": False})


def _in_time(send: Send) -> Send:
    """Return what sends as ``send`` does, and raises CallerGone where nobody takes it."""

    async def sent(message: Message) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await send(message)
        except TimeoutError as error:
            raise CallerGone from error

    return sent


def _told(error: RecordFailed | CakeworkError, call: Call) -> dict[str, Any]:
    match error:
        case RecordFailed():
            of, number = error.error.code, error.number
            why = {"type": error.why.type, "message": error.why.message}
        case _:
            of, why = error.code, {"message": error.detail}
            number = error.number if isinstance(error, BadRecord) else call.counts.taken + 1
    return {"$error": {"code": of, **why}, "$record": number}
