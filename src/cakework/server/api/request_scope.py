"""Around every request: its id, one line in the log, and an answer when all else fails."""

import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from cakework.server.api.problems import problem

REQUEST_ID = "X-Request-Id"
INBOUND = "/in/"
"""What follows is known to who may send there, and is for no log."""
_log = structlog.stdlib.get_logger(__name__)


class RequestScope:
    """ASGI middleware that gives each request an id and logs how it ended."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(ULID())
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                _log.debug("request.left", method=scope["method"], path=shown_path(scope))
            except Exception as error:
                _log.exception("request.failed", method=scope["method"], path=shown_path(scope))
                if status:
                    raise
                await problem(Request(scope), error)(scope, receive, send_with_id)
            finally:
                _log.info(
                    "request",
                    method=scope["method"],
                    path=shown_path(scope),
                    status=status,
                    ms=round((time.perf_counter() - began) * 1000, 2),
                )


def shown_path(scope: Scope) -> str:
    """Return the path of a request as logs may tell it."""
    path = str(scope["path"])
    return f"{INBOUND}…" if path.startswith(INBOUND) else path
