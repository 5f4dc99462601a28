"""An app served within a test: Uvicorn, but for looking ten times a second whether to end."""

import asyncio
import contextlib
import socket
from collections.abc import Generator

import uvicorn

LOOK_S = 0.005


class Served(uvicorn.Server):
    """Serves until it is told to :meth:`end`; then what is being answered is answered first."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()
        self._told = asyncio.Event()

    def end(self, *, at_once: bool = False) -> None:
        """Have it end; ``at_once``, as one that was killed does: what is open breaks off."""
        self.should_exit = True
        self.force_exit = at_once
        self._told.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await _stop_accepting(self.servers)
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        for connection in list(self.server_state.connections):
            if self.force_exit:
                connection.transport.abort()
            else:
                connection.shutdown()
        await asyncio.sleep(0)
        state = self.server_state
        while (state.connections or state.tasks) and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        if not self.force_exit:
            await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the test's process."""
        yield


async def _stop_accepting(servers: list[asyncio.Server]) -> None:
    """Take no further connection, and have those that were taken come in.

    asyncio takes a connection in one turn of its loop and gives it a transport in the next. Where
    the server was closed between the two, the transport fails as it is made and stays open, with
    nobody to close it (``Server._attach`` of CPython), and the client waits.
    """
    loop = asyncio.get_running_loop()
    for server in servers:
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
    for _ in range(2):
        await asyncio.sleep(0)
