"""WebSockets (RFC 6455) of ASGI applications: handshake, frames, messages."""

import asyncio
import base64
import hashlib
import struct
from collections.abc import Callable
from typing import Any

from cakework_runtime.applications import asgi_scope
from cakework_runtime.http1 import Exchange, Gone, Head, checked

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MESSAGE_MAX_BYTES = 16 * 1024 * 1024
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NO_CODE, ABNORMAL, PROTOCOL_ERROR, NO_TEXT, TOO_BIG = 1005, 1006, 1002, 1007, 1009


class _Closed(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class WebSocket:
    """One WebSocket, from the request for it to its end."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._head = exchange.head
        self._accepted = False
        self._told_connect = False
        self._closed: int | None = None

    @staticmethod
    def is_wanted(head: Head) -> bool:
        """Tell whether a request asks for a WebSocket."""
        key = head.get(b"sec-websocket-key")
        return (
            head.lists(b"upgrade", "websocket")
            and head.lists(b"connection", "upgrade")
            and bool(key)
        )

    async def serve(self, app: Callable[..., Any]) -> None:
        """Let the application have it; it is closed when the application returns."""
        self._exchange.keeps = False
        wanted = (self._head.get(b"sec-websocket-protocol") or "").split(",")
        scope = asgi_scope(self._head, "websocket")
        scope["subprotocols"] = [each.strip() for each in wanted if each.strip()]
        await app(scope, self._receive, self._send)
        if not self._accepted and not self._exchange.started:
            await self._exchange.answer(403, "text/plain", b"")
        elif self._accepted and self._closed is None:
            await self._close(1000, "")

    async def _receive(self) -> dict[str, Any]:
        if not self._told_connect:
            self._told_connect = True
            return {"type": "websocket.connect"}
        if self._closed is None:
            try:
                kind, payload = await self._message()
                key = "text" if kind == TEXT else "bytes"
                content = payload.decode() if kind == TEXT else payload
                return {"type": "websocket.receive", key: content}
            except _Closed as closed:
                await self._answer_close(closed.code)
            except UnicodeDecodeError:
                await self._answer_close(NO_TEXT)
            except (asyncio.IncompleteReadError, ConnectionError):
                self._closed = ABNORMAL
        return {"type": "websocket.disconnect", "code": self._closed}

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            await self._accept(message)
        elif kind == "websocket.close" and not self._accepted:
            await self._exchange.answer(403, "text/plain", b"")
        elif kind == "websocket.close":
            await self._close(message.get("code", 1000), message.get("reason") or "")
        elif self._closed is not None:
            raise Gone("the WebSocket is closed")
        elif message.get("text") is not None:
            await self._frame(TEXT, message["text"].encode())
        else:
            await self._frame(BINARY, bytes(message["bytes"]))

    async def _accept(self, message: dict[str, Any]) -> None:
        key = (self._head.get(b"sec-websocket-key") or "").encode()
        token = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
        lines = [
            b"HTTP/1.1 101 Switching Protocols",
            b"upgrade: websocket",
            b"connection: Upgrade",
            b"sec-websocket-accept: " + token,
        ]
        if message.get("subprotocol"):
            lines.append(b"sec-websocket-protocol: " + message["subprotocol"].encode())
        for name, value in message.get("headers") or ():
            lines.append(b": ".join(checked(bytes(name), bytes(value))))
        self._accepted = self._exchange.started = True
        self._exchange.writer.write(b"\r\n".join(lines) + b"\r\n\r\n")

    async def _message(self) -> tuple[int, bytes]:
        """Return the next whole message, answering pings before it."""
        kind, parts, size = 0, list[bytes](), 0
        while True:
            final, code, payload = await self._read_frame()
            if code == PING:
                await self._frame(PONG, payload)
            elif code == CLOSE:
                raise _Closed(struct.unpack("!H", payload[:2])[0] if len(payload) > 1 else NO_CODE)
            elif code != PONG:
                if (code == 0) != bool(kind) or code not in (0, TEXT, BINARY):
                    raise _Closed(PROTOCOL_ERROR)
                kind = kind or code
                parts.append(payload)
                size += len(payload)
                if size > MESSAGE_MAX_BYTES:
                    raise _Closed(TOO_BIG)
                if final:
                    return kind, b"".join(parts)

    async def _read_frame(self) -> tuple[bool, int, bytes]:
        reader = self._exchange.reader
        first, second = await reader.readexactly(2)
        size = second & 0x7F
        if first & 0x70 or not second & 0x80 or (first & 8 and (size > 125 or not first & 0x80)):
            raise _Closed(PROTOCOL_ERROR)
        if size == 126:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await reader.readexactly(8))
        if size > MESSAGE_MAX_BYTES:
            raise _Closed(TOO_BIG)
        mask = await reader.readexactly(4)
        return bool(first & 0x80), first & 0x0F, _unmasked(await reader.readexactly(size), mask)

    async def _frame(self, code: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | code, size)
        elif size < 65_536:
            head = struct.pack("!BBH", 0x80 | code, 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | code, 127, size)
        self._exchange.writer.write(head + payload)
        await self._exchange.writer.drain()

    async def _answer_close(self, code: int) -> None:
        self._closed = code
        await self._frame(CLOSE, b"" if code == NO_CODE else struct.pack("!H", code))

    async def _close(self, code: int, reason: str) -> None:
        if self._closed is None:
            self._closed = code
            await self._frame(CLOSE, struct.pack("!H", code) + reason.encode()[:123])


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = int.from_bytes(mask * (size // 4 + 1), "big") >> 8 * (4 - size % 4)
    return (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
