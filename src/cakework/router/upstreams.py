"""Connections into VMs: how many there may be, and what becomes of one after its request.

A connection into a VM is never shared by two clients' connections. What a program leaves in one,
unread or sent too late, could else be taken for the next visitor's request, or for its answer.
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass

from cakework.dialer import Dialer, DialFailed
from cakework.router.refusals import Refusal
from cakework.router.wire import Wire

IDLE_MAX_PER_VM = 64
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
    """A connection in use. With ``keep`` set it waits for the same client's next request; with
    ``handed_on`` somebody else closes it."""

    wire: Wire
    reused: bool
    keep: bool = False
    handed_on: bool = False


@dataclass(frozen=True, slots=True)
class _Idle:
    """A connection that waits until ``timer`` closes it."""

    wire: Wire
    destination: Destination
    timer: asyncio.TimerHandle


class Upstreams:
    """The connections into all VMs, at most ``per_vm`` in use for each."""

    def __init__(self, dialer: Dialer, *, per_vm: int) -> None:
        self._dialer = dialer
        self._per_vm = per_vm
        self._in_use: Counter[Destination] = Counter()
        self._waiting: Counter[Destination] = Counter()
        self._wires: dict[Wire, Destination] = {}

    def for_client(self) -> "Upstream":
        """Return what one client's connection reaches VMs with; to be closed when that ends."""
        return Upstream(self)

    @contextlib.contextmanager
    def slot(self, destination: Destination) -> Generator[None]:
        """Count a connection in use. Raises Refusal when there are too many already."""
        if self._in_use[destination] >= self._per_vm:
            raise Refusal(503, "too_many_connections", "the VM has too many connections already")
        self._in_use[destination] += 1
        try:
            yield
        finally:
            self._in_use[destination] -= 1
            if not self._in_use[destination]:
                del self._in_use[destination]

    async def connect(self, destination: Destination) -> Wire:
        """Make a connection. Raises NotReached."""
        wire = await self._dial(destination)
        self._wires[wire] = destination
        return wire

    def may_wait(self, destination: Destination) -> bool:
        """Count one more that waits, if there may be one."""
        if self._waiting[destination] >= IDLE_MAX_PER_VM:
            return False
        self._waiting[destination] += 1
        return True

    def waits_no_more(self, destination: Destination) -> None:
        """Count one less that waits."""
        self._waiting[destination] -= 1
        if not self._waiting[destination]:
            del self._waiting[destination]

    def leave(self, wire: Wire) -> None:
        """Close a connection."""
        self._wires.pop(wire, None)
        _leave(wire)

    def sweep(self, is_live: Callable[[Destination], bool]) -> None:
        """Close all connections to VMs that are no longer ``is_live``, and the broken ones.

        They are reset: nobody is there to take part in an orderly end.
        """
        for wire, destination in list(self._wires.items()):
            if is_live(destination):
                wire.probe()
            else:
                wire.reset()

    async def close(self) -> None:
        """Close all connections; return when they are gone."""
        wires = list(self._wires)
        for wire in wires:
            _leave(wire)
        await asyncio.gather(*(wire.gone() for wire in wires))

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


class Upstream:
    """What one client's connection reaches VMs with: a connection, which may wait for its next
    request to the same VM."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._idle: _Idle | None = None

    @contextlib.asynccontextmanager
    async def lease(self, destination: Destination, *, reuse: bool) -> AsyncGenerator[Lease]:
        """Lend a connection; with ``reuse`` it may be the one that the last request left.

        Raises:
            NotReached: no connection is to be had.
            Refusal: there are too many already.
        """
        with self._upstreams.slot(destination):
            wire = self._take_idle(destination, reuse=reuse)
            lease = Lease(
                wire or await self._upstreams.connect(destination), reused=wire is not None
            )
            try:
                yield lease
            finally:
                if lease.handed_on:
                    pass
                elif not (
                    lease.keep and lease.wire.is_quiet and self._keep(lease.wire, destination)
                ):
                    self._upstreams.leave(lease.wire)

    def close(self) -> None:
        """Close what waits."""
        if self._idle is not None:
            self._upstreams.leave(self._forget(self._idle))

    def _take_idle(self, destination: Destination, *, reuse: bool) -> Wire | None:
        idle = self._idle
        if idle is None:
            return None
        wire = self._forget(idle)
        if reuse and idle.destination == destination and wire.is_quiet:
            return wire
        self._upstreams.leave(wire)
        return None

    def _keep(self, wire: Wire, destination: Destination) -> bool:
        if not self._upstreams.may_wait(destination):
            return False
        timer = asyncio.get_running_loop().call_later(IDLE_S, self.close)
        self._idle = _Idle(wire, destination, timer)
        return True

    def _forget(self, idle: _Idle) -> Wire:
        self._idle = None
        idle.timer.cancel()
        self._upstreams.waits_no_more(idle.destination)
        return idle.wire


def _leave(wire: Wire) -> None:
    wire.give_up_after(UNDELIVERED_S)
    wire.abort()
