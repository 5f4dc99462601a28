"""Connections of the API: uvicorn's, with bounds on what somebody without a key may send.

A head is read before it is known whose it is, and uvicorn's parser keeps all of it in memory,
however long it is and however long it takes. Here a head, and whatever else is no body (sizes of
chunks, trailers), is bounded in bytes, number and time; so is what is sent after the answer.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 32 * 1024
"""As the router's; nginx has 8 KiB for a line and 32 KiB for all, Node.js 16 KiB."""
HEADERS_MAX = 128
HEAD_S = 15.0
"""From the connection, or the end of the last answer, to the end of the head."""
LINGER_S = 10.0
"""How long the rest of a body is read that was answered before its end: so that who sends it sees
the answer, and not a connection that is reset."""
PIPELINED_MAX = 16
_PIECE = 16 * 1024
_CLOSE = b"connection: close\r\ncontent-length: 0\r\n\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout\r\n" + _CLOSE
_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _CLOSE


class ApiConnection(HttpToolsProtocol):
    """One connection of the API."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._besides = 0
        """Bytes that came since the last that were a body's, or since the request's first."""
        self._headers = 0
        self._in_head = False
        self._in_message = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._within(HEAD_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._within(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Have the parser look at ``data``, a little at a time: it has no bounds of its own."""
        if not self._in_message and self._timer is None:
            self._within(HEAD_S, self._head_is_late)
        for start in range(0, len(data), _PIECE):
            if self.transport.is_closing():
                return
            piece = data[start : start + _PIECE]
            super().data_received(piece)
            self._besides += len(piece)
            if self._besides > HEAD_BYTES_MAX or self._headers > HEADERS_MAX:
                self._refuse(_LARGE)
            elif len(self.pipeline) > PIPELINED_MAX:
                self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._besides = self._headers = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, unless there are too many. Trailers count, and are nobody's concern."""
        self._headers += 1
        if self._in_head and self._headers <= HEADERS_MAX:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer, unless there were too many headers."""
        self._in_head = False
        self._within(None)
        if self._headers <= HEADERS_MAX:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._besides = 0
        if self._headers <= HEADERS_MAX:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there to its last byte."""
        self._in_message = False
        if self._timer is not None:
            self._within(HEAD_S, self._head_is_late)
        if self._headers <= HEADERS_MAX:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is given: now the rest of the body, if there is any, or another head."""
        super().on_response_complete()
        if self._in_message and not self._in_head and not self.pipeline:
            self._within(LINGER_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; not in the midst of another answer, which it would end up in."""
        if self._is_answering():
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _head_is_late(self) -> None:
        if self._in_head:
            self._refuse(_LATE)
        else:
            self.transport.close()

    def _is_answering(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    def _refuse(self, answer: bytes) -> None:
        if not (self._is_answering() or self.transport.is_closing()):
            self.transport.write(answer)
        self.transport.close()

    def _within(self, seconds: float | None, then: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None and then is not None:
            self._timer = self.loop.call_later(seconds, then)


def api_config(app: Any, **options: Any) -> uvicorn.Config:
    """Return how the API is served: with ``options`` of uvicorn besides."""
    return uvicorn.Config(
        app,
        http=ApiConnection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        **options,
    )
