"""Requests through what a function has for them: ASGI, WSGI, a plain function, the old form."""

import asyncio
import contextlib
import io
import json
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from concurrent.futures import Executor
from typing import Any, Protocol, cast
from urllib.parse import unquote

from cakework_functions.calling import BadAnswer, called
from cakework_functions.context import Context
from cakework_functions.http import Request, Response
from cakework_runtime.failure import Failure
from cakework_runtime.handlers import Handlers
from cakework_runtime.http1 import Gone, Head, Pairs

JSON_TYPES = ("application/json", "+json")


class Channel(Protocol):
    """A request and its answer, whichever way they go."""

    @property
    def head(self) -> Head: ...  # noqa: D102
    @property
    def gone(self) -> asyncio.Event: ...  # noqa: D102
    @property
    def started(self) -> bool: ...  # noqa: D102
    async def receive(self) -> bytes: ...  # noqa: D102
    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None: ...  # noqa: D102
    async def send(self, part: bytes) -> None: ...  # noqa: D102
    async def finish(self) -> None: ...  # noqa: D102


class Applications:
    """Serves requests by what ``handlers`` have for http. ``threads`` runs what is synchronous."""

    def __init__(self, handlers: Handlers, threads: Executor) -> None:
        self._handlers = handlers
        self._threads = threads
        self._state: dict[str, Any] = {}
        self._lifespan: asyncio.Task[None] | None = None

    async def serve(self, channel: Channel, context: Context) -> None:
        """Answer one request; raises what the function raises."""
        form = self._handlers.http_form
        if form == "asgi":
            await self._asgi(channel)
        elif form == "wsgi":
            await self._in_thread(self._wsgi, channel)
        elif form == "rest":
            await self._rest(channel, context)
        else:
            await self._plain(channel, context)

    async def start_up(self) -> None:
        """Tell an ASGI application that it starts, if it listens to that.

        Raises:
            Failure: it says that it cannot.
        """
        if self._handlers.http_form != "asgi":
            return
        started: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._lifespan = asyncio.create_task(self._live(started))
        message = await started
        if message is not None:
            raise Failure("StartupFailed", message or "the application says that it cannot start")

    async def _live(self, started: asyncio.Future[str | None]) -> None:
        told = False

        async def receive() -> dict[str, Any]:
            nonlocal told
            if told:
                await asyncio.Event().wait()
            told = True
            return {"type": "lifespan.startup"}

        async def send(message: dict[str, Any]) -> None:
            if started.done():
                return
            failed = message["type"] == "lifespan.startup.failed"
            started.set_result(message.get("message", "") if failed else None)

        scope = {"type": "lifespan", "asgi": _asgi_version(), "state": self._state}
        # What does not know of lifespans raises or returns.
        with contextlib.suppress(Exception):
            await cast("Any", self._handlers.http)(scope, receive, send)
        if not started.done():
            started.set_result(None)

    async def _asgi(self, channel: Channel) -> None:
        ended = False
        more = True

        async def receive() -> dict[str, Any]:
            nonlocal ended
            if ended:
                await channel.gone.wait()
                return {"type": "http.disconnect"}
            try:
                part = await channel.receive()
            except Gone:
                return {"type": "http.disconnect"}
            ended = not part
            return {"type": "http.request", "body": part, "more_body": not ended}

        async def send(message: dict[str, Any]) -> None:
            nonlocal more
            if message["type"] == "http.response.start":
                headers = [(bytes(k), bytes(v)) for k, v in message.get("headers", ())]
                await channel.start(message["status"], headers)
            elif message["type"] == "http.response.body" and more:
                await channel.send(bytes(message.get("body", b"")))
                more = message.get("more_body", False)
                if not more:
                    await channel.finish()

        scope = {**asgi_scope(channel.head, "http"), "state": self._state.copy()}
        scope["method"] = channel.head.method
        await cast("Any", self._handlers.http)(scope, receive, send)
        if not channel.started:
            raise Failure("NoAnswer", "the application returned without an answer", True)
        if more:
            raise Failure("NoAnswer", "the application returned before its answer's end", True)

    async def _plain(self, channel: Channel, context: Context) -> None:
        request = _request(channel, context)
        function = cast("Callable[..., Any]", self._handlers.http)
        answer = await called(function, request, context, threads=self._threads)
        response = Response.of(answer)
        await channel.start(response.status, _pairs(response.headers, response.body))
        await self._send_body(channel, response.body)
        await channel.finish()

    async def _send_body(self, channel: Channel, body: object) -> None:
        if channel.head.method == "HEAD":
            return  # It would be made for nobody, without end perhaps.
        if isinstance(body, bytes):
            await channel.send(body)
        elif isinstance(body, AsyncIterable):
            async for part in cast("AsyncIterable[str | bytes]", body):
                await channel.send(_bytes(part))
        elif body is not None:
            await self._in_thread(_send_all, channel, body)

    async def _rest(self, channel: Channel, context: Context) -> None:
        request = _request(channel, context)
        raw = await request.read()
        body: Any = raw.decode("utf-8", "replace") or None
        if raw and request.headers.get("content-type", "").split(";")[0].endswith(JSON_TYPES):
            body = json.loads(raw)
        told = {
            "method": request.method,
            "path": request.path,
            "headers": dict(request.headers),
            "query": request.query,
            "params": {},
            "body": body,
        }
        function = cast("Callable[..., Any]", self._handlers.http)
        answer = await called(function, told, context, threads=self._threads)
        response = rest_response(answer)
        await channel.start(response.status, _pairs(response.headers, response.body))
        await self._send_body(channel, response.body)
        await channel.finish()

    async def _in_thread(self, function: Callable[..., None], *given: Any) -> None:
        loop = asyncio.get_running_loop()

        def send(waiting: Awaitable[None]) -> None:
            asyncio.run_coroutine_threadsafe(_wait(waiting), loop).result()

        await called(lambda: function(*given, send), threads=self._threads)

    def _wsgi(self, channel: Channel, send: Callable[[Awaitable[None]], None]) -> None:
        loop_receive = _Input(channel, send)
        begun: list[tuple[int, list[tuple[bytes, bytes]]]] = []
        sent = False

        def write(part: bytes) -> None:
            nonlocal sent
            if not begun:
                raise Failure("NoAnswer", "the application sent a body before start_response", True)
            if not sent:
                sent = True
                send(channel.start(*begun[-1]))
            if part:
                send(channel.send(part))

        def start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], None]:
            if exc_info and sent:
                raise exc_info[1].with_traceback(exc_info[2])
            pairs = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers]
            begun.append((int(status.split(" ")[0]), pairs))
            return write

        environ = wsgi_environ(channel.head, io.BufferedReader(loop_receive))
        parts = cast("Any", self._handlers.http)(environ, start_response)
        try:
            for part in parts:
                write(part)
            write(b"")
        finally:
            if hasattr(parts, "close"):
                parts.close()
        send(channel.finish())


