"""HTTP/1.1 as a server speaks it, over asyncio: heads, bodies and answers, each as it comes."""

import asyncio
import contextlib
import http
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

HEAD_MAX_BYTES = 65_536
HEADERS_MAX = 200
LEFT_OVER_MAX_BYTES = 65_536
"""How much of an unread body is thrown away to keep a connection."""
CHUNK_BYTES = 65_536
BODILESS = (204, 304)

Pairs = list[tuple[bytes, bytes]]


class BadRequest(Exception):
    """The bytes are no request; the connection ends."""


class Gone(Exception):
    """The client is not there any more, or the answer was broken off."""


@dataclass(slots=True)
class Head:
    """A request without its body. Names of headers are in lower case."""

    method: str
    target: str
    version: str
    headers: Pairs

    def get(self, name: bytes) -> str | None:
        """Return the first header of that name."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    def lists(self, name: bytes, word: str) -> bool:
        """Tell whether a header has ``word`` among its comma-separated ones."""
        return any(
            word in map(str.strip, value.decode("latin-1").lower().split(","))
            for key, value in self.headers
            if key == name
        )


class Exchange:
    """One request and its answer on a connection."""

    def __init__(
        self,
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gone: asyncio.Event,
    ) -> None:
        self.head = head
        self.reader = reader
        self.writer = writer
        self.gone = gone
        self.started = False
        self.complete = False
        self.keeps = head.version == "HTTP/1.1" and not head.lists(b"connection", "close")
        self._body = body_of(head)
        self._wants_continue = head.lists(b"expect", "100-continue")
        self._chunked = False
        self._bodiless = False
        self._left: int | None = None

    async def receive(self) -> bytes:
        """Return what has come of the body, or nothing at its end.

        Raises:
            Gone: the client went away before the end.
            BadRequest: what it sends is no body.
        """
        if self._wants_continue:
            self._wants_continue = False
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            return await self._body.read(self.reader)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.gone.set()
            raise Gone("the client went away in the middle of its request") from error
        except asyncio.LimitOverrunError as error:
            raise BadRequest("a line of the body is too long") from error

    async def body(self, limit: int) -> bytes:
        """Return the whole body, of at most ``limit`` bytes."""
        parts, size = list[bytes](), 0
        while part := await self.receive():
            parts.append(part)
            size += len(part)
            if size > limit:
                raise BadRequest(f"a body has at most {limit} bytes")
        return b"".join(parts)

    async def start(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], closing: bool = False
    ) -> None:
        """Send the head of the answer; ``closing``: its body ends with the connection."""
        if self.started:
            raise RuntimeError("the answer was begun before")
        pairs = [checked(name, value) for name, value in headers]
        names = {name.lower() for name, _ in pairs}
        self.started = True
        self._bodiless = status in BODILESS or self.head.method == "HEAD"
        pairs = [
            pair for pair in pairs if pair[0].lower() not in (b"connection", b"transfer-encoding")
        ]
        for name, value in pairs:
            if name.lower() == b"content-length" and not self._bodiless:
                self._left = int(value)
        if b"content-length" not in names and not self._bodiless:
            if closing or self.head.version != "HTTP/1.1":
                self.keeps = False
            else:
                self._chunked = True
                pairs.append((b"transfer-encoding", b"chunked"))
        if not self.keeps:
            pairs.append((b"connection", b"close"))
        lines = [b"HTTP/1.1 %d %s" % (status, phrase(status))]
        lines += [name + b": " + value for name, value in pairs]
        self.writer.write(b"\r\n".join(lines) + b"\r\n\r\n")

    async def send(self, part: bytes) -> None:
        """Send a part of the body; returns when the client takes more.

        Raises:
            Gone: the client went away.
        """
        if self._bodiless or not part:
            return
        if self._left is not None:
            self._left -= len(part)
            if self._left < 0:
                raise RuntimeError("the body has more bytes than its Content-Length")
        if self._chunked:
            part = b"%x\r\n%s\r\n" % (len(part), part)
        self.writer.write(part)
        try:
            await self.writer.drain()
        except ConnectionError as error:
            self.gone.set()
            raise Gone("the client went away") from error
        if self.writer.transport.is_closing():
            raise Gone("the client went away")

    async def finish(self) -> None:
        """End the answer."""
        if self._left:
            raise RuntimeError("the body has less bytes than its Content-Length")
        if self._chunked:
            self.writer.write(b"0\r\n\r\n")
        self.complete = True
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self, status: int, kind: str, body: bytes, *more: tuple[bytes, bytes]) -> None:
        """Send a whole answer."""
        length = str(len(body)).encode()
        await self.start(
            status, [(b"content-type", kind.encode()), (b"content-length", length), *more]
        )
        await self.send(body)
        await self.finish()

    async def reusable(self) -> bool:
        """Tell whether another request may follow, once the rest of this one is thrown away."""
        if not (self.keeps and self.complete) or self._wants_continue:
            return False
        size = 0
        with contextlib.suppress(Gone):
            while part := await self.receive():
                size += len(part)
                if size > LEFT_OVER_MAX_BYTES:
                    return False
            return True
        return False


Serve = Callable[[Exchange], Awaitable[None]]


class Server:
    """Accepts connections and gives each request to ``serve``, one after the other on each."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._idle: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def protocol(self) -> "_Protocol":
        """Return what handles one connection."""
        return _Protocol(self._connection)

    def drop_idle(self) -> None:
        """Close connections on which no request is under way."""
        for writer in list(self._idle):
            writer.close()

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: asyncio.Event
    ) -> None:
        exchange = None
        try:
            while True:
                self._idle.add(writer)
                head = await read_head(reader)
                self._idle.discard(writer)
                if head is None:
                    break
                exchange = Exchange(head, reader, writer, gone)
                await self._serve(exchange)
                if not await exchange.reusable():
                    break
                exchange = None
        except BadRequest as error:
            if exchange is not None and exchange.started:
                return
            text = f"{error}\n".encode()
            writer.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(text), text)
            )
        except (Gone, ConnectionError):
            pass
        finally:
            self._idle.discard(writer)
            writer.close()


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells when the client stops sending, which none does that still waits for an answer."""

    def __init__(
        self,
        begin: Callable[
            [asyncio.StreamReader, asyncio.StreamWriter, asyncio.Event], Awaitable[None]
        ],
    ) -> None:
        reader = asyncio.StreamReader(limit=HEAD_MAX_BYTES)
        self._gone = asyncio.Event()
        super().__init__(reader, lambda r, w: begin(r, w, self._gone))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio does so itself, but not for sockets of a listener that was made without it.
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        self._gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        super().connection_lost(exc)


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Return the head of the next request, or None when there is none.

    Raises:
        BadRequest: it is none.
    """
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError as error:
        raise BadRequest("the head is too large") from error
    first, *lines = raw[:-4].lstrip(b"\r\n").split(b"\r\n")
    words = first.decode("latin-1").split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0") or len(lines) > HEADERS_MAX:
        raise BadRequest("the bytes are no request")
    return Head(words[0], words[1], words[2], [_header(line) for line in lines])


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line:
        raise BadRequest("a header is none")
    return name.lower(), value.strip()


