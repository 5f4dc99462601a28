"""Connections to instances that are made ahead of the next call."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

import pytest

from cakework.dialer import DialFailed
from cakework.server.functions.ahead import Ahead

from .rig import until

pytestmark = pytest.mark.anyio
PORT = 8079


class Instance:
    """Listens, counts connections, and can close them."""

    def __init__(self) -> None:
        self.taken: list[asyncio.StreamWriter] = []
        self.port = 0
        self.refuses = False

    async def dial(self, vm_id: str, port: int) -> socket.socket:
        assert (vm_id, port) == ("vm", PORT)
        if self.refuses:
            raise DialFailed("refused", "nothing listens")
        made = socket.socket()
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self.port))
        return made

    async def serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken.append(writer)


@pytest.fixture
async def instance(anyio_backend: str) -> AsyncGenerator[Instance]:
    made = Instance()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    for writer in made.taken:
        writer.close()


async def waiting(ahead: Ahead, instance: Instance, count: int) -> None:
    """Have a connection made, the ``count``-th that the instance takes."""
    ahead.begin("vm")
    ahead.begin("vm")
    await until(lambda: ahead.waits("vm"), "one waits")
    await until(lambda: len(instance.taken) == count, "it is connected")


async def test_one_waits_and_is_used_once(instance: Instance) -> None:
    with contextlib.closing(Ahead(instance, PORT)) as ahead:
        assert ahead.take("vm", PORT) is None
        await waiting(ahead, instance, 1)
        assert ahead.take("vm", PORT + 1) is None
        assert ahead.take("other", PORT) is None
        with ahead.take("vm", PORT) or pytest.fail("none waits") as taken:
            assert taken.getpeername()[1] == instance.port
        assert ahead.take("vm", PORT) is None


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_one_that_was_closed_or_spoken_on_is_not_used(
    instance: Instance, says: bytes
) -> None:
    with contextlib.closing(Ahead(instance, PORT)) as ahead:
        await waiting(ahead, instance, 1)
        instance.taken[0].write(says)
        instance.taken[0].close()
        await instance.taken[0].wait_closed()
        assert ahead.take("vm", PORT) is None
        await waiting(ahead, instance, 2)
        taken = ahead.take("vm", PORT)
        assert taken is not None
        taken.close()


async def test_none_is_kept_for_what_goes(instance: Instance) -> None:
    with contextlib.closing(Ahead(instance, PORT)) as ahead:
        await waiting(ahead, instance, 1)
        ahead.forget("vm")
        assert ahead.take("vm", PORT) is None
        instance.refuses = True
        ahead.begin("vm")
        await asyncio.sleep(0)
        assert ahead.take("vm", PORT) is None
