"""Connections to instances that are made ahead of the next call: one each, for a while.

An instance answers one order on each connection and closes it. The next one's is made when an
attempt has ended, so that no call waits for it to be made. One that the instance closes meanwhile
is not used.
"""

import asyncio
import contextlib
import socket

from cakework.dialer import Dialer, DialFailed

KEPT_S = 30.0
"""Less than any adapter waits for the head of a request."""
MOST = 256


class Ahead:
    """Connections that wait, by VM; all to one ``port``. ``close()`` when done."""

    def __init__(self, dialer: Dialer, port: int) -> None:
        self._dialer = dialer
        self._port = port
        self._waiting: dict[str, tuple[socket.socket, asyncio.TimerHandle]] = {}
        self._dialing: dict[str, asyncio.Task[None]] = {}

    def begin(self, vm_id: str) -> None:
        """Have a connection made, unless one waits or there are many."""
        if self.waits(vm_id) or vm_id in self._dialing or len(self._waiting) >= MOST:
            return
        task = self._dialing[vm_id] = asyncio.create_task(self._dial(vm_id))
        task.add_done_callback(lambda done: self._dialed(vm_id, done))

    def waits(self, vm_id: str) -> bool:
        """Whether there is one to a VM."""
        return vm_id in self._waiting

    def take(self, vm_id: str, port: int) -> socket.socket | None:
        """Return one that waits and is open."""
        if port != self._port or vm_id not in self._waiting:
            return None
        made, timer = self._waiting.pop(vm_id)
        timer.cancel()
        if _is_open(made):
            return made
        made.close()
        return None

    def forget(self, vm_id: str) -> None:
        """Close what waits for a VM, which is about to go."""
        if (task := self._dialing.pop(vm_id, None)) is not None:
            task.cancel()
        if vm_id in self._waiting:
            made, timer = self._waiting.pop(vm_id)
            timer.cancel()
            made.close()

    def close(self) -> None:
        """Close all."""
        for vm_id in [*self._dialing, *self._waiting]:
            self.forget(vm_id)

    def _dialed(self, vm_id: str, done: asyncio.Task[None]) -> None:
        if self._dialing.get(vm_id) is done:
            del self._dialing[vm_id]

    async def _dial(self, vm_id: str) -> None:
        with contextlib.suppress(DialFailed):
            made = await self._dialer.dial(vm_id, self._port)
            timer = asyncio.get_running_loop().call_later(KEPT_S, self.forget, vm_id)
            self._waiting[vm_id] = made, timer


def _is_open(made: socket.socket) -> bool:
    """Whether the other side has neither closed it nor said anything: nothing was asked."""
    try:
        made.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
