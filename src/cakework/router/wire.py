"""A TCP connection with back-pressure both ways, which tells at once when its peer is gone."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import cast

HIGH_WATER = 256 * 1024
UNSENT_BYTES = 128 * 1024
"""From so many on the kernel takes none, which else keeps up to 4 MB (``tcp_wmem``) that nobody
counts but a bound on all that the process has; those on their way are the peer's window at most."""
UNDELIVERED_S = 30.0
"""How long the kernel goes on delivering to a peer that takes nothing, after an orderly end."""
TCP_CLOSE = 7
"""Linux's number for a connection that was reset (``tcpi_state`` in ``tcp(7)``'s TCP_INFO)."""


class Wire(asyncio.Protocol):
    """One end of a connection.

    At most about ``HIGH_WATER`` bytes wait in it in each direction: then the peer is no longer
    read from, and ``write`` waits. ``on_lost`` is called when the connection is gone for good.
    With ``quick_ack`` what comes is acknowledged at once: many servers write head and body of
    an answer one by one, and hold the second back until the first is acknowledged, which the
    kernel otherwise puts off for 40 ms on a connection that was used before.
    """

    def __init__(
        self, on_made: Callable[["Wire"], None] | None = None, *, quick_ack: bool = False
    ) -> None:
        self.on_lost: Callable[[], None] | None = None
        self._quick_ack = quick_ack
        self._on_made = on_made
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._eof = False
        self._lost = False
        self._reading_paused = False
        self._writing_paused = False
        self._eof_written = False
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def transport(self) -> asyncio.Transport:
        """The transport beneath; there from ``connection_made`` on."""
        if self._transport is None:
            raise RuntimeError("the wire is not connected yet")
        return self._transport

    @property
    def peer(self) -> str:
        """The peer's address, empty where it has none."""
        name: object = self.transport.get_extra_info("peername")
        return str(cast("tuple[object, ...]", name)[0]) if isinstance(name, tuple) else ""

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone, or going, in both directions."""
        return self._lost or self.transport.is_closing()

    @property
    def has_ended(self) -> bool:
        """Whether the peer will send nothing more."""
        return self._eof or self.is_lost

    @property
    def has_bytes(self) -> bool:
        """Whether bytes of the peer wait to be read."""
        return bool(self._chunks)

    @property
    def held(self) -> int:
        """How many bytes wait in it, in both directions."""
        unsent = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._size + unsent

    @property
    def is_quiet(self) -> bool:
        """Whether the connection is whole in both directions, with nothing waiting in it."""
        return not (self.has_ended or self.has_bytes or self._eof_written)

    async def read(self) -> bytes:
        """Return what has come, at least one byte, or nothing when the peer has ended orderly.

        Raises:
            ConnectionResetError: the connection broke.
        """
        while not self._chunks:
            if self._eof:
                return b""
            if self.is_lost:
                raise ConnectionResetError("the connection was lost")
            await self._change()
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        self._resume()
        return data

    def unread(self, data: bytes) -> None:
        """Put ``data`` back, to be what ``read`` returns first."""
        if data:
            self._chunks.insert(0, data)
            self._size += len(data)

    async def write(self, data: bytes) -> None:
        """Send ``data``; return when the peer keeps up.

        Raises:
            ConnectionResetError: the connection broke.
        """
        if not self.is_lost:
            self.transport.write(data)
        while self._writing_paused and not self.is_lost:
            await self._change()
        if self.is_lost:
            raise ConnectionResetError("the connection was lost")

    def write_eof(self) -> None:
        """Tell the peer that nothing more comes, after all that was written."""
        if self.is_lost or self._eof_written:
            return
        self._eof_written = True
        with contextlib.suppress(OSError):
            self.transport.write_eof()

    async def ended(self) -> None:
        """Wait until the peer will send nothing more."""
        while not self.has_ended:
            await self._change()

    async def gone(self) -> None:
        """Wait until nothing of the connection is left on this side."""
        while not self._lost:
            await self._change()

    def abort(self) -> None:
        """Close now, whatever still waits to be sent."""
        if not self._lost:
            self.transport.abort()
            self._wake()

    def give_up_after(self, undelivered_s: float) -> None:
        """Have the kernel forget the connection when the peer acknowledges nothing for so long.

        Until then the kernel goes on trying after ``abort``, for minutes if it must, and what
        it tries with keeps the network namespace that the socket belongs to.
        """
        sock = self._socket()
        if sock is not None and not self.is_lost:
            millis = int(undelivered_s * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, millis)

    def reset(self) -> None:
        """Close now, so that the peer cannot take what it got for everything.

        Nothing of the connection is left in the kernel either.
        """
        sock = self._socket()
        if sock is not None and not self.is_lost:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    async def finish(self, *, flush_s: float, linger_s: float) -> None:
        """Close when what was written has gone out and the peer has closed too, or time is up.

        What the peer still sends is thrown away: a connection closed with bytes unread is
        reset, and a reset can overtake the answer that the peer should see.
        """
        try:
            async with asyncio.timeout(flush_s):
                await self._flush()
            self.write_eof()
            async with asyncio.timeout(linger_s):
                while await self.read():
                    pass
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self.give_up_after(UNDELIVERED_S)
            self.abort()

    def probe(self) -> None:
        """Notice a reset that came while the peer is not being read from."""
        sock = self._socket()
        if sock is None or self.is_lost or not self._reading_paused:
            return
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        if info[0] == TCP_CLOSE:
            self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio's callback)."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        if (sock := self._socket()) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Keep what has come (asyncio's callback)."""
        if self._quick_ack:
            self._acknowledge()
        self._chunks.append(bytes(data))
        self._size += len(data)
        if self._size >= HIGH_WATER and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Keep the other direction open (asyncio's callback)."""
        self._eof = True
        self._wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Let everybody know (asyncio's callback)."""
        self._lost = True
        self._wake()
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        """Make writers wait (asyncio's callback)."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Let writers go on (asyncio's callback)."""
        self._writing_paused = False
        self._wake()

    def _socket(self) -> socket.socket | None:
        # asyncio and uvloop hand out look-alikes, which have what is used here.
        return cast("socket.socket | None", self.transport.get_extra_info("socket"))

    def _acknowledge(self) -> None:
        # The kernel forgets this option whenever it likes, so it is given again each time.
        sock = self._socket()
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _resume(self) -> None:
        if self._reading_paused and not self.is_lost:
            self._reading_paused = False
            self.transport.resume_reading()

    async def _flush(self) -> None:
        self.transport.set_write_buffer_limits(high=0)
        while self._writing_paused and not self.is_lost:
            await self._change()

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
