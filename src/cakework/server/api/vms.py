"""Calls about VMs: startVM, stopVM, getVm, listVMs. Those for cached ones are beside."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.json_schema import SkipJsonSchema

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
from cakework.domain.ids import IMAGE_ID_PATTERN, VM_ID_PATTERN, ImageId, VmId
from cakework.domain.vms import (
    CPU_DEFAULT,
    CPU_MAX,
    CPU_MIN,
    MEMORY_MB_DEFAULT,
    MEMORY_MB_MAX,
    MEMORY_MB_MIN,
    PORT_MAX,
    PORT_MIN,
    VOLUME_GB_MAX,
    VOLUME_GB_MIN,
    Shape,
    VmRequest,
    VmState,
)
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.paging import GivenToken, Page, place_of, token_of
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.warm import Snapshot, snapshot_answer
from cakework.server.api.wire import AnswerBody, RequestBody, Text
from cakework.server.services.imports import Imports
from cakework.server.services.new_vms import NewVm
from cakework.server.services.vms import VmFilter, Vms
from cakework.server.store.models import VmRow

ENV_BYTES_MAX = 128 * 1024
ENV_NAMES_MAX = 1000
VmIdPath = Annotated[str, Path(alias="vmId", pattern=VM_ID_PATTERN, description="Id of the VM.")]


class StartVm(RequestBody):
    """What startVM takes."""

    image_id: str = Field(
        description="Image to start from: `imageId` of a succeeded build, or of an import, whose "
        "end a start waits for."
    )
    cpu: int | None = Field(
        default=CPU_DEFAULT, ge=CPU_MIN, le=CPU_MAX, description="Number of CPUs; 1 if absent."
    )
    memory: int | None = Field(
        default=MEMORY_MB_DEFAULT,
        ge=MEMORY_MB_MIN,
        le=MEMORY_MB_MAX,
        description="Memory in MB; 256 if absent.",
    )
    port: int | None = Field(
        default=None,
        ge=PORT_MIN,
        le=PORT_MAX,
        description="Port in the VM that its hostname leads to.",
    )
    env_vars: dict[Text, Text] | None = Field(
        default=None,
        description="Environment of the program, over the image's: at most 1,000 names, 128 KiB in "
        "all, names without `=`, neither with NUL.",
    )
    volume_gb: int | None = Field(
        default=None,
        alias="volumeGB",
        ge=VOLUME_GB_MIN,
        le=VOLUME_GB_MAX,
        description="Size of a volume at `/data`, in GB; none if absent.",
    )

    @field_validator("env_vars", mode="before")
    @classmethod
    def _check_number(cls, env: Any) -> Any:
        # Before each of them is looked at, and its faults told.
        if isinstance(env, dict) and len(cast("dict[str, object]", env)) > ENV_NAMES_MAX:
            raise ValueError(f"must have at most {ENV_NAMES_MAX} names")
        return cast("object", env)

    @field_validator("env_vars")
    @classmethod
    def _check_env(cls, env: dict[str, str] | None) -> dict[str, str] | None:
        for name, value in (env or {}).items():
            if not name or "=" in name or "\0" in name or "\0" in value:
                raise ValueError("must have names that are not empty and have no =, and no NUL")
        if sum(len(name.encode()) + len(value.encode()) for name, value in (env or {}).items()) > (
            ENV_BYTES_MAX
        ):
            raise ValueError("must be at most 128 KiB in all")
        return env

    def new_vm(self) -> NewVm:
        """Return the order that this body gives.

        Raises:
            NotFound: ``image_id`` is none that an image could have.
        """
        if not re.match(IMAGE_ID_PATTERN, self.image_id):
            raise NotFound("There is no image with this id.")
        return NewVm(
            image_id=ImageId(self.image_id),
            shape=Shape(cpu=self.cpu or CPU_DEFAULT, memory_mb=self.memory or MEMORY_MB_DEFAULT),
            port=self.port,
            env=self.env_vars or {},
            volume_gb=self.volume_gb or 0,
        )


class Vm(AnswerBody):
    """A VM."""

    id: str = Field(description="Id of the VM: 14 hexadecimal digits.", pattern=VM_ID_PATTERN)
    hostname: str = Field(description="Name that the VM is reached by; unique to it.")
    url: str | SkipJsonSchema[None] = Field(
        default=None,
        description="Where HTTP reaches the VM's port; absent without one, and once destroyed.",
    )
    cpu: int = Field(description="Number of CPUs.")
    memory: int = Field(description="Memory in MB.")
    image_id: str = Field(description="Image it was started from.", pattern=IMAGE_ID_PATTERN)
    state: VmState = Field(
        description="created: being started; started: its program was started; stopped: not "
        "started yet, or the program or the VM ended; destroyed: ended for good."
    )
    port: int | SkipJsonSchema[None] = Field(
        default=None, description="Port in the VM that its hostname leads to."
    )
    volume_gb: int = Field(
        serialization_alias="volumeGB", description="Size of its volume in GB; 0 for none."
    )
    exit_code: int | SkipJsonSchema[None] = Field(
        default=None, description="What the program exited with; 128 + n when signal n ended it."
    )
    reason: str | SkipJsonSchema[None] = Field(
        default=None, description="Why it stopped, for people."
    )
    snapshot: Snapshot | SkipJsonSchema[None] = Field(
        default=None, description="The snapshot that its starts begin with; absent for `boot`."
    )
    auto_start: bool | SkipJsonSchema[None] = Field(
        default=None, description="true if a request to its hostname starts it; else absent."
    )
    idle_timeout: int | SkipJsonSchema[None] = Field(
        default=None, description="Seconds without a request after which it is stopped."
    )
    memory_kept: bool | SkipJsonSchema[None] = Field(
        default=None,
        description="true while it is stopped with its memory kept: its next start goes on where "
        "it was; else absent.",
    )
    fork_of: str | SkipJsonSchema[None] = Field(
        default=None, description="Id of the cached VM that it was forked from."
    )
    created_at: str = Field(
        description="When it was asked for.", json_schema_extra={"format": "date-time"}
    )
    updated_at: str = Field(
        description="When it last changed.", json_schema_extra={"format": "date-time"}
    )


class VmPage(Page):
    """A page of the list of VMs."""

    vms: list[Vm] = Field(description="VMs, newest first, at most 100.")


class ListParameters(BaseModel):
    """What listVMs takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    image_id: str | None = Field(
        default=None, alias="imageId", description="Only VMs started from this image."
    )
    status: VmState | None = Field(default=None, description="Only VMs in this state.")
    pagination: GivenToken = None


