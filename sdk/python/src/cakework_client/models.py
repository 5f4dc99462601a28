"""What the API answers with. Fields are the API's own, in snake_case; what is absent is None."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal, NotRequired, Required, TypedDict

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
FunctionKind = Literal["function", "transform"]
Runtime = Literal["python3.13", "python3.11", "node24", "image"]
FunctionState = Literal["active", "deploying", "empty"]
VersionState = Literal["building", "ready", "failed", "retired"]
Isolation = Literal["function", "user", "invocation"]
RetryOn = Literal["error", "timeout", "crash", "interrupted"]
Mode = Literal["sync", "async"]
InvocationKind = Literal["direct", "queued"]
InvocationState = Literal[
    "queued", "running", "waiting", "succeeded", "failed", "canceled", "expired", "skipped"
]
Reason = Literal[
    "handler_error",
    "timeout",
    "crash",
    "out_of_memory",
    "interrupted",
    "non_retriable",
    "result_too_large",
    "bad_answer",
    "no_handler",
    "function_deleted",
    "version_failed",
    "ttl",
    "max_age",
    "overlap",
    "rate_limited",
    "superseded",
    "canceled_by_caller",
    "secrets_unavailable",
    "loop",
]
TriggerType = Literal["cron", "event", "webhook", "lifecycle"]
Overlap = Literal["skip", "queue", "allow", "replace"]
Missed = Literal["latest", "skip", "all"]
Scheme = Literal[
    "standard", "stripe", "github", "slack", "shopify", "hmac", "header", "basic", "none"
]
ManagedBy = Literal["api", "file"]
EventType = Literal[
    "build.succeeded",
    "build.failed",
    "vm.started",
    "vm.stopped",
    "vm.destroyed",
    "function.deployed",
    "function.failed",
    "invocation.succeeded",
    "invocation.failed",
    "trigger.paused",
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
class FunctionLogLine(LogLine):
    """A line of a function: ``invocation_id`` and ``attempt`` where it is of one that is known."""

    version: int
    invocation_id: str | None = None
    attempt: int | None = None
    vm_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage(Answer):
    """Lines of a log. With ``pagination``, send all three back for the next page."""

    lines: list[LogLine]
    pagination: str | None = None
    from_: datetime | None = None
    to: datetime | None = None


class RetrySettings(TypedDict, total=False):
    """When queued work is tried again: delays and ``maxAge`` in seconds."""

    maxAttempts: int
    minDelay: float
    factor: float
    maxDelay: float
    maxAge: int
    on: list[RetryOn]


class FailureFunction(TypedDict):
    """The function that is told of work that failed for good."""

    functionId: str


class Cors(TypedDict):
    """Which origins' pages may read what a function answers; ``*`` is any."""

    origins: list[str]


class Http(TypedDict, total=False):
    """Who may come in at a function's URL, and how; without ``methods`` by any."""

    auth: Literal["none", "key"]
    methods: list[str] | None
    cors: Cors | None


class LimitRule(TypedDict, total=False):
    """A rule of flow control: times in seconds, ``key`` a path such as ``data.customerId``."""

    type: Required[Literal["concurrency", "throttle", "rate", "debounce", "batch"]]
    key: str
    limit: int
    strategy: Literal["queue", "skip", "replace"]
    onRetry: Literal["keepPlace", "letOthersPass"]
    period: int
    burst: int
    maxWait: int
    maxSize: int


class Settings(TypedDict, total=False):
    """Settings of a function: ``memory`` in MB, ``timeout`` and ``idleTimeout`` in seconds;
    ``onError``, ``unit``, ``maxBatch`` and ``timeoutMs`` are of transforms alone."""

    memory: int
    cpu: int
    timeout: int | None
    concurrency: int
    maxInstances: int
    minInstances: int
    isolation: Isolation | None
    idleTimeout: int
    snapshot: Literal["ready", "none"]
    egress: Literal["internet", "none"]
    envVars: dict[str, str]
    secrets: list[str]
    secretsAtInit: bool
    http: Http
    retry: RetrySettings
    limits: Sequence[LimitRule]
    onFailure: FailureFunction | None
    labels: dict[str, str]
    onError: Literal["fail", "pass", "drop"]
    unit: Literal["record", "batch"]
    maxBatch: int
    timeoutMs: int


