"""What server and router tell one another, each message one line of JSON on a unix socket.

The server tells of every VM that may be reached, then of each change. Messages are in order: who
has an answer has everything that was told before it.
"""

from typing import Annotated, Literal

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


FromServer = Annotated[
    VmRoute | Gone | Whole | Shut | Open | Told | Woken, Field(discriminator="kind")
]
FromRouter = Annotated[Ask | Wake | Gate, Field(discriminator="kind")]
from_server: TypeAdapter[FromServer] = TypeAdapter(FromServer)
from_router: TypeAdapter[FromRouter] = TypeAdapter(FromRouter)