@dataclass(frozen=True, slots=True)
class VmRoutes:
    """The calls about VMs. ``proxy_port`` is where the router to the VMs listens."""

    vms: Vms
    imports: Imports
    proxy_port: int

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["VMs"], route_class=door.route_class())
        add = router.add_api_route
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        posted = (*always, NotFound, Conflict, *BODY_ERRORS, Unavailable)
        add(
            "/v1/vm/start",
            self.start,
            methods=["POST"],
            operation_id="startVM",
            summary="Start a VM from an image",
            responses=responses(*posted, QuotaExceeded, NoRoom),
            response_model_exclude_none=True,
        )
        add(
            "/v1/vm/{vmId}/stop",
            self.stop,
            methods=["POST"],
            operation_id="stopVM",
            summary="Stop and destroy a one-time VM; doing it again changes nothing",
            responses=responses(*posted),
            response_model_exclude_none=True,
        )
        add(
            "/v1/vm/{vmId}",
            self.get,
            methods=["GET"],
            operation_id="getVm",
            summary="Look at a VM",
            responses=responses(*always, NotFound),
            response_model_exclude_none=True,
        )
        for path, name in (("/v1/vms", "listVMs"), ("/vms", "listVMsUnversioned")):
            add(
                path,
                self.list,
                methods=["GET"],
                operation_id=name,
                summary="List VMs, newest first",
                responses=responses(*always),
                response_model_exclude_none=True,
            )
        return router

    async def start(self, account: Account, token: Token, body: StartVm, response: Response) -> Vm:
        """Start a VM and answer when its program was started, or has already ended."""
        new = body.new_vm()
        await self.imports.ready(account, new.image_id)
        started = await self.vms.start(account, new, token)
        response.headers["Server-Timing"] = server_timing(started.phases_ms)
        return vm_answer(started.row, self.proxy_port)

    async def stop(self, account: Account, _token: Token, vm_id: VmIdPath) -> Vm:
        """Stop a one-time VM, which destroys it; its record and log stay."""
        row = await self.vms.end(account, VmId(vm_id), VmRequest.STOP)
        return vm_answer(row, self.proxy_port)

    async def get(self, account: Account, vm_id: VmIdPath) -> Vm:
        """Look at a VM."""
        return vm_answer(await self.vms.get(account, VmId(vm_id)), self.proxy_port)

    async def list(
        self, account: Account, parameters: Annotated[ListParameters, Query()]
    ) -> VmPage:
        """List the account's VMs, newest first, 100 a page."""
        image_id = parameters.image_id
        if image_id is not None and not re.match(IMAGE_ID_PATTERN, image_id):
            return VmPage(vms=[])
        wanted = VmFilter(ImageId(image_id) if image_id else None, parameters.status)
        rows, place = await self.vms.page(account, wanted, place_of(parameters.pagination))
        vms = [vm_answer(row, self.proxy_port) for row in rows]
        return VmPage(vms=vms, pagination=token_of(place))


def vm_answer(row: VmRow, proxy_port: int) -> Vm:
    """Return a VM as it is answered; ``proxy_port`` is where the router to it listens."""
    over = row.state in (VmState.STOPPED, VmState.DESTROYED)
    reachable = row.port is not None and row.state != VmState.DESTROYED
    return Vm(
        id=row.id,
        hostname=row.hostname,
        url=f"http://{row.hostname}:{proxy_port}/" if reachable else None,
        cpu=row.cpu,
        memory=row.memory_mb,
        image_id=row.image_id,
        state=VmState(row.state),
        port=row.port,
        volume_gb=row.volume_gb,
        exit_code=row.exit_code if over else None,
        reason=row.reason if over else None,
        snapshot=snapshot_answer(row),
        auto_start=row.auto_start or None,
        idle_timeout=row.idle_timeout_s,
        memory_kept=(row.memory_kept and row.state == VmState.STOPPED) or None,
        fork_of=row.fork_of,
        created_at=rfc3339(row.created_ms),
        updated_at=rfc3339(row.updated_ms),
    )


def server_timing(phases_ms: dict[str, float]) -> str:
    """Return the phases of a start as W3C's Server Timing has them.

    So: ``restore;dur=52.1, mount;dur=30.4``.
    """
    return ", ".join(f"{name};dur={took:.1f}" for name, took in phases_ms.items())
