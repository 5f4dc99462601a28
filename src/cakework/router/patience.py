"""What one request does until its VM can take it: a VM with autoStart is woken and waited for."""

import asyncio
from dataclasses import dataclass
from math import ceil

from cakework.domain.errors import CakeworkError, NoRoom, NotFound, QuotaExceeded, Unavailable
from cakework.domain.vms import VmState
from cakework.router.activity import Activity
from cakework.router.refusals import Refusal
from cakework.router.routes import Route, Routes, Waker
from cakework.router.upstreams import Destination, NotReached

PAUSE_FIRST_S = 0.02
PAUSE_GROWTH = 1.5
PAUSE_LAST_S = 1.0

_TOO_LONG = Refusal(504, "vm_timeout", "the VM could not be started in time; try again")


@dataclass(frozen=True, slots=True)
class Sleepers:
    """What is known of VMs that are put to rest and woken."""

    activity: Activity
    waker: Waker


@dataclass(slots=True)
class Patience:
    """The patience of one request for ``host``, which ends at ``deadline`` of the event loop."""

    host: str
    routes: Routes
    waker: Waker
    deadline: float
    pause_s: float = PAUSE_FIRST_S

    async def route(self) -> Route:
        """Return the route of a VM that is there and may be reached.

        One that can take requests, or be woken, is known; any other may be so by now.

        Raises:
            Refusal: there is none, or nobody knows now.
        """
        route = self.routes.find(self.host)
        if route is None or not (route.state is VmState.STARTED or route.auto_start):
            await self._confirm()
            route = self.routes.find(self.host)
        if route is None or route.state is VmState.DESTROYED:
            raise Refusal(404, "not_found", "no function, and no VM with a port, has this hostname")
        if route.port is None:
            raise Refusal(404, "vm_has_no_port", "the VM was started without a port to reach")
        return route

    async def destination(self) -> Destination:
        """Return where the request goes, once its VM is started.

        Raises:
            Refusal: the VM is not started, and is not to be by a request, or cannot be.
        """
        while (route := await self.route()).state is not VmState.STARTED:
            if not route.auto_start:
                raise _asleep(route)
            await self._wake(route)
        return Destination(self.host, route.vm_id, _port(route), route.run)

    async def again(self, failure: NotReached) -> bool:
        """Wait a little for a VM that could not be reached; say whether to try once more."""
        if failure.code not in ("vm_stopped", "vm_not_listening"):
            return False
        if not (await self.route()).auto_start:
            return False
        if asyncio.get_running_loop().time() + self.pause_s > self.deadline:
            return False
        await asyncio.sleep(self.pause_s)
        self.pause_s = min(self.pause_s * PAUSE_GROWTH, PAUSE_LAST_S)
        return True

    async def _confirm(self) -> None:
        try:
            await self.routes.confirm()
        except CakeworkError as error:
            raise _refusal(error) from error

    async def _wake(self, route: Route) -> None:
        try:
            async with asyncio.timeout_at(self.deadline):
                await self.waker.wake(route.vm_id)
        except TimeoutError as error:
            raise Refusal(_TOO_LONG.status, _TOO_LONG.code, _TOO_LONG.detail) from error
        except CakeworkError as error:
            raise _refusal(error) from error


def _port(route: Route) -> int:
    if route.port is None:
        raise Refusal(404, "vm_has_no_port", "the VM was started without a port to reach")
    return route.port


def _asleep(route: Route) -> Refusal:
    if route.state is VmState.CREATED:
        return Refusal(502, "vm_not_started", "the VM has not started yet")
    return Refusal(502, "vm_stopped", "the VM is stopped")


def _refusal(error: CakeworkError) -> Refusal:
    match error:
        case NoRoom() | QuotaExceeded() | Unavailable():
            return Refusal(503, error.code, error.detail, ceil(error.retry_after_s or 1))
        case NotFound():
            return Refusal(404, "not_found", "there is no VM with this hostname and a port")
        case _:
            return Refusal(502, "vm_not_started", f"the VM could not be started: {error.detail}")
