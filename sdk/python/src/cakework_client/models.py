"""What the API answers with. Fields are the API's own, in snake_case; what is absent is None."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypedDict

from cakework_client.wire import Answer, narrowed

BuildStatus = Literal["created", "succeeded", "failed"]
SnapshotKind = Literal["boot", "ready"]
SnapshotState = Literal["making", "made", "failed"]
Keep = Literal["memory"]
VmState = Literal["created", "started", "stopped", "destroyed"]
LogLevel = Literal["info", "error"]
Order = Literal["oldest_first", "newest_first"]
DeliveryStatus = Literal["pending", "succeeded", "failed"]
ImageSource = Literal["files", "github", "import"]
ImageState = Literal["importing", "ready", "failed", "deleted"]
EventType = Literal[
    "build.succeeded",
    "build.failed",
    "vm.started",
    "vm.stopped",
    "vm.destroyed",
    "webhook.test",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build(Answer):
    """A build. ``image_id`` is there once it has succeeded, ``error`` once it has failed."""

    build_id: str
    status: BuildStatus
    image_id: str | None = None
    error: str | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SucceededBuild(Build):
    """A build that has succeeded."""

    image_id: str  # pyright: ignore[reportGeneralTypeIssues]

    @classmethod
    def of(cls, build: Build) -> "SucceededBuild | None":
        """Return a build as what it is, None unless it has succeeded."""
        return None if build.image_id is None else narrowed(cls, build)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPage(Answer):
    """Builds, newest first; ``pagination`` asks for the next page."""

    builds: list[Build]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedImage(Answer):
    """An image that is being imported; a start waits for its end."""

    image_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Image(Answer):
    """An image. ``size_bytes`` is there once it is ready, ``error`` if it could not be imported."""

    image_id: str
    source: ImageSource
    state: ImageState
    size_bytes: int | None = None
    image_uri: str | None = None
    build_id: str | None = None
    error: str | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePage(Answer):
    """Images, newest first; ``pagination`` asks for the next page."""

    images: list[Image]
    pagination: str | None = None


class Hook(TypedDict, total=False):
    """Something to run in a VM, one of two: a program of the image with its arguments, or a path
    that is sent a POST on the VM's port."""

    exec: list[str]
    http: str


class Hooks(TypedDict, total=False):
    """What runs in a VM right before its snapshot, and when it goes on from one."""

    beforeSnapshot: Hook
    afterResume: Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Answer):
    """The snapshot that a cached VM's starts begin with; ``error`` says why it failed."""

    kind: SnapshotKind
    state: SnapshotState
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm(Answer):
    """A VM. ``memory`` is in MB, ``volume_gb`` 0 for none; ``url`` leads to its ``port``.

    Of cached ones alone: ``snapshot``, ``auto_start``, ``idle_timeout`` in seconds, and
    ``memory_kept`` while a start goes on where it was. ``fork_of`` is the VM it was forked from.
    """

    id: str
    hostname: str
    url: str | None = None
    cpu: int
    memory: int
    image_id: str
    state: VmState
    port: int | None = None
    volume_gb: int
    exit_code: int | None = None
    reason: str | None = None
    snapshot: Snapshot | None = None
    auto_start: bool | None = None
    idle_timeout: int | None = None
    memory_kept: bool | None = None
    fork_of: str | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkedVms(Answer):
    """VMs that were forked from a cached one."""

    vms: list[Vm]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachableVm(Vm):
    """A VM with a port, which its URL leads to."""

    url: str  # pyright: ignore[reportGeneralTypeIssues]
    port: int  # pyright: ignore[reportGeneralTypeIssues]

    @classmethod
    def of(cls, vm: Vm) -> "ReachableVm":
        """Return a VM as what it is.

        Raises:
            ValueError: It was started without a port.
        """
        if vm.url is None or vm.port is None:
            raise ValueError(f"VM {vm.id} was started without a port")
        return narrowed(cls, vm)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmPage(Answer):
    """VMs, newest first; ``pagination`` asks for the next page."""

    vms: list[Vm]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine(Answer):
    """A line that a program printed. ``timestamp`` is in unix milliseconds."""

    id: int
    timestamp: int
    level: LogLevel
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage(Answer):
    """Lines of a log. With ``pagination``, send all three back for the next page."""

    lines: list[LogLine]
    pagination: str | None = None
    from_: datetime | None = None
    to: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook(Answer):
    """An endpoint that events are sent to; ``events`` is None for all of them."""

    id: str
    url: str
    events: list[EventType] | None = None
    description: str | None = None
    enabled: bool
    disabled_reason: str | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookWithSecret(Webhook):
    """A webhook with its secret, which is shown this once."""

    secret: str

    def __repr__(self) -> str:
        """Name the webhook; the secret stays out of logs."""
        return f"WebhookWithSecret(id={self.id!r}, url={self.url!r}, secret=…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookList(Answer):
    """The webhooks of the account, oldest first."""

    webhooks: list[Webhook]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDelivery(Answer):
    """An event on its way to a webhook, and how the last attempt went."""

    id: str
    event_id: str
    event_type: EventType
    status: DeliveryStatus
    attempts: int
    response_status: int | None = None
    response_body: str | None = None
    error: str | None = None
    created_at: datetime
    attempted_at: datetime | None = None
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDeliveryPage(Answer):
    """Deliveries, newest first; ``pagination`` asks for the next page."""

    deliveries: list[WebhookDelivery]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Answer):
    """The server answers."""

    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness(Answer):
    """All that the server needs answers too."""

    status: str
    store: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError(Answer):
    """A field at fault: its path in the request, such as ``files.0.name``."""

    field: str
    message: str
