"""What node and builder machine say to each other, over one TCP connection into the machine.

To the machine, one line and then the input, a tar, in pieces:

    <build id> <largest file, bytes> <most that may be written, KiB>\\n
    <size>\\n <size bytes> … 0\\n

From the machine, records, in this order; the first that does not succeed is the last:

    <word> <status> <size>\\n <size bytes>

    loaded    images from registries are in its storage; with why they are not
    built     buildah has ended; with "over" if it was ended for what it wrote
    exported  the image is a file; with why it is not
    id        of the OCI image, sha256:…
    config    what ``buildah inspect`` says of it, JSON
    image     its root file system, EROFS

Whoever builds may have taken the machine over, so nothing that comes is believed: every record
has its turn and a bound, and what it holds is data.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from cakework.unbroken import unbroken

PIECE_BYTES = 4 << 20
"""As few as may be: for each the machine starts a process."""
CHUNK_BYTES = 1 << 20
HEAD_BYTES_MAX = 64
_HEAD = re.compile(rb"(?P<word>[a-z]{1,16}) (?P<status>\d{1,3}) (?P<size>\d{1,15})\n")


class ExchangeError(Exception):
    """The machine said something else than it should, or went away."""


class TooLarge(ExchangeError):
    """A record is larger than it may be."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a record."""

    status: int
    size: int


def parse_head(line: bytes, word: str, most: int) -> Head:
    """Read the head of a record, which has to be ``word``, with at most ``most`` bytes.

    Raises:
        TooLarge: it has more.
        ExchangeError: it is something else.
    """
    matched = _HEAD.fullmatch(line)
    if not matched or matched["word"] != word.encode():
        raise ExchangeError(f"instead of {word!r} the machine said {line[:HEAD_BYTES_MAX]!r}")
    head = Head(int(matched["status"]), int(matched["size"]))
    if head.size > most:
        raise TooLarge(f"{word} has {head.size} bytes, more than {most}")
    return head


class Exchange:
    """One connection to a builder machine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unsent = bytearray()

    @classmethod
    @contextlib.asynccontextmanager
    async def over(cls, connection: socket.socket) -> AsyncGenerator["Exchange"]:
        """Give the exchange over ``connection``, which is closed at the end."""
        reader, writer = await asyncio.open_connection(sock=connection, limit=CHUNK_BYTES)
        try:
            yield cls(reader, writer)
        finally:
            # What is not sent yet need not be: a machine that takes nothing holds up nobody.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def order(self, build_id: str, file_bytes: int, written_kb: int) -> None:
        """Say what is to be built, and its bounds. Raises ExchangeError."""
        await self._send(f"{build_id} {file_bytes} {written_kb}\n".encode())

    async def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the input. Raises ExchangeError."""
        self._unsent += chunk
        while len(self._unsent) >= PIECE_BYTES:
            await self._send_piece()

    async def end_input(self) -> None:
        """Say that the input is whole. Raises ExchangeError."""
        while self._unsent:
            await self._send_piece()
        await self._send(b"0\n")

    async def head(self, word: str, most: int) -> Head:
        """Wait for the record ``word``, and return its head; its bytes have to be taken then.

        Raises:
            TooLarge, ExchangeError: something else came.
        """
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            raise ExchangeError("the machine said a line without end") from error
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ExchangeError(f"the machine went away before it said {word!r}") from error
        return parse_head(line, word, most)

    async def record(self, word: str, most: int) -> tuple[int, bytes]:
        """Wait for the record ``word``; return its status and what it holds.

        Raises:
            TooLarge, ExchangeError: something else came.
        """
        head = await self.head(word, most)
        return head.status, b"".join([chunk async for chunk in self._chunks(head.size)])

    async def save(self, word: str, target: Path, most: int) -> None:
        """Write what the record ``word`` holds to ``target``, which must not be there yet.

        Raises:
            TooLarge, ExchangeError: something else came.
            OSError: it cannot be written.
        """
        head = await self.head(word, most)
        with target.open("xb") as file:
            async for chunk in self._chunks(head.size):
                await unbroken(asyncio.to_thread(file.write, chunk))

    async def _chunks(self, size: int) -> AsyncGenerator[bytes]:
        while size:
            try:
                chunk = await self._reader.read(min(size, CHUNK_BYTES))
            except OSError as error:
                raise ExchangeError(f"the connection to the machine broke: {error}") from error
            if not chunk:
                raise ExchangeError(f"the machine went away {size} bytes too early")
            size -= len(chunk)
            yield chunk

    async def _send_piece(self) -> None:
        piece = bytes(self._unsent[:PIECE_BYTES])
        del self._unsent[:PIECE_BYTES]
        await self._send(b"%d\n" % len(piece) + piece)

    async def _send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (OSError, RuntimeError) as error:
            # uvloop raises RuntimeError on a connection that is closed already.
            raise ExchangeError(f"the machine takes no more: {error}") from error
