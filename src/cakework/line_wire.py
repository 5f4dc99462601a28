"""A connection on which each message is a line, handled in the moment in which it comes."""

import asyncio
from collections.abc import Callable
from typing import cast

LINE_BYTES_MAX = 64 * 1024
UNSENT_BYTES_MAX = 16 << 20
"""What may wait for a peer that takes nothing; it can ask for everything anew when it is back."""


class LineWire(asyncio.Protocol):
    """One end. ``on_line`` is called with each line, in order; what it raises ends the connection.
    ``on_lost`` is called once it is over.

    Nothing of it waits for a task's turn: whoever hears on another connection of something that
    was said here before finds it done.
    """

    def __init__(self, on_line: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        self._on_line = on_line
        self._on_lost = on_lost
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        """What is sent before the connection is made."""
        self._begun = b""
        self._may_write = asyncio.Event()
        self._may_write.set()

    def send(self, line: bytes) -> None:
        """Send a line; give the connection up if too much waits already."""
        if self._transport is None:
            self._early.append(line)
            return
        if self._transport.is_closing():
            return
        self._transport.write(line)
        if self._transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._transport.abort()

    async def drained(self) -> None:
        """Wait until little waits to be sent, or the connection is lost."""
        await self._may_write.wait()

    def close(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio's callback)."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(b"".join(self._early))
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        """Handle what is whole (asyncio's callback)."""
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > LINE_BYTES_MAX:
            self.close()
            return
        for line in lines:
            if self.lost or self._transport is None or self._transport.is_closing():
                return
            try:
                self._on_line(line)
            except BaseException:
                self.close()
                raise

    def pause_writing(self) -> None:
        """Have those wait who can (asyncio's callback)."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Let them go on (asyncio's callback)."""
        self._may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so (asyncio's callback)."""
        self.lost = True
        self._may_write.set()
        self._on_lost()
