"""The call forkCachedVM: many VMs at once from the snapshot of a cached one."""

from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import Field

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
from cakework.domain.snapshots import FORKS_MAX, FORKS_MIN
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.vms import Vm, VmIdPath, vm_answer
from cakework.server.api.wire import AnswerBody, RequestBody
from cakework.server.services.forks import Forks


class ForkVm(RequestBody):
    """What forkCachedVM takes."""

    count: int = Field(ge=FORKS_MIN, le=FORKS_MAX, description="How many VMs to start.")


class ForkedVms(AnswerBody):
    """VMs that were forked from a cached one."""

    vms: list[Vm] = Field(description="The VMs, each with its own id and hostname.")


@dataclass(frozen=True, slots=True)
class ForkRoutes:
    """The call about forks. ``proxy_port`` is where the router to the VMs listens."""

    forks: Forks
    proxy_port: int

    def router(self, door: Door) -> APIRouter:
        """Return the call, entered through ``door``."""
        router = APIRouter(tags=["Cached VMs"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError, NotFound, Conflict, *BODY_ERRORS)
        router.add_api_route(
            "/v1/vm/cached/{vmId}/fork",
            self.fork,
            methods=["POST"],
            operation_id="forkCachedVM",
            summary="Start many VMs at once from a cached VM's snapshot; all of them, or none",
            responses=responses(*always, Unavailable, QuotaExceeded, NoRoom),
            response_model_exclude_none=True,
        )
        return router

    async def fork(
        self, account: Account, token: Token, vm_id: VmIdPath, body: ForkVm
    ) -> ForkedVms:
        """Start VMs that go on where the snapshot was taken; stopVM ends each of them."""
        rows = await self.forks.fork(account, VmId(vm_id), body.count, token)
        return ForkedVms(vms=[vm_answer(row, self.proxy_port) for row in rows])
