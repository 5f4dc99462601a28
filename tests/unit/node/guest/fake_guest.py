"""A guest that is a script: its end of a connection in a test's hands."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

from cakework.node.guest.codec import decode_host, encode
from cakework.node.guest.protocol import MARK, GuestHello, HostHello

Script = Callable[[HostHello, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the next frame that is not empty, without its mark."""
    frame = b""
    while not frame:
        frame = (await reader.readuntil(MARK))[:-1]
    return frame


@contextlib.asynccontextmanager
async def guest(path: Path, script: Script) -> AsyncGenerator[None]:
    """A guest that reads HELLO and then does what ``script`` says; its failure is the test's."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = decode_host(await read_frame(reader))
            assert isinstance(hello, HostHello)
            await script(hello, reader, writer)
        finally:
            writer.close()

    async with contextlib.AsyncExitStack() as stack:
        with contextlib.chdir(path.parent):
            server = await asyncio.start_unix_server(serve, path.name)
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        yield


def answer(hello: HostHello, **changes: int) -> bytes:
    return MARK + encode(GuestHello(hello.token, "running", 7, "test", **changes))
