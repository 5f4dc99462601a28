"""Calls about the journal: changes of state, and lines."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cakework.domain.errors import InvalidRequest
from cakework.domain.orders import LinesAck
from cakework.node.journal import Journal


class JournalCalls:
    """Stream changes and lines, confirm them. ``closing`` says when a stream is to end."""

    def __init__(self, journal: Journal, closing: Callable[[], bool]) -> None:
        self._journal = journal
        self._closing = closing

    def routes(self) -> list[Route]:
        """Return the routes of these calls."""
        return [
            Route("/v1/journal", self._read),
            Route("/v1/journal/ack", self._acknowledge, methods=["POST"]),
            Route("/v1/lines", self._read_lines),
            Route("/v1/lines/ack", self._acknowledge_lines, methods=["POST"]),
        ]

    async def _read(self, request: Request) -> Response:
        after = _cursor(request.query_params.get("after", "0"))
        return self._answer(self._journal.stream(after))

    async def _read_lines(self, _: Request) -> Response:
        return self._answer(self._journal.lines.stream())

    def _answer(self, stream: AsyncGenerator[bytes]) -> Response:
        return StreamingResponse(self._until_closing(stream), media_type="application/x-ndjson")

    async def _until_closing(self, stream: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
        async with aclosing(stream):
            async for chunk in stream:
                if chunk:
                    yield chunk
                if self._closing():
                    return

    async def _acknowledge(self, request: Request) -> Response:
        cursor = _Acknowledgement.model_validate_json(await request.body()).cursor
        self._journal.confirm(cursor)
        return JSONResponse({})

    async def _acknowledge_lines(self, request: Request) -> Response:
        self._journal.confirm_lines(LinesAck.model_validate_json(await request.body()).lines)
        return JSONResponse({})


class _Acknowledgement(BaseModel):
    cursor: int


def _cursor(text: str) -> int:
    if not text.isdecimal():
        raise InvalidRequest(f"after={text} is not a cursor")
    return int(text)
