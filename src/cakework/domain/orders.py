"""Orders: what the server asks of a node, over HTTP on a unix socket. See docs/dev/node.md.

An order carries an id chosen by the server, and giving the same order twice does its work
once, so that the server may repeat any order whose answer it did not see.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cakework.domain.repositories import checked_branch, checked_repository, checked_token
from cakework.domain.vms import EndCause, Shape, VmEgress


class Order(BaseModel):
    """What all orders share."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ContextFile(Order):
    """One file of a build context: path relative to its root, and its bytes in base64."""

    path: str
    content_base64: str


class FilesSource(Order):
    """A build context given as files."""

    kind: Literal["files"] = "files"
    files: list[ContextFile]


class GithubSource(Order):
    """A build context that is the newest commit of a branch of ``repository``, ``org/repo``.

    The address is the node's setting ``github_url``. Without a ``token`` it is asked for as
    nobody.
    """

    kind: Literal["github"] = "github"
    repository: str
    branch: str
    token: str = Field(default="", repr=False)

    @field_validator("repository")
    @classmethod
    def _check_repository(cls, repository: str) -> str:
        return checked_repository(repository)

    @field_validator("branch")
    @classmethod
    def _check_branch(cls, branch: str) -> str:
        return checked_branch(branch)

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: str) -> str:
        return checked_token(token)


BuildSource = Annotated[FilesSource | GithubSource, Field(discriminator="kind")]


class CodeOrder(Order):
    """``POST /v1/code``: the files of a branch, as tar.gz. Accounts take turns."""

    account_id: str
    source: GithubSource


class BuildOrder(Order):
    """``PUT /v1/builds/{build_id}``: build ``dockerfile`` over ``source`` into ``image_id``.

    Answered at once with 202; how it goes on comes as facts: ``build.line``, then one of
    ``build.succeeded`` and ``build.failed``. Layers are shared among the builds of ``account_id``,
    and with no others; accounts take turns in being built for. An order of an earlier version,
    which has none, shares layers and turns with no other.
    """

    build_id: str
    image_id: str
    account_id: str = ""
    dockerfile: str
    dockerignore: str | None = None
    source: BuildSource

    @property
    def owner(self) -> str:
        """Whose it is; an order of an earlier version, which does not say, is its own owner's."""
        return self.account_id or self.build_id

    @property
    def token(self) -> str:
        """The token that its source is fetched with; empty for none."""
        return self.source.token if isinstance(self.source, GithubSource) else ""

    def with_token(self, token: str) -> "BuildOrder":
        """Return the same order with another token for its source, or with none."""
        if not isinstance(self.source, GithubSource):
            return self
        source = self.source.model_copy(update={"token": token})
        return self.model_copy(update={"source": source})


class BuildReport(BaseModel):
    """A build that the node has queued or running (``GET /v1/builds`` lists them).

    ``wants_order``: the node was restarted, and the token of this build's order was in its
    memory alone; it goes on when the order is given again.
    """

    build_id: str
    wants_order: bool = False


class ImportOrder(Order):
    """``PUT /v1/imports/{image_id}``: fetch ``image_uri`` from its registry as ``image_id``.

    ``image_uri`` has its registry and a tag or a digest. Answered with 202 once the registry
    was asked: it takes the password, and has the image for our platform; a refusal says what
    is wrong. Then one of the facts ``import.succeeded`` and ``import.failed`` comes. Without
    a ``password`` the registry is asked as nobody. Accounts take turns, as with builds.
    """

    image_id: str
    account_id: str = ""
    image_uri: str
    username: str = ""
    password: str = Field(default="", repr=False)

    @property
    def owner(self) -> str:
        """Whose it is; an order of an earlier version, which does not say, is its own owner's."""
        return self.account_id or self.image_id


class ImportReport(BaseModel):
    """``GET /v1/imports/{image_id}``: where an import is; 404 when the node knows none."""

    image_id: str
    state: Literal["importing", "succeeded", "failed"]


class ExecHook(Order):
    """A program of the image, run in the VM as its user; it must end with status 0."""

    kind: Literal["exec"] = "exec"
    argv: list[str] = Field(min_length=1)


class HttpHook(Order):
    """A POST to ``path`` on the VM's own port, sent inside the VM; it must be answered 2xx."""

    kind: Literal["http"] = "http"
    path: str


Hook = Annotated[ExecHook | HttpHook, Field(discriminator="kind")]


class Hooks(Order):
    """What runs in a VM right before its snapshot is taken, and whenever it is resumed."""

    before_snapshot: Hook | None = None
    after_resume: Hook | None = None


class VmOrder(Order):
    """``PUT /v1/vms/{vm_id}``: start a VM from an image.

    Answered with 200 and :class:`VmReport` when the user's program was started or resumed, or
    has already ended. ``run`` counts the starts of one VM, from 1: a higher one than before
    starts it again, once it has stopped. ``volume_gb`` is 0 for none; a volume that is ``kept``
    is there again at the next run, until ``DELETE /v1/volumes/{vm_id}``. ``lines_before`` is the
    number of the last line that the server has of earlier runs: lines are counted on from there,
    or from the last one that the node remembers if that is higher. Lines of the VMs and builds of
    one ``account_id`` take turns with those of others.

    What a start begins with, the first that applies:

    - memory kept by a stop of this VM with ``keep_memory``; used up by it
    - ``fork_of``: the snapshot of that VM; the rest of the order must fit it
    - ``snapshot`` ``ready``: the snapshot of this VM, made first if it is not there or does not
      match this host (see :class:`SnapshotReport`); when it cannot be made, as ``boot``
    - ``boot``: the program is started afresh

    ``forkable``: a snapshot is likely to be taken of it as it runs, which ends it (see
    :class:`SnapshotOrder`); where guests are emulated its machine may then be what others are
    forked from. It takes no machine that waits, and is not forked itself as long as it runs.

    ``egress`` ``none``: from before anything runs in it, it reaches nothing outside itself; its
    ports are reached through the dial socket all the same. What it was forked from may have had
    another.
    """

    vm_id: str
    run: int = 1
    account_id: str = ""
    image_id: str
    shape: Shape = Shape()
    hostname: str
    port: int | None = None
    env: dict[str, str] = Field(default_factory=dict[str, str])
    volume_gb: int = 0
    volume_kept: bool = False
    lines_before: int = Field(default=0, ge=0)
    snapshot: Literal["boot", "ready"] = "boot"
    hooks: Hooks = Hooks()
    fork_of: str | None = None
    forkable: bool = False
    egress: VmEgress = "internet"

    @property
    def owner(self) -> str:
        """Whose it is; an order of an earlier version, which does not say, is its own owner's."""
        return self.account_id or self.vm_id


