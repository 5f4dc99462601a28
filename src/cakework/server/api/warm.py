"""What cacheVM takes, and Vm shows, of programs that are kept: snapshots, hooks, waking, idling."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.orders import ExecHook, Hook, Hooks, HttpHook
from cakework.domain.snapshots import (
    IDLE_TIMEOUT_S_MAX,
    IDLE_TIMEOUT_S_MIN,
    SnapshotKind,
    SnapshotState,
)
from cakework.server.api.wire import AnswerBody, RequestBody, Text
from cakework.server.services.new_vms import Warm
from cakework.server.store.models import VmRow

ARGUMENTS_MAX, ARGUMENTS_BYTES_MAX, PATH_CHARS_MAX = 64, 16 * 1024, 2048


class HookBody(RequestBody):
    """Something to run in the VM: one of ``exec`` and ``http``."""

    exec: list[Text] | None = Field(
        default=None,
        min_length=1,
        max_length=ARGUMENTS_MAX,
        description="A program of the image and its arguments, run as the image's user; it must "
        "end with status 0. At most 16 KiB in all, without NUL.",
    )
    http: Text | None = Field(
        default=None,
        pattern=r"^/[!-~]*$",
        max_length=PATH_CHARS_MAX,
        description="A path that is sent a POST on the VM's own port; it must be answered 2xx.",
    )

    @field_validator("exec")
    @classmethod
    def _check_exec(cls, arguments: list[str] | None) -> list[str] | None:
        if arguments is None:
            return None
        if not arguments[0] or any("\0" in argument for argument in arguments):
            raise ValueError("must begin with a program, and have no NUL")
        if sum(len(argument.encode()) for argument in arguments) > ARGUMENTS_BYTES_MAX:
            raise ValueError("must be at most 16 KiB in all")
        return arguments

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.exec is None) == (self.http is None):
            raise ValueError("must have exactly one of exec and http")
        return self

    def hook(self) -> Hook:
        """Return it as the node takes it."""
        if self.exec is not None:
            return ExecHook(argv=self.exec)
        return HttpHook(path=self.http or "/")


class HooksBody(RequestBody):
    """What runs in the VM around its snapshot."""

    before_snapshot: HookBody | None = Field(
        default=None, description="Run once the program is ready, right before the snapshot."
    )
    after_resume: HookBody | None = Field(
        default=None, description="Run in each VM that goes on from a snapshot, or from memory."
    )

    def hooks(self) -> Hooks:
        """Return them as the node takes them."""
        before, after = self.before_snapshot, self.after_resume
        return Hooks(
            before_snapshot=before.hook() if before else None,
            after_resume=after.hook() if after else None,
        )

    @property
    def need_port(self) -> bool:
        """Whether one of them is sent to the VM's port."""
        return any(each and each.http for each in (self.before_snapshot, self.after_resume))


class WarmFields(RequestBody):
    """The fields of cacheVM about programs that are kept."""

    snapshot: Literal["boot", "ready"] | None = Field(
        default="boot",
        description="What starts begin with. `boot`: the program afresh. `ready`: a snapshot of "
        "the program, taken once it is ready, when its port accepts; not with a volume.",
    )
    hooks: HooksBody | None = Field(
        default=None, description="What runs in the VM around its snapshot; none if absent."
    )
    auto_start: bool | None = Field(
        default=False, description="Whether a request to its hostname starts it. Needs a port."
    )
    idle_timeout: int | None = Field(
        default=None,
        ge=IDLE_TIMEOUT_S_MIN,
        le=IDLE_TIMEOUT_S_MAX,
        description="Seconds without a request through the router after which it is stopped, with "
        "its memory kept; never if absent. Needs a port.",
    )

    def warm(self) -> Warm:
        """Return what these fields ask for."""
        return Warm(
            snapshot=SnapshotKind(self.snapshot or "boot"),
            hooks=self.hooks.hooks() if self.hooks else Hooks(),
            auto_start=bool(self.auto_start),
            idle_timeout_s=self.idle_timeout,
        )

    def check_warm(self, port: int | None, volume_gb: int) -> None:
        """Check what depends on other fields.

        Raises:
            ValueError: they do not go together, and why.
        """
        ready, hooks = self.snapshot == "ready", self.hooks
        if ready and volume_gb:
            raise ValueError(
                "snapshot ready and a volume do not go together: the memory in a snapshot would "
                "not fit a volume that has moved on"
            )
        if hooks is not None and hooks.before_snapshot is not None and not ready:
            raise ValueError("hooks.beforeSnapshot needs snapshot ready")
        if port is None:
            self._check_without_port()

    def _check_without_port(self) -> None:
        if self.auto_start:
            raise ValueError("autoStart needs a port, which requests go to")
        if self.idle_timeout is not None:
            raise ValueError("idleTimeout needs a port, which requests go to")
        if self.hooks is not None and self.hooks.need_port:
            raise ValueError("a hook with http needs a port")


class Snapshot(AnswerBody):
    """The snapshot that a VM's starts begin with."""

    kind: SnapshotKind = Field(description="`ready`: the program, up and ready.")
    state: SnapshotState = Field(
        description="making; made: starts resume the program from it, and it can be forked; "
        "failed: starts begin afresh."
    )
    error: str | SkipJsonSchema[None] = Field(
        default=None, description="Why it could not be made, for people."
    )


def snapshot_answer(row: VmRow) -> Snapshot | None:
    """Return the snapshot of a VM as it is answered; None for VMs without one."""
    if row.snapshot_state is None:
        return None
    state = SnapshotState(row.snapshot_state)
    return Snapshot(kind=SnapshotKind.READY, state=state, error=row.snapshot_error)
