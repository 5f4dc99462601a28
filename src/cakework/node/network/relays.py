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

from cakework.node.network.namespaces import run_inside

READ_BYTES = 65_536
Address = tuple[str, int]


@asynccontextmanager
async def relay(namespace_fd: int, address: Address) -> AsyncGenerator[None]:
    """Have ``address`` inside the namespace lead to ``address`` of the host.

    Raises:
        OSError: something listens there inside already.
    """
    listener = await asyncio.to_thread(run_inside, namespace_fd, partial(_listener, address))
    tasks: set[asyncio.Task[None]] = set()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await _pass_on(reader, writer, address)

    server = await asyncio.start_server(attend, sock=listener)
    try:
        yield
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address
) -> None:
    with contextlib.closing(writer), contextlib.suppress(OSError):
        far_reader, far_writer = await asyncio.open_connection(*address)
        with contextlib.closing(far_writer):
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(READ_BYTES):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _listener(address: Address) -> socket.socket:
    return socket.create_server(address)