class _Input(io.RawIOBase):
    """``wsgi.input``: the body as it comes, read in a thread."""

    def __init__(self, channel: Channel, send: Callable[[Awaitable[None]], None]) -> None:
        self._channel = channel
        self._wait = send
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._wait(self._more())
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)

    async def _more(self) -> None:
        self._rest = await self._channel.receive()


def _send_all(channel: Channel, parts: Any, send: Callable[[Awaitable[None]], None]) -> None:
    try:
        for part in parts:
            send(channel.send(_bytes(part)))
    finally:
        if hasattr(parts, "close"):
            parts.close()


async def _wait(waiting: Awaitable[None]) -> None:
    await waiting


def _request(channel: Channel, context: Context) -> Request:
    head = channel.head
    pairs = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in head.headers]
    request = Request(head.method, head.target, pairs, context=context)
    request.arriving(channel.receive, asyncio.get_running_loop())
    return request


def _pairs(headers: list[tuple[str, str]], body: object) -> Pairs:
    pairs = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers]
    names = {name.lower() for name, _ in pairs}
    if (body is None or isinstance(body, bytes)) and b"content-length" not in names:
        pairs.append((b"content-length", str(len(body or b"")).encode()))
    return pairs


def _bytes(part: object) -> bytes:
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytes | bytearray | memoryview):
        return bytes(cast("bytes", part))
    raise TypeError(f"a part of a body is str or bytes, not {type(part).__name__}")


def rest_response(answer: object) -> Response:
    """Return what the old form ``{statusCode, body, headers?}`` means.

    Raises:
        BadAnswer: it is not of that form.
    """
    if not isinstance(answer, dict) or "statusCode" not in answer:
        raise BadAnswer("the answer has no statusCode")
    told = cast("dict[str, Any]", answer)
    if not isinstance(told["statusCode"], int) or not 200 <= told["statusCode"] <= 599:
        raise BadAnswer("statusCode is no number from 200 to 599")
    headers = {str(k): str(v) for k, v in cast("Any", told.get("headers") or {}).items()}
    body = told.get("body")
    if isinstance(body, int | float | bool):
        body = json.dumps(body)
    return Response(body, told["statusCode"], headers).completed()


def asgi_scope(head: Head, kind: str) -> dict[str, Any]:
    """Return what ASGI tells an application about a request or a WebSocket."""
    raw_path, _, query = head.target.partition("?")
    return {
        "type": kind,
        "asgi": _asgi_version(),
        "http_version": head.version.removeprefix("HTTP/"),
        "scheme": "https" if kind == "http" else "wss",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": head.headers,
        "client": None,
        "server": None,
    }


def _asgi_version() -> dict[str, str]:
    return {"version": "3.0", "spec_version": "2.3"}


def wsgi_environ(head: Head, body: Any) -> dict[str, Any]:
    """Return what WSGI (PEP 3333) tells an application about a request."""
    raw_path, _, query = head.target.partition("?")
    host, _, port = (head.get(b"host") or "localhost").partition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(raw_path, "latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": host,
        "SERVER_PORT": port or "443",
        "SERVER_PROTOCOL": head.version,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in head.headers:
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ
