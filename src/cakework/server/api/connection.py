"""Connections of the API: uvicorn's, with bounds on what somebody without a key may send.

A head is read before it is known whose it is, and uvicorn's parser keeps all of it in memory,
however long it is and however long it takes. Here a head, and whatever else is no body (sizes of
chunks, trailers), is bounded in bytes, number and time; so is what is sent after the answer, and
the number of connections: those without a request give way (``cakework.crowd``). What waits in all
of them of answers that are not taken has a bound: beyond it one gives way in which most waits, of
the account that has most.
"""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from cakework.crowd import Crowd, in_the_way

HEAD_BYTES_MAX = 32 * 1024
"""As the router's; nginx has 8 KiB for a line and 32 KiB for all, Node.js 16 KiB."""
HEADERS_MAX = 128
HEAD_S = 15.0
"""From the connection, or the end of the last answer, to the end of the head."""
KEEP_ALIVE_S = 75
"""For which a connection waits for another request; those that wait give way. Longer than most
clients and balancers keep one (httpx 5 s, nginx and AWS's balancers 60 s): who sends on one that is
being closed is told of a reset."""
LINGER_S = 10.0
"""How long the rest of a body is taken that was answered before its end: so that who sends it sees
the answer, and not a connection that is reset."""
FRAMING_BYTES_MAX = 64 * 1024
"""What may come besides a body, such as the sizes of its chunks, and a quarter of the body more: to
look at chunks of one byte takes a second for each megabyte."""
WRITE_S = 30.0
"""Within which who has an answer waiting takes some of it."""
PIPELINED_MAX = 16
CONNECTIONS = 8000
UNTAKEN_BYTES_MAX = 256 << 20
"""Of answers, in all connections."""
UNSENT_BYTES = 128 * 1024
"""From so many of a connection on the kernel takes none, which else keeps up to 4 MB for each
(``tcp_wmem``) that nobody counts; those on their way are the peer's window at most."""
_log = structlog.stdlib.get_logger(__name__)
_PIECE = 16 * 1024
_CLOSE = b"connection: close\r\ncontent-length: 0\r\n\r\n"
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n" + _CLOSE
_LATE = b"HTTP/1.1 408 Request Timeout\r\n" + _CLOSE
_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _CLOSE


