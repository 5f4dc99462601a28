"""A raw pipe between two connections, as after ``101 Switching Protocols``."""

import asyncio
from collections.abc import Callable

from cakework.router.wire import Wire


async def tunnel(client: Wire, vm: Wire, touch: Callable[[], None]) -> None:
    """Pass bytes both ways until both sides have ended, or either is lost.

    An end of one direction is passed on and leaves the other open. ``touch`` is called
    whenever bytes have moved.
    """
    client.on_lost = vm.abort
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(client, vm, touch))
            group.create_task(_copy(vm, client, touch))
    except* ConnectionError:
        client.abort()
        vm.abort()


async def _copy(source: Wire, sink: Wire, touch: Callable[[], None]) -> None:
    while data := await source.read():
        touch()
        await sink.write(data)
        touch()
    sink.write_eof()
