"""What server and router tell one another, each message one line of JSON on a unix socket.

The server tells of every VM that may be reached, then of each change. Messages are in order: who
has an answer has everything that was told before it.

Functions are asked for: a hostname's function is found, and an instance of it is lent to a router,
which has it to itself until it gives it back (docs/decisions/0016).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from cakework.domain.vms import VmState


class Message(BaseModel):
    """One line; unknown fields are passed over, so that either side may be newer."""

    def line(self) -> bytes:
        """Return it as it is sent."""
        return self.model_dump_json().encode() + b"\n"


class VmRoute(Message):
    """The VM behind ``host``: the port inside it and its state. ``run`` is another one after each
    start; with ``auto_start`` a request starts it."""

    kind: Literal["route"] = "route"
    host: str
    vm_id: str
    account_id: str
    port: int
    state: VmState
    run: int
    auto_start: bool


class Gone(Message):
    """No VM is behind ``host`` any more."""

    kind: Literal["gone"] = "gone"
    host: str


class Whole(Message):
    """Everything is told that there is: whatever was not, since the connection was made, is gone,
    and so are the gates that were shut before it."""

    kind: Literal["whole"] = "whole"


class Shut(Message):
    """Let no more requests into a VM, until the gate is opened; with ``idle_s`` only if none is
    under way, and none was for so many seconds."""

    kind: Literal["shut"] = "shut"
    gate: int
    vm_id: str
    idle_s: float | None = None


class Open(Message):
    """Open a gate that was shut."""

    kind: Literal["open"] = "open"
    gate: int


class Told(Message):
    """The answer to :class:`Ask`."""

    kind: Literal["told"] = "told"
    ask: int


class Woken(Message):
    """The answer to :class:`Wake`: it is started, or why it is not (see ``domain.errors``)."""

    kind: Literal["woken"] = "woken"
    ask: int
    code: str | None = None
    detail: str = ""
    retry_after_s: int | None = None


class Ask(Message):
    """Answer once everything is told that is known by now."""

    kind: Literal["ask"] = "ask"
    ask: int


class Wake(Message):
    """Start a VM that a request came for."""

    kind: Literal["wake"] = "wake"
    ask: int
    vm_id: str


class Gate(Message):
    """The answer to :class:`Shut`; ``idle_s`` is how long no request was under way, as far as the
    router knows."""

    kind: Literal["gate"] = "gate"
    gate: int
    shut: bool
    idle_s: float


class Find(Message):
    """Say which function is behind a hostname."""

    kind: Literal["find"] = "find"
    ask: int
    host: str


class Found(Message):
    """The answer to :class:`Find`: what decides who may come in. ``auth`` is ``none`` or ``key``;
    ``methods`` and ``origins`` None: any, and no answer about origins. An instance takes
    ``concurrency`` requests at once. ``version`` None: what is live."""

    kind: Literal["found"] = "found"
    ask: int
    function_id: str
    account_id: str
    auth: str = "none"
    methods: list[str] | None = None
    origins: list[str] | None = None
    concurrency: int = 1
    version: int | None = None


class Key(Message):
    """Say whether an API key is one of an account's."""

    kind: Literal["key"] = "key"
    ask: int
    account_id: str
    key: str = Field(repr=False)


class Checked(Message):
    """The answer to :class:`Key`."""

    kind: Literal["checked"] = "checked"
    ask: int
    good: bool


class Borrow(Message):
    """Lend an instance of what is live of a function, or of a version, started if there is none."""

    kind: Literal["borrow"] = "borrow"
    ask: int
    function_id: str
    version: int | None = None


class Lent(Message):
    """An instance is the router's alone, until it gives it back. It takes ``concurrency`` requests
    at once, ``uses`` in all, each for ``timeout_s`` at most; it has just been started, or not."""

    kind: Literal["lent"] = "lent"
    ask: int
    function_id: str
    vm_id: str
    version: int
    port: int
    concurrency: int
    uses: int
    timeout_s: int
    start: str


class Refused(Message):
    """The answer to a question that cannot be answered well: why not (see ``domain.errors``)."""

    kind: Literal["refused"] = "refused"
    ask: int
    code: str
    detail: str = ""
    retry_after_s: int | None = None


class Hold(Message):
    """These instances are lent to the router ``router``, and it wants to keep them. Told at least
    every ``domain.direct.HOLD_EVERY_S``, and first of all on a connection."""

    kind: Literal["hold"] = "hold"
    ask: int
    router: str
    vm_ids: list[str]


class Held(Message):
    """The answer to :class:`Hold`: which of them are not lent to it any more, and of which the VM
    has ended, whether or not its connections have."""

    kind: Literal["held"] = "held"
    ask: int
    lost: list[str]
    gone: list[str] = []


class Recall(Message):
    """Give the instances of a function back as soon as they have nothing to do, and find it anew;
    with ``vm_id`` that instance alone."""

    kind: Literal["recall"] = "recall"
    function_id: str
    vm_id: str | None = None


class Cut(Message):
    """End a request: its invocation was given up."""

    kind: Literal["cut"] = "cut"
    invocation_id: str


class Visit(BaseModel):
    """A request to a function, as it is by now. Without ``state`` it is under way.

    Data that goes through a transform is one, too: ``trigger`` says so, and ``result`` how many
    records there were.
    """

    id: str
    account_id: str
    function_id: str
    version: int
    vm_id: str
    start: str
    method: str
    path: str
    began_ms: int
    deadline_ms: int
    ended_ms: int | None = None
    state: str | None = None
    reason: str | None = None
    error: dict[str, Any] | None = None
    trigger: Literal["http", "transform"] = "http"
    result: dict[str, Any] | None = None


class Returned(BaseModel):
    """An instance that its router gives back after so many requests; without ``again`` it is to
    serve no more."""

    vm_id: str
    served: int
    again: bool


class Work(Message):
    """What has become of requests, then what is given back. Sent again until it is
    :class:`Noted`."""

    kind: Literal["work"] = "work"
    number: int
    router: str
    visits: list[Visit] = Field(default_factory=list["Visit"])
    returned: list[Returned] = Field(default_factory=list["Returned"])


class Noted(Message):
    """The work of this number is on record."""

    kind: Literal["noted"] = "noted"
    number: int


FromServer = Annotated[
    VmRoute
    | Gone
    | Whole
    | Shut
    | Open
    | Told
    | Woken
    | Found
    | Checked
    | Lent
    | Refused
    | Held
    | Recall
    | Cut
    | Noted,
    Field(discriminator="kind"),
]
FromRouter = Annotated[
    Ask | Wake | Gate | Find | Key | Borrow | Hold | Work, Field(discriminator="kind")
]
from_server: TypeAdapter[FromServer] = TypeAdapter(FromServer)
from_router: TypeAdapter[FromRouter] = TypeAdapter(FromRouter)
