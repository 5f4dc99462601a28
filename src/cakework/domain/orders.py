"""Orders: what the server asks of a node, over HTTP on a unix socket. See docs/dev/node.md.

An order carries an id chosen by the server, and giving the same order twice does its work
once, so that the server may repeat any order whose answer it did not see.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cakework.domain.vms import Shape


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


BuildSource = Annotated[FilesSource, Field(discriminator="kind")]


class BuildOrder(Order):
    """``PUT /v1/builds/{build_id}``: build ``dockerfile`` over ``source`` into ``image_id``.

    Answered at once with 202; how it goes on comes as facts: ``build.line``, then one of
    ``build.succeeded`` and ``build.failed``.
    """

    build_id: str
    image_id: str
    dockerfile: str
    dockerignore: str | None = None
    source: FilesSource


class ImportOrder(Order):
    """``PUT /v1/imports/{image_id}``: fetch ``image_uri`` from its registry as ``image_id``.

    ``image_uri`` has its registry and a tag or a digest. Answered with 202 once the registry
    was asked: it takes the password, and has the image for our platform; a refusal says what
    is wrong. Then one of the facts ``import.succeeded`` and ``import.failed`` comes. Without
    a ``password`` the registry is asked as nobody.
    """

    image_id: str
    image_uri: str
    username: str = ""
    password: str = Field(default="", repr=False)


class ImportReport(BaseModel):
    """``GET /v1/imports/{image_id}``: where an import is; 404 when the node knows none."""

    image_id: str
    state: Literal["importing", "succeeded", "failed"]


class VmOrder(Order):
    """``PUT /v1/vms/{vm_id}``: start a VM from an image.

    Answered with 200 and :class:`VmReport` when the user's program was started, or has
    already ended. ``run`` counts the starts of one VM, from 1: a higher one than before starts
    it again, once it has stopped. ``volume_gb`` is 0 for none; a volume that is ``kept`` is
    there again at the next run, until ``DELETE /v1/volumes/{vm_id}``.
    """

    vm_id: str
    run: int = 1
    image_id: str
    shape: Shape = Shape()
    hostname: str
    port: int | None = None
    env: dict[str, str] = Field(default_factory=dict[str, str])
    volume_gb: int = 0
    volume_kept: bool = False


class StopOrder(Order):
    """``POST /v1/vms/{vm_id}/stop``: end a VM; answered 200 when all it held is released.

    The program gets SIGTERM, and ``grace_s`` seconds later SIGKILL. Unknown ids get 404.
    """

    grace_s: float = Field(default=2.0, ge=0, le=3600)


class VmReport(BaseModel):
    """A VM as its node sees it (``GET /v1/vms`` lists them, ``GET /v1/vms/{vm_id}`` gives one).

    ``phases_ms`` tells how long each phase of the start took, in milliseconds.
    """

    vm_id: str
    run: int = 1
    state: Literal["starting", "started", "stopped"]
    reason: str | None = None
    exit_code: int | None = None
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