class VerifySettings(TypedDict, total=False):
    """How what comes in at a webhook is told from forgeries; ``secret`` is the provider's."""

    scheme: Required[Scheme]
    secret: str
    header: str
    encoding: Literal["hex", "base64"]
    algorithm: Literal["sha256", "sha512"]
    prefix: str
    tolerance: int


class TriggerSettings(TypedDict, total=False):
    """What a trigger is told, by its type.

    ``cron``: one of ``cron``, ``every`` (seconds) and ``at``; the rest up to ``endAt``. ``event``:
    ``types``, ``source``. ``lifecycle``: ``types``. ``webhook``: ``verify`` and what follows it.
    """

    cron: str | None
    every: int | None
    at: datetime | str | None
    timeZone: str | None
    overlap: Overlap | None
    missed: Missed | None
    missedWindow: int | None
    spread: int | None
    data: Any
    startAt: datetime | str | None
    endAt: datetime | str | None
    types: Sequence[str]
    source: str | None
    verify: VerifySettings
    eventType: str | None
    respond: Literal["accepted", "result"] | None
    dedupe: bool | None


class GithubSource(TypedDict):
    """Code in a branch on GitHub: ``org/repo``, and the folder in it that is the code's root."""

    repository: str
    branch: str
    token: NotRequired[str]
    folder: NotRequired[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionLogPage(LogPage):
    """Lines of a function's log. With ``pagination``, send all three back for the next page."""

    lines: list[FunctionLogLine]  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvocationLogPage(FunctionLogPage):
    """Lines of an invocation; ``complete`` is whether all of them are on record."""

    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy(Answer):
    """When queued work is tried again: delays and ``max_age`` are in seconds."""

    max_attempts: int
    min_delay: float
    factor: float
    max_delay: float
    max_age: int
    on: list[RetryOn]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureHandler(Answer):
    """The function that is told of work that failed for good."""

    function_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsSettings(Answer):
    """Which origins' pages may read what a function answers."""

    origins: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings(Answer):
    """Who may come in at a function's URL, and how; ``methods`` None is any."""

    auth: Literal["none", "key"]
    methods: list[str] | None = None
    cors: CorsSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency(Answer):
    """So many at once: what is beyond waits, is skipped, or takes the place of the oldest."""

    type: Literal["concurrency"]
    limit: int
    strategy: Literal["queue", "skip", "replace"] = "queue"
    on_retry: Literal["keepPlace", "letOthersPass"] = "keepPlace"
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle(Answer):
    """Starts are spread in time: ``limit`` in ``period`` seconds."""

    type: Literal["throttle"]
    limit: int
    period: int
    burst: int = 1
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(Answer):
    """What is beyond ``limit`` in ``period`` seconds is skipped."""

    type: Literal["rate"]
    limit: int
    period: int
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Debounce(Answer):
    """Only the newest is done, when nothing came for ``period`` seconds."""

    type: Literal["debounce"]
    period: int
    max_wait: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Answer):
    """What comes within ``max_wait`` seconds is one invocation, with a list of the events."""

    type: Literal["batch"]
    max_size: int
    max_wait: int
    key: str | None = None