def checked(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return a header of an answer, if it ends no line.

    Raises:
        ValueError: it does.
    """
    if not name or any(byte in name + value for byte in (b"\r", b"\n", b"\0")) or b":" in name:
        raise ValueError(f"{name!r} is no header")
    return name, value


def phrase(status: int) -> bytes:
    """Return the words for a status."""
    try:
        return http.HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Status"


class _Length:
    def __init__(self, size: int) -> None:
        self._left = size

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        if not self._left:
            return b""
        part = await reader.read(min(self._left, CHUNK_BYTES))
        if not part:
            raise asyncio.IncompleteReadError(b"", self._left)
        self._left -= len(part)
        return part


class _Chunked:
    def __init__(self) -> None:
        self._left = 0
        self._ended = False

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        if self._ended:
            return b""
        if not self._left:
            self._left = _size(await reader.readuntil(b"\r\n"))
        if not self._left:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            self._ended = True
            return b""
        part = await reader.read(min(self._left, CHUNK_BYTES))
        if not part:
            raise asyncio.IncompleteReadError(b"", self._left)
        self._left -= len(part)
        if not self._left and await reader.readexactly(2) != b"\r\n":
            raise BadRequest("a chunk has no end")
        return part


def _size(line: bytes) -> int:
    digits = line.split(b";")[0].strip()
    if not digits or digits.strip(b"0123456789abcdefABCDEF") or len(digits) > 15:
        raise BadRequest("a chunk has no size")
    return int(digits, 16)


def body_of(head: Head) -> _Length | _Chunked:
    """Return what reads the body of a request.

    Raises:
        BadRequest: its length is not one.
    """
    encodings = [value for name, value in head.headers if name == b"transfer-encoding"]
    lengths = {value for name, value in head.headers if name == b"content-length"}
    if encodings:
        if lengths or [each.lower() for each in encodings] != [b"chunked"]:
            raise BadRequest("the body's length is told twice, or in an unknown way")
        return _Chunked()
    if not lengths:
        return _Length(0)
    if len(lengths) > 1 or not (text := lengths.pop()).isdigit() or len(text) > 15:
        raise BadRequest("the body's length is none")
    return _Length(int(text))
