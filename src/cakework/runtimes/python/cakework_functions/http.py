"""Requests and responses of handlers that are plain functions: ``def http(request)``."""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from collections.abc import Mapping as MappingBase
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

from cakework_functions.calling import BadAnswer
from cakework_functions.context import Context

Given = MappingBase[str, str] | Iterable[tuple[str, str]]
Chunk = str | bytes
Body = Chunk | Iterable[Chunk] | AsyncIterable[Chunk] | dict[str, Any] | list[Any] | None


class Headers(MappingBase[str, str]):
    """Headers by name, in upper or lower case; those that come twice are joined by a comma."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            key = name.lower()
            self._values[key] = f"{self._values[key]}, {value}" if key in self._values else value

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self._values})"


class Request:
    """A request to a function.

    ``path`` is decoded, ``query`` has the last value of each name, ``query_string`` is as it came.
    """

    def __init__(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Given = (),
        body: bytes | str = b"",
        context: Context | None = None,
    ) -> None:
        self.method = method
        raw_path, _, self.query_string = target.partition("?")
        self.path = unquote(raw_path)
        self.query = dict(parse_qsl(self.query_string, keep_blank_values=True))
        self.headers = Headers(_pairs(headers))
        self.context = context
        self._body: bytes | None = body.encode() if isinstance(body, str) else body
        self._receive: Callable[[], Awaitable[bytes]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def arriving(
        self, receive: Callable[[], Awaitable[bytes]], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Have the body come from ``receive``, empty at its end. The adapter calls this."""
        self._body, self._receive, self._loop = None, receive, loop

    @property
    def body(self) -> bytes:
        """Return the body, waiting for it; in an asynchronous handler use ``read``."""
        if self._body is None:
            self._body = b"".join(self.chunks())
        return self._body

    @property
    def text(self) -> str:
        """Return the body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """Return what the body says in JSON."""
        return json.loads(self.body)

    async def read(self) -> bytes:
        """Return the body, awaiting it."""
        if self._body is None:
            self._body = b"".join([chunk async for chunk in self.stream()])
        return self._body

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes, in a handler that is not asynchronous."""
        if self._body is not None:
            yield self._body
            return
        if self._loop is None or self._receive is None:
            return
        if _runs_here(self._loop):
            raise RuntimeError("use `await request.read()` in an asynchronous handler")
        while chunk := asyncio.run_coroutine_threadsafe(
            _awaited(self._receive), self._loop
        ).result():
            yield chunk

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, in an asynchronous handler."""
        if self._body is not None:
            yield self._body
            return
        while self._receive is not None and (chunk := await self._receive()):
            yield chunk


class Response:
    """An answer: a status, headers, and a body, which may be made while it is sent."""

    def __init__(
        self,
        body: Body = None,
        status: int = 200,
        headers: Given = (),
    ) -> None:
        self.status = status
        self.headers = _pairs(headers)
        self.body = body

    @classmethod
    def of(cls, answer: object) -> "Response":
        """Return the response that a handler's answer means.

        Raises:
            BadAnswer: it means none.
        """
        if answer is None:
            return cls(status=204)
        if isinstance(answer, Response):
            return answer.completed()
        if isinstance(answer, str | bytes | dict | list | AsyncIterable | Iterator):
            return cls(cast("Body", answer)).completed()
        raise BadAnswer(f"a handler of http cannot answer with {type(answer).__name__}")

    def completed(self) -> "Response":
        """Return it with its content type, its body as bytes or as what yields them."""
        body, kind = self.body, "application/octet-stream"
        if isinstance(body, dict | list):
            body, kind = _json(cast("object", body)), "application/json"
        elif isinstance(body, str):
            body, kind = body.encode(), "text/plain; charset=utf-8"
        elif isinstance(body, AsyncIterable | Iterable) and not isinstance(body, bytes):
            kind = "text/plain; charset=utf-8"
        response = Response(body, self.status, self.headers)
        has_kind = any(name.lower() == "content-type" for name, _ in self.headers)
        if body is not None and not has_kind:
            response.headers.append(("Content-Type", kind))
        return response


def _pairs(headers: Given) -> list[tuple[str, str]]:
    if isinstance(headers, MappingBase):
        return list(cast("MappingBase[str, str]", headers).items())
    return list(headers)


def _json(body: object) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadAnswer(f"the answer is no JSON: {error}") from error


async def _awaited(receive: Callable[[], Awaitable[bytes]]) -> bytes:
    return await receive()


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
