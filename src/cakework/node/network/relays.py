"""Relays: a port of the host's loopback interface, at the same address inside a namespace.

A namespace has a loopback interface of its own, so a registry on the host's, which the operator
named, is not there; a relay listens in its place and passes bytes on, to that port alone.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from cakework.node.cleanup import clean_up
from cakework.node.network.namespaces import run_inside
from cakework.unbroken import unbroken

READ_BYTES = 65_536
Address = tuple[str, int]


@asynccontextmanager
async def relay(namespace_fd: int, address: Address) -> AsyncGenerator[None]:
    """Have ``address`` inside the namespace lead to ``address`` of the host.

    Raises:
        OSError: something listens there inside already.
    """
    own = _Relay(address)
    try:
        await unbroken(own.listen(namespace_fd))
        yield
    finally:
        await clean_up("relay", own.end)


class _Relay:
    def __init__(self, address: Address) -> None:
        self._address = address
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, namespace_fd: int) -> None:
        listen = partial(socket.create_server, self._address)
        listener = await asyncio.to_thread(run_inside, namespace_fd, listen)
        self._server = await asyncio.start_server(self._attend, sock=listener)

    async def end(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await pass_on(reader, writer, self._address)


async def pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address
) -> None:
    """Connect to ``address`` and pass bytes both ways until both have ended, or one is lost."""
    with contextlib.suppress(OSError):
        async with _ending(writer):
            far_reader, far_writer = await asyncio.open_connection(*address)
            async with _ending(far_writer):
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


@asynccontextmanager
async def _ending(writer: asyncio.StreamWriter) -> AsyncGenerator[None]:
    """Within, use ``writer``; then it is closed, when what was written is sent."""
    try:
        yield
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
    finally:
        writer.close()
        # What ended a connection is asked for: asyncio reports it, else, as of no interest to
        # anybody, where the garbage is looked through in another order than it counts on.
        try:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        except asyncio.CancelledError:
            # Who takes nothing is waited for no longer than the relay is there.
            writer.transport.abort()
            raise


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(READ_BYTES):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof() and not writer.is_closing():
        writer.write_eof()
