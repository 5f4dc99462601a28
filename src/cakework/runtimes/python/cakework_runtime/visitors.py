"""The port to which the router brings visitors: direct work."""

import json
import uuid
from typing import Any

from cakework_functions.calling import BadAnswer
from cakework_runtime.applications import Applications
from cakework_runtime.failure import Failure, bounded, describe, show
from cakework_runtime.handlers import Handlers
from cakework_runtime.http1 import BadRequest, Exchange, Gone
from cakework_runtime.invocations import Invocations
from cakework_runtime.websockets import WebSocket

TOLD = {
    b"cakework-invocation-id": "invocationId",
    b"cakework-deadline": "deadline",
    b"cakework-function-id": "functionId",
    b"cakework-version": "version",
    b"cakework-user-id": "userId",
}
"""Headers of the router's, which the function does not see. A visitor's own do not pass it."""
ASKS_SETTLED = b"cakework-settled"
SETTLED = b"HTTP/1.1 102 Settled\r\n\r\n"
"""Said after the answer, to a router that asks for it, when nothing of it runs any more."""
PROBLEM = "application/problem+json"


class Visitors:
    """Serves the requests of visitors, each in a turn of its own."""

    def __init__(
        self,
        handlers: Handlers,
        failed: BaseException | None,
        applications: Applications,
        invocations: Invocations,
    ) -> None:
        self._handlers = handlers
        self._failed = failed
        self._applications = applications
        self._invocations = invocations

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        asked = exchange.head.get(ASKS_SETTLED) is not None
        told = _told(exchange)
        await self._serve(exchange, told)
        if asked and exchange.complete:
            exchange.writer.write(SETTLED)

    async def _serve(self, exchange: Exchange, told: dict[str, Any]) -> None:
        if self._failed is not None:
            await _problem(exchange, 503, "version_failed", self._failed)
        elif self._handlers.http is None:
            await _problem(exchange, 404, "no_handler", Failure("NoHandler", "it has no http"))
        else:
            try:
                async with self._invocations.direct(told, exchange) as context:
                    if WebSocket.is_wanted(exchange.head) and self._handlers.http_form == "asgi":
                        await WebSocket(exchange).serve(self._handlers.http)
                    else:
                        await self._applications.serve(exchange, context)
            except (Gone, BadRequest, ConnectionError):
                raise
            except BaseException as error:
                await _failed(exchange, error)


async def _failed(exchange: Exchange, error: BaseException) -> None:
    if exchange.gone.is_set():
        raise Gone("the client went away") from error
    show(error)
    if exchange.started:
        # Said by an answer without an end; a whole one would be taken for good.
        raise Gone("the answer was broken off") from error
    reason = "bad_answer" if isinstance(error, BadAnswer) else "handler_error"
    await _problem(exchange, 502, reason, error)


async def _problem(exchange: Exchange, status: int, reason: str, error: BaseException) -> None:
    body = json.dumps({"reason": reason, "error": describe(error)}).encode()
    mark = (b"cakework-error", reason.encode())
    await exchange.answer(status, PROBLEM, body, mark)


def _told(exchange: Exchange) -> dict[str, Any]:
    head = exchange.head
    told: dict[str, Any] = {"invocationId": f"direct_{uuid.uuid4().hex}"}
    for name, value in head.headers:
        if name in TOLD:
            told[TOLD[name]] = value.decode("latin-1")
        elif name == b"traceparent":
            told["traceparent"] = bounded(value.decode("latin-1"), 100)
    ours = (*TOLD, ASKS_SETTLED)
    head.headers = [(name, value) for name, value in head.headers if name not in ours]
    if not str(told.get("version", "")).isdigit():
        told.pop("version", None)
    else:
        told["version"] = int(told["version"])
    return told
