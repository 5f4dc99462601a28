"""VMs that run while a block of code does, and reaching the programs in them."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Unpack, overload
from uuid import uuid4

from cakework_client._async.vms import AsyncVms
from cakework_client._async.waiting import shielded, sleep
from cakework_client.calls import Deadline, named
from cakework_client.errors import ApiError, CakeworkError, ConnectionFailed, VmEnded
from cakework_client.models import ReachableVm, Vm
from cakework_client.reaching import FROM_ROUTER, Wanted, address, has_ended, listens, pauses_s

if TYPE_CHECKING:
    import httpx2


class AsyncRunning(AsyncVms):
    """VMs that run while a block of code does, and reaching the programs in them."""

    @overload
    def vm(
        self, image_id: str, *, port: int, **wanted: Unpack[Wanted]
    ) -> AbstractAsyncContextManager[ReachableVm]: ...

    @overload
    def vm(
        self, image_id: str, *, port: None = None, **wanted: Unpack[Wanted]
    ) -> AbstractAsyncContextManager[Vm]: ...

    def vm(
        self, image_id: str, *, port: int | None = None, **wanted: Unpack[Wanted]
    ) -> AbstractAsyncContextManager[Vm]:
        """Run a VM while a block of code runs; stopped at its end, however that comes.

        With a port, the block begins when the program listens on it.

        Args:
            image_id: The image: of a succeeded build, or of an import.
            port: Port that the program listens on.
            wanted: ``cpu``, ``memory``, ``env_vars``, ``volume_gb`` as :meth:`start_vm` takes
                them, and ``timeout``: seconds within which the block must have begun.

        Raises:
            VmEnded: The program ended before it listened.
        """
        return self._running(image_id, port, wanted)

    async def wait_for_vm(self, vm_id: str, *, timeout: float | None = None) -> ReachableVm:
        """Return a VM as soon as its program listens on the VM's port.

        Args:
            vm_id: Id of the VM.
            timeout: Seconds within which it must listen; the client's own if absent.

        Raises:
            VmEnded: The program ended before it listened.
            ValueError: The VM was started without a port.
        """
        deadline = self._deadline(timeout)
        vm = ReachableVm.of(await self.get_vm(vm_id, timeout=deadline.left_s))
        async with self.http(vm) as http:
            for pause_s in pauses_s():
                if await _listens(http, vm, deadline):
                    return vm
                found = await self.get_vm(vm_id, timeout=deadline.left_s)
                if has_ended(found):
                    raise VmEnded(found)
                deadline.check()
                await sleep(pause_s)
        raise AssertionError("there is always a next pause")

    def http(self, vm: ReachableVm) -> "httpx2.AsyncClient":
        """Return an HTTP client for the program in a VM: ``/`` is the VM's own.

        A VM's name below ``localhost`` is looked for where the server is, whether or not this
        machine knows such names. Close it after use.
        """
        from httpx2 import AsyncClient

        base_url, host = address(vm, self.url)
        return AsyncClient(base_url=base_url, headers={"Host": host})

    def _deadline(self, timeout_s: float | None) -> Deadline:
        return Deadline(self._configuration.timeout_s if timeout_s is None else timeout_s)

    @asynccontextmanager
    async def _running(self, image_id: str, port: int | None, wanted: Wanted) -> AsyncGenerator[Vm]:
        deadline = self._deadline(wanted.pop("timeout", None))
        key = str(uuid4())
        start = partial(self.start_vm, image_id, port=port, **wanted, idempotency_key=key)
        vm = await self._started(partial(start, timeout=deadline.left_s))
        try:
            yield vm if port is None else await self.wait_for_vm(vm.id, timeout=deadline.left_s)
        finally:
            with shielded():
                await self.stop_vm(vm.id)

    async def _started(self, start: Callable[[], Awaitable[Vm]]) -> Vm:
        """Start a VM; cut short, ask again with the same key which one it is, and stop it."""
        try:
            return await start()
        except ApiError:
            raise
        except BaseException:
            with shielded(), suppress(CakeworkError):
                await self.stop_vm((await start()).id)
            raise


async def _listens(http: "httpx2.AsyncClient", vm: ReachableVm, deadline: Deadline) -> bool:
    """Say whether the program answers, by asking it for ``/``."""
    try:
        with named(deadline, vm.url):
            async with http.stream("GET", "/", extensions={"timeout": deadline}) as response:
                status = response.status_code
                return listens(status, await response.aread() if status in FROM_ROUTER else b"")
    except ConnectionFailed as failure:
        if not failure.sent:
            raise
        return False
