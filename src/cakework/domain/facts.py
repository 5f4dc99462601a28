"""Facts: what a node tells the server, in one ordered stream, the journal.

``GET /v1/journal?after=N`` on the node's socket streams one JSON object a line, oldest
first, every fact with a cursor above ``N``, and goes on as facts come; an empty line is a
heartbeat. The server stores each fact under its cursor and then confirms with
``POST /v1/journal/ack`` ``{"cursor": N}``, after which the node may forget it. Facts that
were not confirmed are sent again, so a reader must treat a cursor that it has as done.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Stream = Literal["stdout", "stderr"]


class Fact(BaseModel):
    """What all facts share: place in the journal, and when, in unix milliseconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    cursor: int = 0
    at_ms: int


class VmLine(Fact):
    """A line that the user's program printed. ``seq`` counts a VM's lines from 1, without gaps,
    through all its runs."""

    kind: Literal["vm.line"] = "vm.line"
    vm_id: str
    seq: int
    stream: Stream
    text: str


class VmStarted(Fact):
    """The user's program was started, for the ``run``-th time."""

    kind: Literal["vm.started"] = "vm.started"
    vm_id: str
    run: int = 1


class VmStopped(Fact):
    """The VM's ``run`` is over and all it held is released, but for a volume that is kept.

    ``reason`` is a sentence for people. ``exit_code`` is the program's, 128 + n when signal n
    ended it, absent when the program did not end by itself and its end was not seen.
    ``memory_kept``: the next start goes on where it was.
    """

    kind: Literal["vm.stopped"] = "vm.stopped"
    vm_id: str
    run: int = 1
    reason: str
    exit_code: int | None = None
    memory_kept: bool = False


class SnapshotMade(Fact):
    """The VM's snapshot is there: its starts resume the program from it."""

    kind: Literal["snapshot.made"] = "snapshot.made"
    vm_id: str
    size_bytes: int


class SnapshotFailed(Fact):
    """The VM's snapshot could not be made; ``error`` says why, for people."""

    kind: Literal["snapshot.failed"] = "snapshot.failed"
    vm_id: str
    error: str


class BuildLine(Fact):
    """A line of a build's output. ``seq`` counts a build's lines from 1, without gaps."""

    kind: Literal["build.line"] = "build.line"
    build_id: str
    seq: int
    stream: Stream
    text: str


class BuildSucceeded(Fact):
    """The build's image can be started from."""

    kind: Literal["build.succeeded"] = "build.succeeded"
    build_id: str
    image_id: str
    size_bytes: int


class BuildFailed(Fact):
    """The build ended without an image; ``error`` says why, for people."""

    kind: Literal["build.failed"] = "build.failed"
    build_id: str
    error: str


class ImportSucceeded(Fact):
    """The imported image can be started from."""

    kind: Literal["import.succeeded"] = "import.succeeded"
    image_id: str
    size_bytes: int


class ImportFailed(Fact):
    """The import ended without an image; ``error`` says why, for people."""

    kind: Literal["import.failed"] = "import.failed"
    image_id: str
    error: str


AnyFact = Annotated[
    VmLine
    | VmStarted
    | VmStopped
    | SnapshotMade
    | SnapshotFailed
    | BuildLine
    | BuildSucceeded
    | BuildFailed
    | ImportSucceeded
    | ImportFailed,
    Field(discriminator="kind"),
]
FACT: TypeAdapter[AnyFact] = TypeAdapter(AnyFact)
