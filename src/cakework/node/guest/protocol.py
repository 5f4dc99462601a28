"""The frames of ``guest/PROTOCOL.md``, version 2. Their bytes: :mod:`.codec`."""

from dataclasses import dataclass, field
from typing import Literal

from cakework.domain.errors import CakeworkError

VERSION = 2
FRAME_MAX = 1 << 20
TEXT_MAX = 16_384
LIST_MAX = 32_000
WHAT_CHARS_MAX = 1000
"""Of why something failed; a guest that is ours says it in far less."""
HOSTNAME_MAX = 64
SEED_SIZE = 32
MARK = b"\xff"
HELLO = 129
"""The type of a guest's HELLO."""
WIRE_MAX = 2 * FRAME_MAX
"""Bytes that a frame takes at most on the wire, without its closing FF."""

GuestState = Literal["waiting", "running", "exited", "failed", "frozen"]
HookEnd = Literal["done", "signal", "timeout"]
Stream = Literal["stdout", "stderr"]


class GuestError(CakeworkError):
    """The guest does not answer, or does not speak as it should."""


@dataclass(frozen=True, slots=True)
class HostHello:
    """Opens a connection. ``acked`` is the highest line number recorded, 0 for none."""

    token: int
    acked: int
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Rehearse:
    """Runs a program from the image disk as RUN would, then undoes everything."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What makes a machine itself and no other; ``clock_ns`` is ns since 1970, ``domain`` the
    whole name of which ``hostname`` is the first part."""

    clock_ns: int
    seed: bytes = field(repr=False)
    hostname: str
    dns: tuple[str, ...] = ()
    vm_id: str = ""
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Starts the user's program; ``env`` holds ``K=V``. With ``watch`` the guest tells when
    something listens on ``port`` (0: none), or the program says that it is ready."""

    identity: Identity
    argv: tuple[str, ...]
    env: tuple[str, ...] = field(default=(), repr=False)
    cwd: str = "/"
    user: str = ""
    volume: bool = False
    watch: bool = False
    port: int = 0


@dataclass(frozen=True, slots=True)
class Ack:
    """Line ``number`` and all before it are recorded."""

    number: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Sends a signal to the user's process."""

    number: int


@dataclass(frozen=True, slots=True)
class PowerOff:
    """Ends the user's process, by force after ``grace_ms``, and then the machine."""

    grace_ms: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Is answered with a :class:`Pong` of the same token."""

    token: int


@dataclass(frozen=True, slots=True)
class RunHook:
    """Runs ``argv`` beside the program, or with a ``port`` sends a POST to ``path`` there."""

    timeout_ms: int
    argv: tuple[str, ...] = ()
    port: int = 0
    path: str = ""


@dataclass(frozen=True, slots=True)
class Freeze:
    """Stops all of the user's processes where they are."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Makes the machine another, and lets the user's processes go on."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Mark:
    """Makes lines of all that has been printed; is answered with a :class:`Marked` of the same
    token."""

    token: int


@dataclass(frozen=True, slots=True)
class GuestHello:
    """Answers a :class:`HostHello`. ``last`` is the last line number made, 0 for none."""

    token: int
    state: GuestState
    last: int
    build: str
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Started:
    """The user's program runs."""

    pid: int


@dataclass(frozen=True, slots=True)
class Failed:
    """What was asked could not be done; ``error`` is an errno, 0 for none."""

    error: int
    what: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was printed, without its newline; ``goes_on``: so does the line."""

    number: int
    time_ns: int
    stream: Stream
    text: bytes
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Exited:
    """The user's program ended: ``value`` is its exit status, or the signal that ended it."""

    by_signal: bool
    value: int
    out_of_memory: bool
    last: int


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """The rehearsal is over and undone."""


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a :class:`Ping`."""

    token: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The program is ready."""


@dataclass(frozen=True, slots=True)
class Hooked:
    """The hook is over: ``value`` is its exit status, or the signal that ended it."""

    end: HookEnd
    value: int


@dataclass(frozen=True, slots=True)
class Frozen:
    """Nothing of the user's runs; ``last`` is the last line number made."""

    last: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The user's processes go on."""


@dataclass(frozen=True, slots=True)
class Marked:
    """What had been printed when a :class:`Mark` came ends with line number ``last``; what was
    printed later comes after it."""

    token: int
    last: int


HostFrame = (
    HostHello | Rehearse | Run | Ack | Signal | PowerOff | Ping | RunHook | Freeze | Resume | Mark
)
GuestFrame = (
    GuestHello
    | Started
    | Failed
    | Line
    | Exited
    | Rehearsed
    | Pong
    | Ready
    | Hooked
    | Frozen
    | Resumed
    | Marked
)