Rule = Concurrency | Throttle | Rate | Debounce | Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSettings(Answer):
    """All settings of a function. ``memory`` is in MB, what is a time in seconds."""

    memory: int
    cpu: int
    timeout: int | None = None
    concurrency: int
    max_instances: int
    min_instances: int
    isolation: Isolation | None = None
    idle_timeout: int
    snapshot: Literal["ready", "none"]
    env_vars: dict[str, str] | None = None
    secrets: list[str]
    secrets_at_init: bool = False
    egress: Literal["internet", "none"] = "internet"
    on_error: Literal["fail", "pass", "drop"] | None = None
    unit: Literal["record", "batch"] | None = None
    max_batch: int | None = None
    timeout_ms: int | None = None
    http: HttpSettings = HttpSettings(auth="none")
    retry: RetryPolicy
    limits: list[Rule] = field(default_factory=list[Rule])
    on_failure: FailureHandler | None = None
    labels: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Function(Answer):
    """A function. ``build_id`` is there while a version is being made."""

    id: str
    name: str
    user_id: str | None = None
    kind: FunctionKind
    runtime: Runtime
    settings: FunctionSettings
    state: FunctionState
    live_version: int | None = None
    url: str
    build_id: str | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionPage(Answer):
    """Functions, newest first; ``pagination`` asks for the next page."""

    functions: list[Function]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOfVersion(Answer):
    """The snapshot that a version's instances begin from; ``error`` says why there is none."""

    state: Literal["made", "failed", "none"]
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(Answer):
    """A version of a function. ``handlers`` and ``snapshot`` are there once it is ready."""

    function_id: str
    version: int
    state: VersionState
    build_id: str
    error: str | None = None
    runtime: Runtime
    entry: str
    handlers: list[str] | None = None
    source_digest: str
    message: str | None = None
    snapshot: SnapshotOfVersion | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPage(Answer):
    """Versions, newest first; ``pagination`` asks for the next page."""

    versions: list[Version]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile(Answer):
    """A file of code; ``encoding`` is ``base64`` where ``content`` is that."""

    dir: str
    name: str
    content: str
    encoding: Literal["base64"] | None = None

    @property
    def path(self) -> str:
        """Its path from the root."""
        return self.name if self.dir == "." else f"{self.dir}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFiles(Answer):
    """The code of a version, as it was sent."""

    files: list[SourceFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted(Answer):
    """Nothing is left to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedDraft(Answer):
    """A draft that was saved; the next save is given its ``etag``."""

    etag: str
    source_digest: str
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftAnswer(SavedDraft):
    """A draft: what an editor saved of a function."""

    files: list[SourceFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedArchive(Answer):
    """A function that was deployed from an archive: its id, its URL, the build of its version."""

    id: str
    endpoint: str
    build_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Answer):
    """A secret, without its value; ``fingerprint`` tells one value from another."""

    name: str
    function_id: str | None = None
    user_id: str | None = None
    shared: bool
    fingerprint: str
    updated_at: datetime
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretPage(Answer):
    """Secrets; ``pagination`` asks for the next page."""

    secrets: list[Secret]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretDeleted(Answer):
    """Nothing is left to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvocationError(Answer):
    """What an attempt raised; ``retry_after`` is in seconds."""

    type: str
    message: str
    stack: str | None = None
    retriable: bool
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Answer):
    """One run of the handler. ``outcome`` is ``succeeded`` or a reason, None while it goes on."""

    attempt: int
    version: int
    vm_id: str
    start: Literal["warm", "fork", "restore", "cold"]
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause(Answer):
    """What an invocation was made by."""

    invocation_id: str | None = None
    event_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation(Answer):
    """An invocation. ``result`` is the answer if that is JSON and not large; so is ``event``.

    ``scheduled_at`` is when its trigger's schedule came round, if it has one.
    """

    id: str
    function_id: str
    user_id: str | None = None
    version: int | None = None
    trigger: str
    trigger_id: str | None = None
    scheduled_at: datetime | None = None
    kind: InvocationKind
    state: InvocationState
    reason: Reason | None = None
    attempt: int
    max_attempts: int | None = None
    next_attempt_at: datetime | None = None
    event: dict[str, Any] | None = None
    result: Any = None
    error: InvocationError | None = None
    attempts: list[Attempt]
    queued_ms: int | None = None
    duration_ms: int | None = None
    replay_of: str | None = None
    cause: Cause | None = None
    depth: int
    created_at: datetime
    updated_at: datetime

    @property
    def ended(self) -> bool:
        """Whether it is over, well or not."""
        return self.state not in ("queued", "running", "waiting")


@dataclass(frozen=True, slots=True, kw_only=True)
class InvocationPage(Answer):
    """Invocations, newest first; ``pagination`` asks for the next page."""

    invocations: list[Invocation]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched(Answer):
    """How many dead letters were meant."""

    matched: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CronConfig(Answer):
    """When a schedule comes round: by ``cron``, ``every`` so many seconds, or once ``at`` a time.

    ``missed_window`` and ``spread`` are in seconds, ``data`` is that of its events.
    """

    cron: str | None = None
    every: int | None = None
    at: str | None = None
    time_zone: str = "UTC"
    overlap: Overlap = "skip"
    missed: Missed = "latest"
    missed_window: int = 3600
    spread: int = 0
    data: Any = None
    start_at: str | None = None
    end_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventConfig(Answer):
    """Which events a trigger wants: ``order.*`` are all types that begin so."""

    types: list[str]
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify(Answer):
    """How what comes in at a webhook is told from forgeries; ``tolerance`` is in seconds."""

    scheme: Scheme
    header: str | None = None
    encoding: Literal["hex", "base64"] | None = None
    algorithm: Literal["sha256", "sha512"] | None = None
    prefix: str | None = None
    tolerance: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig(Answer):
    """What a provider sends to a trigger's URL, and how that is known to be from it."""

    verify: Verify
    event_type: str | None = None
    respond: Literal["accepted", "result"] = "accepted"
    dedupe: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleConfig(Answer):
    """What of the platform a trigger is told, such as ``cakework.invocation.failed``."""

    types: list[str]


