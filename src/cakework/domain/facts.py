"""Facts: what a node tells the server, in two streams: changes of state, and lines.

``GET /v1/journal?after=N`` on the node's socket streams one JSON object a line, oldest
first, every change with a cursor above ``N``, and goes on as they come; an empty line is a
heartbeat. The server stores each under its cursor and then confirms with
``POST /v1/journal/ack`` ``{"cursor": N}``, after which the node may forget it. What was
not confirmed is sent again, so a reader must treat a cursor that it has as done.

``GET /v1/lines`` streams the lines that were not confirmed yet, each source's in the order of
their numbers, accounts in turns, sources in turns; and goes on as above. The server confirms with
``POST /v1/lines/ack`` ``{"lines": {"<vm or build id>": <number of the last line>, …}}``. Lines are
sent again like changes; one whose number its source is known to have is done. Only so many lines
are sent unconfirmed. What ends a log (``vm.stopped``, a build's end, a snapshot's) comes in the
journal when all lines before it are confirmed.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cakework.domain.vms import EndCause

Stream = Literal["stdout", "stderr"]


class Fact(BaseModel):
    """What all facts share: place in the journal, which lines have none, and when, in unix
    milliseconds."""

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
    ``memory_kept``: the next start goes on where it was. ``cause`` is absent of ends that a node
    recorded before there were causes.
    """

    kind: Literal["vm.stopped"] = "vm.stopped"
    vm_id: str
    run: int = 1
    reason: str
    exit_code: int | None = None
    memory_kept: bool = False
    cause: EndCause | None = None


class SnapshotMade(Fact):
    """The VM's snapshot is there: its starts resume the program from it.

    ``vm_runs``: it was taken of the VM as it ran, so that lines of the VM may follow.
    """

    kind: Literal["snapshot.made"] = "snapshot.made"
    vm_id: str
    size_bytes: int
    vm_runs: bool = False


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


AnyLine = VmLine | BuildLine
AnyChange = (
    VmStarted
    | VmStopped
    | SnapshotMade
    | SnapshotFailed
    | BuildSucceeded
    | BuildFailed
    | ImportSucceeded
    | ImportFailed
)
AnyFact = AnyLine | AnyChange

LINE: TypeAdapter[AnyLine] = TypeAdapter(Annotated[AnyLine, Field(discriminator="kind")])
CHANGE: TypeAdapter[AnyChange] = TypeAdapter(Annotated[AnyChange, Field(discriminator="kind")])
FACT: TypeAdapter[AnyFact] = TypeAdapter(Annotated[AnyFact, Field(discriminator="kind")])
