"""Calls about cached VMs: cacheVM, startCachedVM, stopCachedVM, destroyCachedVM."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Response
from pydantic import Field, model_validator

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    InvalidRequest,
    NoRoom,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from cakework.domain.ids import VmId
from cakework.domain.vms import VOLUME_GB_MAX, VOLUME_GB_MIN, VmRequest
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.vms import StartVm, Vm, VmIdPath, server_timing, vm_answer
from cakework.server.api.warm import WarmFields
from cakework.server.services.cached_vms import CachedVms
from cakework.server.services.imports import Imports
from cakework.server.services.new_vms import NewVm
from cakework.server.services.vms import Vms

Keep = Annotated[
    Literal["memory"] | None,
    Query(description="`memory`: freeze the program and keep it, to go on at the next start."),
]


class CacheVm(WarmFields, StartVm):
    """What cacheVM takes: as startVM, the volume's size under either of two names, and more."""

    disk_size: int | None = Field(
        default=None,
        ge=VOLUME_GB_MIN,
        le=VOLUME_GB_MAX,
        description="Another name of `volumeGB`.",
    )

    @model_validator(mode="after")
    def _check_one_size(self) -> Self:
        sizes = {self.disk_size, self.volume_gb} - {None}
        if len(sizes) > 1:
            raise ValueError("diskSize and volumeGB are two names of one size, and must not differ")
        return self

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        self.check_warm(self.port, self._size)
        return self

    def new_vm(self) -> NewVm:
        """Return the order that this body gives."""
        return replace(super().new_vm(), volume_gb=self._size, warm=self.warm())

    @property
    def _size(self) -> int:
        return self.volume_gb or self.disk_size or 0


@dataclass(frozen=True, slots=True)
class CachedVmRoutes:
    """The calls about cached VMs. ``proxy_port`` is where the router to the VMs listens."""

    cached_vms: CachedVms
    vms: Vms
    imports: Imports
    proxy_port: int

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Cached VMs"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError, NotFound, Conflict, *BODY_ERRORS)
        cached = (*always, Unavailable, QuotaExceeded)
        started = (*cached, NoRoom)
        one = "/v1/vm/cached/{vmId}"
        cached_only = "Make a VM that can be started again and again"
        start = "Start a cached VM; one that runs is left as it is"
        stop = "Stop a cached VM; one that is stopped is left as it is"
        destroy = "End a VM for good, its volume too; doing it again changes nothing"
        stopped = (*always, Unavailable, NoRoom, QuotaExceeded)
        for path, endpoint, name, summary, errors in (
            ("/v1/vm/cache", self.cache, "cacheVM", cached_only, cached),
            (f"{one}/start", self.start, "startCachedVM", start, started),
            (f"{one}/stop", self.stop, "stopCachedVM", stop, stopped),
            (f"{one}/destroy", self.destroy, "destroyCachedVM", destroy, (*always, Unavailable)),
            ("/v1/vm/{vmId}/destroy", self.destroy, "destroyVM", destroy, (*always, Unavailable)),
        ):
            router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                operation_id=name,
                summary=summary,
                responses=responses(*errors),
                response_model_exclude_none=True,
            )
        return router

    async def cache(self, account: Account, token: Token, body: CacheVm) -> Vm:
        """Make a cached VM. Nothing runs and no room is taken until it is started."""
        new = body.new_vm()
        await self.imports.ready(account, new.image_id)
        row = await self.cached_vms.cache(account, new, token)
        return vm_answer(row, self.proxy_port)

    async def start(
        self, account: Account, token: Token, vm_id: VmIdPath, response: Response
    ) -> Vm:
        """Start a cached VM, with its environment, port, hostname and volume of before."""
        started = await self.cached_vms.start(account, VmId(vm_id), token)
        response.headers["Server-Timing"] = server_timing(started.phases_ms)
        return vm_answer(started.row, self.proxy_port)

    async def stop(self, account: Account, _token: Token, vm_id: VmIdPath, keep: Keep = None) -> Vm:
        """Stop a cached VM. It keeps its volume and its hostname, and can be started again.

        With `keep=memory` its next start goes on where it was; if its memory cannot be kept, it
        is not stopped.
        """
        act = self.cached_vms.stop if keep is None else self.cached_vms.suspend
        return vm_answer(await act(account, VmId(vm_id)), self.proxy_port)

    async def destroy(self, account: Account, _token: Token, vm_id: VmIdPath) -> Vm:
        """End a VM for good and free its volume; its record and log stay."""
        row = await self.vms.end(account, VmId(vm_id), VmRequest.DESTROY)
        return vm_answer(row, self.proxy_port)
