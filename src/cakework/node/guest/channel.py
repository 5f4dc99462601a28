"""One connection to a guest, over the unix socket that QEMU opens for its port."""

import asyncio
import contextlib
import os
import secrets
import socket
from collections import deque
from pathlib import Path

from cakework.node.guest.codec import decode_guest, encode
from cakework.node.guest.dues import Dues
from cakework.node.guest.protocol import (
    HELLO,
    MARK,
    VERSION,
    WIRE_MAX,
    GuestError,
    GuestFrame,
    GuestHello,
    HostFrame,
    HostHello,
)

SEND_TIMEOUT_S = 30.0
"""How long a guest may take nothing. What is sent beyond 64 KiB waits for it; before it gets there,
port and sockets hold as much again."""
CLOSE_TIMEOUT_S = 1.0
LEFT_OVER_BYTES, LEFT_OVER_FRAME = 16 << 20, 64
"""Before it answers a HELLO a guest has no more to say than what was on its way and the lines that
it keeps: 4 MiB of them, 131,072. A frame counts with so many bytes at least."""
EMPTY_FRAMES = 1000
"""So many mean nothing; the guest sends one, before its HELLO."""
_CHUNK = 1 << 16


class GuestChannel:
    """Frames to and from one guest, whose bytes are not trusted: memory, work and waiting are
    bounded.

    One task may receive while others send. ``hello`` is the guest's answer to the handshake.
    """

    hello: GuestHello

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._pieces: deque[bytes] = deque()
        self._rest = bytearray()
        self._dues = Dues()
        self._empty = 0

    @classmethod
    async def connect(cls, path: Path, *, acked: int, timeout_s: float) -> "GuestChannel":
        """Connect to the socket at ``path`` and shake hands.

        ``acked`` is the highest line number recorded: the guest sends every later line again.

        Raises:
            GuestError: nothing listens, no answer within ``timeout_s`` seconds, or another
                version of the protocol.
        """
        try:
            async with asyncio.timeout(timeout_s):
                channel = cls(*await asyncio.open_unix_connection(sock=_connected(path)))
                await channel._shake_hands(acked)
                return channel
        except TimeoutError as error:
            raise GuestError(f"the guest did not answer within {timeout_s} s") from error
        except OSError as error:
            raise GuestError(f"cannot connect to the guest: {error}") from error

    async def send(self, *frames: HostFrame) -> None:
        """Send ``frames`` in one piece, waiting a while if the guest takes nothing.

        Raises:
            GuestError: the connection is broken, or the guest took nothing for too long; the
                connection is of no more use.
            ValueError: a frame cannot be encoded.
        """
        wire = b"".join(map(encode, frames))
        for frame in frames:
            self._dues.ordered(frame)
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                self._writer.write(wire)
                await self._writer.drain()
        except TimeoutError as error:
            raise GuestError(f"the guest took nothing for {SEND_TIMEOUT_S:g} s") from error
        except (OSError, RuntimeError) as error:
            # uvloop raises RuntimeError on a connection that is closed already.
            raise GuestError(f"cannot send to the guest: {error}") from error

    async def receive(self) -> GuestFrame | None:
        """Return the next frame, or None when the connection has ended.

        May be cancelled without losing a frame.

        Raises:
            GuestError: the guest sent what is no frame, or was not due; the connection is of no
                more use.
        """
        piece = await self._next_piece()
        return None if piece is None else self._frame(piece)

    async def receive_all(self) -> list[GuestFrame]:
        """Return the next frame and those that came along with it; none when it has ended.

        Raises:
            GuestError: as :meth:`receive`.
        """
        first = await self.receive()
        if first is None:
            return []
        frames = [first]
        while self._pieces:
            try:
                frames.append(self._frame(self._pieces[0]))
            except GuestError:
                # What came before it counts; it is told next time.
                break
            self._pieces.popleft()
        return frames

    async def close(self) -> None:
        """Close the connection. The guest keeps what was not acknowledged."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._writer.wait_closed()
        except OSError:
            # Also when the guest takes nothing, and so not what was to be sent before.
            self._writer.transport.abort()

    async def _shake_hands(self, acked: int) -> None:
        try:
            self.hello = await self._greet(acked)
        except BaseException:
            self._writer.transport.abort()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            raise

    async def _greet(self, acked: int) -> GuestHello:
        token, left_over = secrets.randbits(64), 0
        self._writer.write(MARK)
        await self.send(HostHello(token, acked))
        while (piece := await self._next_piece()) is not None:
            hello = _hello_of(piece, token)
            left_over += max(len(piece), LEFT_OVER_FRAME)
            if left_over > LEFT_OVER_BYTES:
                raise GuestError("the guest says everything but hello")
            if hello is None:
                continue
            if hello.version != VERSION:
                raise GuestError(f"the guest speaks version {hello.version}, not {VERSION}")
            return hello
        raise GuestError("the guest's port was closed before it answered")

    async def _next_piece(self) -> bytes | None:
        while not self._pieces:
            if not await self._fill():
                return None
        return self._pieces.popleft()

    async def _fill(self) -> bool:
        try:
            chunk = await self._reader.read(_CHUNK)
        except OSError as error:
            raise GuestError(f"cannot receive from the guest: {error}") from error
        *pieces, rest = chunk.split(MARK)
        if pieces:
            # Only what is new is looked at: it may come byte by byte.
            pieces[0] = bytes(self._rest) + pieces[0]
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > WIRE_MAX:
            raise GuestError("the guest sent a frame without end")
        before = len(self._pieces)
        self._pieces.extend(piece for piece in pieces if piece)
        self._empty += before + len(pieces) - len(self._pieces)
        if self._empty > EMPTY_FRAMES:
            raise GuestError("the guest sent empty frames without end")
        return bool(chunk)

    def _frame(self, piece: bytes) -> GuestFrame:
        frame = decode_guest(piece)
        self._dues.come(frame)
        return frame


def _hello_of(piece: bytes, token: int) -> GuestHello | None:
    """Return the HELLO that answers ours; everything else is left over from earlier."""
    if piece[0] != HELLO:
        return None
    try:
        frame = decode_guest(piece)
    except GuestError:
        return None
    return frame if isinstance(frame, GuestHello) and frame.token == token else None


def _connected(path: Path) -> socket.socket:
    """Connect through the folder's descriptor: a socket's own path has at most 107 bytes.

    QEMU listens with a backlog, so that this does not wait for it.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(f"/proc/self/fd/{folder}/{path.name}")
        except BaseException:
            sock.close()
            raise
        return sock
    finally:
        os.close(folder)
