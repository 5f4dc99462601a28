"""Connections into VMs: how many there may be, and which wait to be used again."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field

from cakework.server.proxy.dialer import Dialer, DialFailed
from cakework.server.proxy.refusals import Refusal
from cakework.server.proxy.wire import Wire

IDLE_MAX_PER_VM = 8
IDLE_S = 4.0
"""Shorter than what servers commonly allow (Node 5 s, gunicorn 2 s but it seldom keeps alive)."""
UNDELIVERED_S = 5.0
"""How long a VM that is gone, but not known to be, may keep its network by a socket of ours."""

_FAILURES = {
    "not_found": Refusal(502, "vm_stopped", "the VM is not running"),
    "refused": Refusal(502, "vm_not_listening", "nothing listens on the VM's port yet"),
    "timeout": Refusal(504, "vm_timeout", "the VM did not take the connection in time"),
}
_UNAVAILABLE = Refusal(503, "unavailable", "the VM's host does not answer now")


class NotReached(Refusal):
    """No connection into the VM is to be had now."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a request goes: a hostname never changes its VM, nor a VM its port.

    No connection outlives the run that it was made in.
    """

    host: str
    vm_id: str
    port: int
    run: int


@dataclass(slots=True)
class Lease:
    """A connection in use. With ``keep`` set it is kept for another request afterwards."""

    wire: Wire
    reused: bool
    keep: bool = False


@dataclass(slots=True)
class _Connections:
    active: set[Wire] = field(default_factory=set[Wire])
    idle: dict[Wire, asyncio.TimerHandle] = field(default_factory=dict[Wire, asyncio.TimerHandle])

    def wires(self) -> list[Wire]:
        return [*self.active, *self.idle]


class Upstreams:
    """The connections into all VMs, at most ``per_vm`` in use for each."""

    def __init__(self, dialer: Dialer, *, per_vm: int) -> None:
        self._dialer = dialer
        self._per_vm = per_vm
        self._taken: Counter[Destination] = Counter()
        self._connections: dict[Destination, _Connections] = {}

    @contextlib.asynccontextmanager
    async def lease(self, destination: Destination, *, reuse: bool) -> AsyncGenerator[Lease]:
        """Lend a connection; with ``reuse`` it may be one that another request used before.

        Raises:
            NotReached: no connection is to be had.
            Refusal: there are too many already.
        """
        with self._slot(destination):
            wire = self._take_idle(destination) if reuse else None
            lease = Lease(wire or await self._dial(destination), reused=wire is not None)
            connections = self._connections.setdefault(destination, _Connections())
            connections.active.add(lease.wire)
            try:
                yield lease
            finally:
                connections.active.discard(lease.wire)
                if lease.keep and lease.wire.is_quiet and len(connections.idle) < IDLE_MAX_PER_VM:
                    self._put_idle(destination, lease.wire)
                else:
                    _leave(lease.wire)
                    self._forget(destination)

    def sweep(self, is_live: Callable[[Destination], bool]) -> None:
        """Close all connections to VMs that are no longer ``is_live``, and the broken ones.

        They are reset: nobody is there to take part in an orderly end.
        """
        for destination, connections in list(self._connections.items()):
            if not is_live(destination):
                for wire in connections.wires():
                    wire.reset()
            for wire in connections.active:
                wire.probe()

    async def close(self) -> None:
        """Close all connections; return when they are gone."""
        wires = [wire for each in self._connections.values() for wire in each.wires()]
        for wire in wires:
            _leave(wire)
        await asyncio.gather(*(wire.gone() for wire in wires))

    @contextlib.contextmanager
    def _slot(self, destination: Destination) -> Generator[None]:
        if self._taken[destination] >= self._per_vm:
            raise Refusal(503, "too_many_connections", "the VM has too many connections already")
        self._taken[destination] += 1
        try:
            yield
        finally:
            self._taken[destination] -= 1
            if not self._taken[destination]:
                del self._taken[destination]

    async def _dial(self, destination: Destination) -> Wire:
        try:
            sock = await self._dialer.dial(destination.vm_id, destination.port)
        except DialFailed as error:
            refusal = _FAILURES.get(error.code, _UNAVAILABLE)
            raise NotReached(refusal.status, refusal.code, refusal.detail) from error
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop = asyncio.get_running_loop()
            _, wire = await loop.create_connection(lambda: Wire(quick_ack=True), sock=sock)
        except BaseException:
            sock.close()
            raise
        return wire

    def _take_idle(self, destination: Destination) -> Wire | None:
        connections = self._connections.get(destination)
        while connections is not None and connections.idle:
            wire, timer = connections.idle.popitem()
            timer.cancel()
            wire.on_lost = None
            if wire.is_quiet:
                return wire
            wire.abort()
        return None

    def _put_idle(self, destination: Destination, wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(IDLE_S, _leave, wire)
        self._connections[destination].idle[wire] = timer
        wire.on_lost = lambda: self._drop_idle(destination, wire)

    def _drop_idle(self, destination: Destination, wire: Wire) -> None:
        self._connections[destination].idle.pop(wire).cancel()
        self._forget(destination)

    def _forget(self, destination: Destination) -> None:
        connections = self._connections.get(destination)
        if connections is not None and not connections.active and not connections.idle:
            del self._connections[destination]


def _leave(wire: Wire) -> None:
    wire.give_up_after(UNDELIVERED_S)
    wire.abort()
