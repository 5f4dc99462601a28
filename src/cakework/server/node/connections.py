"""Connections to a unix socket for an HTTP client, by asyncio's own streams.

Those that the client would make itself read a raw socket: a read that is cancelled just when bytes
arrive, as when somebody who follows a log goes away, ends in ``InvalidStateError`` from the loop.
"""

import asyncio
import contextlib
import select
from collections.abc import Generator, Iterable
from typing import Any

import httpcore2
import httpx2


class UnixSocketTransport(httpx2.AsyncHTTPTransport):
    """Speaks HTTP/1.1 over a unix socket, with ``kept`` idle connections at most and any in use."""

    def __init__(self, path: str, kept: int) -> None:
        """Prepare connections to the socket at ``path``; none is made yet."""
        # Certificates have no use here, and reading the system's takes tens of milliseconds.
        super().__init__(verify=False, trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            uds=path,
            max_connections=None,
            max_keepalive_connections=kept,
            keepalive_expiry=5.0,
            network_backend=_UnixConnections(),
        )


class _UnixConnections(httpcore2.AsyncNetworkBackend):
    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - what the client calls it
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        with told_as(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            async with asyncio.timeout(timeout):
                return StreamConnection(*await asyncio.open_unix_connection(path))


class StreamConnection(httpcore2.AsyncNetworkStream):
    """A connection of asyncio's, as the client wants to have it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Return what has come, at most ``max_bytes``; nothing at the end, and it is closed then.

        The client closes what has come to its end only where nobody cancels it just then.
        """
        with told_as(httpcore2.ReadTimeout, httpcore2.ReadError):
            async with asyncio.timeout(timeout):
                read = await self._reader.read(max_bytes)
        if not read and self._reader.at_eof():
            self._writer.transport.abort()
        return read

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send ``buffer``."""
        with told_as(httpcore2.WriteTimeout, httpcore2.WriteError):
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()

    async def aclose(self) -> None:
        """Close the connection, at once."""
        # Not close(): what the other end does not take would be waited for, without end.
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def get_extra_info(self, info: str) -> Any:
        """Return what the client asks of an idle connection: has the other end closed it?"""
        if info != "is_readable":
            return None
        if self._writer.is_closing() or self._reader.at_eof():
            return True
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))


@contextlib.contextmanager
def told_as(late: type[Exception], broken: type[Exception]) -> Generator[None]:
    """Tell the client of faults by its own names; a timeout is an OSError, too."""
    try:
        yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except OSError as error:
        raise broken(str(error)) from error