class ApiConnection(HttpToolsProtocol):
    """One connection of the API."""

    def __init__(
        self, crowd: "Crowd[ApiConnection]", untaken: "Untaken", *args: Any, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.timeout_keep_alive = KEEP_ALIVE_S
        self._crowd = crowd
        self._untaken = untaken
        self._besides = 0
        """Bytes that came since the last that were a body's, or since the request's first."""
        self._headers = 0
        self._in_head = False
        self._in_message = False
        self._fed = self._body = 0
        """Bytes of the request that came, and of them those of its body."""
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._at_work: RequestResponseCycle | None = None
        """Which is answered; uvicorn's ``cycle`` is the one that came last."""

    @property
    def peer(self) -> str:
        """The address that connects."""
        return self.client[0] if self.client else ""

    @property
    def account(self) -> str:
        """Whose request was answered last, empty where that is not known."""
        state = self._at_work.scope.get("state", {}) if self._at_work is not None else {}
        return str(state.get("account", ""))

    @property
    def held(self) -> int:
        """How many bytes of answers wait to be taken."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close now, for another's sake."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head, unless all connections there may be have requests under way."""
        super().connection_made(transport)
        _have_little_unsent(transport)
        if self._crowd.admit(self):
            self._within(HEAD_S, self._head_is_late)
        else:
            transport.write(_BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._crowd.leave(self)
        self._within(None)
        self._give_up()
        self.resume_writing()
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
            self._fed += len(piece)
            if self._is_too_much():
                self._refuse(_LARGE)

    def _is_too_much(self) -> bool:
        framing_max = HEAD_BYTES_MAX + FRAMING_BYTES_MAX + self._body // 4
        return (
            self._besides > HEAD_BYTES_MAX
            or self._headers > HEADERS_MAX
            or self._fed - self._body > framing_max
            or len(self.pipeline) > PIPELINED_MAX
        )

    def pause_writing(self) -> None:
        """The answer waits for who asked: for as long as some of it is taken now and then."""
        super().pause_writing()
        self._writing = self.loop.call_later(WRITE_S, self._look_after_answer, self.held)
        self._untaken.wait_in(self)

    def resume_writing(self) -> None:
        """The answer goes on."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        self._untaken.wait_no_more(self)
        super().resume_writing()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._besides = self._headers = self._fed = self._body = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, unless there are too many. Trailers count, and are nobody's concern."""
        self._headers += 1
        if self._in_head and self._headers <= HEADERS_MAX:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer, unless there were too many headers."""
        if self._headers <= HEADERS_MAX:
            self._in_head = False
            self._within(None)
            self._crowd.speaks(self)
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._besides = 0
        self._body += len(body)
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
        """The answer is given: now another head, or the rest of the body."""
        super().on_response_complete()
        if not self._is_answering():
            self._crowd.falls_silent(self)
        if self._in_message and not self._in_head and not self._is_answering():
            self._within(LINGER_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; not in the midst of another answer, which it would end up in."""
        if self._is_answering():
            self._refuse(b"")
        else:
            super().send_400_response(msg)

    def _head_is_late(self) -> None:
        if self._is_answering():
            self._within(HEAD_S, self._head_is_late)
        else:
            self._refuse(_LATE)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._at_work = cycle
        super()._start_asgi_task(cycle, app)

    def _is_answering(self) -> bool:
        return self._at_work is not None and not self._at_work.response_complete

    def _give_up(self) -> None:
        """Have whoever makes the answer find that nobody waits for it, nor for those after it."""
        self.pipeline.clear()
        if self._at_work is not None and not self._at_work.response_complete:
            self._at_work.disconnected = True
            self._at_work.message_event.set()

    def _refuse(self, answer: bytes) -> None:
        """Close; with an answer, unless it would come in the midst of another or after it."""
        if self.transport.is_closing():
            return
        if self._is_answering():
            self._give_up()
        elif self._in_head:
            self.transport.write(answer)
        self.transport.close()

    def _look_after_answer(self, before: int) -> None:
        held = self.held
        if held >= before:
            self.transport.abort()
        else:
            self._writing = self.loop.call_later(WRITE_S, self._look_after_answer, held)

    def _within(self, seconds: float | None, then: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None and then is not None:
            self._timer = self.loop.call_later(seconds, then)


def _have_little_unsent(transport: asyncio.Transport) -> None:
    sock = cast("socket.socket | None", transport.get_extra_info("socket"))
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


class Untaken:
    """The connections in which answers wait for whoever asked, ``bytes_max`` of them in all."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._connections: dict[ApiConnection, None] = {}

    def wait_in(self, connection: ApiConnection) -> None:
        """Count a connection in which more waits than passes at once; soon, see that all together
        have no more than they may."""
        self._connections[connection] = None
        connection.loop.call_soon(self._make_room)

    def wait_no_more(self, connection: ApiConnection) -> None:
        """Count a connection no more."""
        self._connections.pop(connection, None)

    def _make_room(self) -> None:
        for connection in in_the_way(self._connections, self._bytes_max):
            _log.warning("api.gave_way", account_id=connection.account)
            self.wait_no_more(connection)
            connection.abort()


def api_config(
    app: Any,
    connections: int = CONNECTIONS,
    untaken_bytes_max: int = UNTAKEN_BYTES_MAX,
    **options: Any,
) -> uvicorn.Config:
    """Return how the API is served: so many connections at once, in which so many bytes of answers
    wait; ``options`` of uvicorn besides."""
    crowd: Crowd[ApiConnection] = Crowd(connections)
    untaken = Untaken(untaken_bytes_max)
    return uvicorn.Config(
        app,
        http=cast("type[ApiConnection]", partial(ApiConnection, crowd, untaken)),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        **options,
    )
