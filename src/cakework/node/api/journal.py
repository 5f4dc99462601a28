"""Calls about the journal."""

from collections.abc import AsyncIterator, Callable

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cakework.domain.errors import InvalidRequest
from cakework.node.journal import Journal


class JournalCalls:
    """Stream facts, confirm them. ``closing`` says when a stream is to end."""

    def __init__(self, journal: Journal, closing: Callable[[], bool]) -> None:
        self._journal = journal
        self._closing = closing

    def routes(self) -> list[Route]:
        """Return the routes of these calls."""
        return [
            Route("/v1/journal", self._read),
            Route("/v1/journal/ack", self._acknowledge, methods=["POST"]),
        ]

    async def _read(self, request: Request) -> Response:
        after = _cursor(request.query_params.get("after", "0"))
        return StreamingResponse(self._until_closing(after), media_type="application/x-ndjson")

    async def _until_closing(self, after: int) -> AsyncIterator[bytes]:
        async for chunk in self._journal.stream(after):
            if chunk:
                yield chunk
            if self._closing():
                return

    async def _acknowledge(self, request: Request) -> Response:
        cursor = _Acknowledgement.model_validate_json(await request.body()).cursor
        self._journal.confirm(cursor)
        return JSONResponse({})


class _Acknowledgement(BaseModel):
    cursor: int


def _cursor(text: str) -> int:
    if not text.isdecimal():
        raise InvalidRequest(f"after={text} is not a cursor")
    return int(text)