TriggerConfig = CronConfig | EventConfig | WebhookConfig | LifecycleConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRefused(Answer):
    """What came in at a webhook and was not signed as it should be; ``why`` is of the last."""

    count: int
    why: str | None = None
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger(Answer):
    """A trigger: what makes invocations of a function.

    Its ``type`` says which ``config`` it has: of one that this version does not know, a plain
    dictionary. ``next`` are the next times of a schedule, ``url`` is where the provider of a
    webhook sends to.
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, Mapping[str, type[Answer]]]]] = {
        "config": (
            "type",
            {
                "cron": CronConfig,
                "event": EventConfig,
                "webhook": WebhookConfig,
                "lifecycle": LifecycleConfig,
            },
        )
    }

    id: str
    function_id: str
    type: TriggerType
    name: str | None = None
    user_id: str | None = None
    external_id: str | None = None
    managed_by: ManagedBy
    enabled: bool
    state: Literal["active", "paused"]
    paused_reason: str | None = None
    config: TriggerConfig | dict[str, Any]
    filter: dict[str, Any] | None = None
    retry: RetryPolicy | None = None
    limits: list[Rule] | None = None
    on_failure: FailureHandler | None = None
    pause_after: int | None = None
    consecutive_failures: int
    url: str | None = None
    next: list[datetime] | None = None
    last_fired_at: datetime | None = None
    last_result: str | None = None
    refused: TriggerRefused | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerWithSecret(Trigger):
    """A trigger; of a webhook with the secret that was made for it, which is shown this once."""

    secret: str | None = None

    def __repr__(self) -> str:
        """Name the trigger; the secret stays out of logs."""
        return f"TriggerWithSecret(id={self.id!r}, type={self.type!r}, secret=…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerPage(Answer):
    """Triggers, newest first; ``pagination`` asks for the next page."""

    triggers: list[Trigger]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerDeleted(Answer):
    """Nothing is left to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePreview(Answer):
    """When a schedule would come round; ``remarks`` say what changes of the clock do to it."""

    times: list[datetime]
    remarks: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedEvent(Answer):
    """What became of an event: ``invocations`` is how many it has made by now.

    One whose ``source`` and ``id`` were there already is a ``duplicate``, and made nothing.
    """

    id: str
    duplicate: bool
    invocations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedEvents(Answer):
    """What became of events, one for each that was sent, in order."""

    events: list[EmittedEvent]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventInvocation(Answer):
    """An invocation that an event has led to."""

    id: str
    function_id: str
    trigger_id: str | None = None
    state: InvocationState


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Answer):
    """An event that was emitted. ``event`` is the CloudEvent, in a list only up to 4 KiB.

    ``invocations`` are the first hundred that it has ``made``, not in lists.
    """

    id: str
    type: str
    subject: str | None = None
    user_id: str | None = None
    event: dict[str, Any] | None = None
    bytes: int
    made: int
    pending: bool
    depth: int
    cause_id: str | None = None
    invocations: list[EventInvocation] | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage(Answer):
    """Events, newest first; ``pagination`` asks for the next page."""

    events: list[Event]
    pagination: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match(Answer):
    """Whether a filter takes an event; ``because`` says of each field how it compares."""

    matches: bool
    because: list[str]


@dataclass(frozen=True, slots=True)
class InvocationResult:
    """What a handler answered, as it is."""

    content: bytes
    content_type: str

    def json(self) -> Any:
        """Return it as what its JSON says."""
        return json.loads(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook(Answer):
    """An endpoint that events are sent to; ``events`` is None for all of them but
    ``invocation.succeeded``.

    ``missed`` counts the ends of invocations that it was not told of, since very many deliveries
    were pending for it.
    """

    id: str
    url: str
    events: list[EventType] | None = None
    description: str | None = None
    enabled: bool
    disabled_reason: str | None = None
    missed: int = 0
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