class SnapshotReport(BaseModel):
    """``GET /v1/snapshots/{vm_id}``: a VM's snapshot of its program, up and ready.

    ``PUT /v1/snapshots/{vm_id}`` with a :class:`VmOrder` of run 0 has it made and is answered
    202 at once; then one of the facts ``snapshot.made`` and ``snapshot.failed`` comes. One that
    is there and matches is not made again (``made`` comes all the same). ``DELETE`` removes it,
    together with memory that a stop kept. ``GET /v1/snapshots`` lists the ids of VMs that have
    either.
    """

    vm_id: str
    state: Literal["making", "made", "failed"]
    error: str | None = None
    size_bytes: int = 0


class SnapshotOrder(Order):
    """``POST /v1/vms/{vm_id}/snapshot``: take the "ready" snapshot of a VM as it runs.

    The hook ``before_snapshot`` runs, the program is frozen and saved, in place of a snapshot that
    the VM has; its own later starts, and ``fork_of`` it, begin there. Then it goes on, its hook
    ``after_resume`` having run, or ends. Answered with :class:`SnapshotReport` when that is done;
    ``snapshot.made`` tells of it. When it could not be saved the VM goes on, or ends with a reason.

    ``snapshot_id`` is the order's own: given again with the same one, it takes no other snapshot as
    long as the VM has this one, but still ends the VM's ``run``, and no later one, if it was to.

    Refused for a VM with a volume (400), one that does not run, that goes on from kept memory or
    was started with another guest, kernel or QEMU than the node has, or whose hook before does not
    go well (409).
    """

    snapshot_id: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    run: int = 1
    then: Literal["go_on", "end"] = "go_on"


class MarkReport(BaseModel):
    """``POST /v1/vms/{vm_id}/mark``: where a VM's log was at a moment between the request and its
    answer.

    ``seq`` is the number of the last line that it had printed then, and all of them are in the
    lines' stream or were; what it prints later has higher ones. A line that was not finished ends
    there, and goes on in the next of its stream. Refused (409) for a VM that does not run, or whose
    guest is of an earlier version.
    """

    seq: int


class StopOrder(Order):
    """``POST /v1/vms/{vm_id}/stop``: end a VM; answered 200 when all it held is released.

    The program gets SIGTERM, and ``grace_s`` seconds later SIGKILL. One that seems to have ended
    by itself is first given ``wait_s`` seconds for that, so that the report says how. With
    ``keep_memory`` it is not ended but frozen, and its memory, devices and disk kept for the next
    start; if that cannot be done the VM goes on, and the answer says why. Unknown ids get 404.
    """

    grace_s: float = Field(default=2.0, ge=0, le=3600)
    wait_s: float = Field(default=0.0, ge=0, le=60)
    keep_memory: bool = False


class VmReport(BaseModel):
    """A VM as its node sees it (``GET /v1/vms`` lists them, ``GET /v1/vms/{vm_id}`` gives one).

    ``began`` says what its start began with, see :class:`VmOrder`; ``phases_ms`` how long each
    phase of the start took, in milliseconds. ``memory_kept``: it was stopped so. ``cause`` is
    what ended it.
    """

    vm_id: str
    run: int = 1
    state: Literal["starting", "started", "stopped"]
    began: Literal["boot", "ready", "memory"] = "boot"
    reason: str | None = None
    exit_code: int | None = None
    memory_kept: bool = False
    cause: EndCause | None = None
    phases_ms: dict[str, float] = Field(default_factory=dict[str, float])


class NodeHealth(BaseModel):
    """``GET /v1/health``. ``node_id`` changes only when the node's data folder is new."""

    node_id: str
    version: str
    accelerator: Literal["kvm", "tcg", "unknown"]
    ready: bool
    detail: str
    vms: int
    builds: int
    build_isolation: Literal["vm", "container"] = "container"


class LinesAck(BaseModel):
    """``POST /v1/lines/ack``: of these VMs and builds the lines up to these numbers are stored."""

    lines: dict[str, int]


class NodeProblem(BaseModel):
    """Body of every error answer of the node; ``code`` is one of domain.errors."""

    code: str
    detail: str


class DialRequest(Order):
    """Sent as one JSON line on the node's dial socket, to reach a port inside a VM.

    The answer is one JSON line, :class:`DialAnswer`; with ``ok`` it carries, as SCM_RIGHTS
    ancillary data, the file descriptor of a TCP socket connected to the port.
    """

    vm_id: str
    port: int = Field(ge=1, le=65_535)


class DialAnswer(BaseModel):
    """Answer to a :class:`DialRequest`; ``code`` is ``not_found`` or ``refused`` or ``timeout``."""

    ok: bool
    code: str | None = None
    detail: str | None = None
