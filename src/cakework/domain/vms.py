"""The life of a VM: one table for VMs that are started once and for cached ones.

          startVM                              cacheVM
             │                                    │
             ▼                                    ▼
          created ──────▶ started ──────▶ stopped
           │ ▲ │             │             ▲ │ │
           │ │ └─────────────┼─────────────┘ │ │
           │ └───────────────┼─ cached only ─┘ │
           ▼                 ▼                 ▼
           └───────────▶ destroyed ◀───────────┘

created     asked to start; the node may be at work on it, nothing of the user's runs yet
started     the user's program was started in the VM
stopped     nothing runs: not started yet, or the program ended, or the VM did; all it held is
            released but for what is a cached VM's to keep: its volume, its snapshot, its memory if
            it was stopped so; logs stay
destroyed   ended for good; id, record and logs stay until retention takes them

Each start of a cached VM is a run, counted from 1, and what a node says is of a run. What it
says of an earlier run than the record's counts for nothing any more. A stop that keeps memory
ends a run too: the next one goes on where it was. A fork is a VM that is started once, from the
snapshot of a cached one.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from cakework.domain.snapshots import SnapshotState

CPU_MIN, CPU_MAX, CPU_DEFAULT = 1, 8, 1
MEMORY_MB_MIN, MEMORY_MB_MAX, MEMORY_MB_DEFAULT = 256, 16384, 256
VOLUME_GB_MIN, VOLUME_GB_MAX = 1, 500
PORT_MIN, PORT_MAX = 1, 65535

STOPPED_ON_REQUEST = "stopped on request"
"""What a node says of a run that ended because it was asked to end it."""


class VmState(StrEnum):
    """Where a VM is in its life."""

    CREATED = "created"
    STARTED = "started"
    STOPPED = "stopped"
    DESTROYED = "destroyed"


class EndCause(StrEnum):
    """What ended a run, for who decides by it; sentences for people say more.

    ``exited``: the program did, by itself or by a signal. ``out_of_memory``: it, or its VM, had
    used all it may. ``stopped``: somebody asked for it. ``died``: the VM did, or had to be ended.
    ``lost``: nobody saw it: the host went, or the VM while its node was down.
    """

    EXITED = "exited"
    OUT_OF_MEMORY = "out_of_memory"
    STOPPED = "stopped"
    DIED = "died"
    LOST = "lost"


class VmRole(StrEnum):
    """What a VM is for.

    ``own``: its account's, as it says. The others are a function's: ``runtime`` has a runtime up
    and no code, ``version`` the code of a version, and an ``instance`` serves invocations.
    """

    OWN = "own"
    RUNTIME = "runtime"
    VERSION = "version"
    INSTANCE = "instance"


VmEgress = Literal["internet", "none"]
"""What a VM reaches: the public internet, as far as its node lets VMs; or nothing outside itself.
Either way it is reached at its ports, by its server and its router."""

TRANSITIONS: dict[VmState, frozenset[VmState]] = {
    VmState.CREATED: frozenset({VmState.STARTED, VmState.STOPPED, VmState.DESTROYED}),
    VmState.STARTED: frozenset({VmState.STOPPED, VmState.DESTROYED}),
    VmState.STOPPED: frozenset({VmState.CREATED, VmState.DESTROYED}),
    VmState.DESTROYED: frozenset(),
}
"""Every arrow of the drawing. That from stopped to created is for cached VMs alone."""


class VmRequest(StrEnum):
    """What may be asked of a VM that is there, by the name of the call."""

    STOP = "stopVM"
    START_CACHED = "startCachedVM"
    STOP_CACHED = "stopCachedVM"
    SUSPEND = "stopCachedVM?keep=memory"
    FORK = "forkCachedVM"
    DESTROY = "destroyCachedVM"


@dataclass(frozen=True, slots=True)
class Accept:
    """The request is to be carried out."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """There is nothing left to do; the request succeeds as it is."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The state does not allow the request."""

    reason: str


Decision = Accept | Ignore | Refuse

_NOT_CACHED = Refuse(
    "This VM was started with startVM, for one run: stopVM ends it, and it cannot be started again."
)
_CACHED = Refuse(
    "This is a cached VM: stopCachedVM (POST /v1/vm/cached/{id}/stop) stops it, destroyCachedVM "
    "(POST /v1/vm/cached/{id}/destroy) ends it for good."
)
_GONE = Refuse("The VM is destroyed, or about to be.")
_STARTING = Refuse("The VM is being started. Stop it, keeping its memory, once it is started.")
_STOPPING = Refuse("The VM is about to be stopped without keeping its memory.")
_NO_SNAPSHOT: dict[SnapshotState | None, Refuse] = {
    None: Refuse(
        "This VM has no snapshot to fork from: it was cached with snapshot boot. Cache one with "
        "`snapshot: ready`."
    ),
    SnapshotState.MAKING: Refuse(
        "The VM's snapshot is still being made. Fork it once getVm says that it is made."
    ),
    SnapshotState.FAILED: Refuse(
        "The VM's snapshot could not be made; getVm says why. Correct that and cache the VM anew."
    ),
}


@dataclass(frozen=True, slots=True)
class Life:
    """What decides about a VM: kind, state, state it is on its way to, starts, its snapshot."""

    cached: bool
    state: VmState
    wanted: VmState
    run: int
    snapshot: SnapshotState | None = None


def decide(life: Life, request: VmRequest) -> Decision:
    """Say what a request does to a VM.

    A start in ``created`` carries on with that start; a start of what is about to be stopped
    comes after that. A stop that is to keep memory changes nothing about one that is stopped.
    """
    match request:
        case VmRequest.STOP | VmRequest.DESTROY:
            return _decide_end(life, request)
        case _ if not life.cached:
            return _NOT_CACHED
        case VmRequest.START_CACHED:
            return _decide_start(life)
        case VmRequest.STOP_CACHED:
            return _decide_stop(life)
        case VmRequest.SUSPEND:
            return _decide_suspend(life)
        case VmRequest.FORK:
            return _decide_fork(life)


def _decide_end(life: Life, request: VmRequest) -> Decision:
    if life.cached and request is VmRequest.STOP:
        return _CACHED
    return Ignore() if life.state is VmState.DESTROYED else Accept()


def _decide_start(life: Life) -> Decision:
    if VmState.DESTROYED in (life.state, life.wanted):
        return _GONE
    runs = life.state is VmState.STARTED and life.wanted is VmState.STARTED
    return Ignore() if runs else Accept()


def _decide_stop(life: Life) -> Decision:
    if life.state in (VmState.STOPPED, VmState.DESTROYED):
        return Ignore()
    return _GONE if life.wanted is VmState.DESTROYED else Accept()


def _decide_suspend(life: Life) -> Decision:
    decision = _decide_stop(life)
    if not isinstance(decision, Accept):
        return decision
    if life.wanted is VmState.STOPPED:
        return _STOPPING
    return _STARTING if life.state is VmState.CREATED else decision


def _decide_fork(life: Life) -> Decision:
    if VmState.DESTROYED in (life.state, life.wanted):
        return _GONE
    return _NO_SNAPSHOT.get(life.snapshot, Accept())


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: a sentence for people, exit code, and whether its memory was kept.

    ``memory_kept`` is None when nobody knows it to have changed, ``cause`` when nobody said.
    """

    reason: str
    exit_code: int | None = None
    memory_kept: bool | None = None
    cause: EndCause | None = None


def sources(target: VmState) -> frozenset[VmState]:
    """Return the states that have an arrow to ``target``."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a VM is given: the key of a template."""

    cpu: int = CPU_DEFAULT
    memory_mb: int = MEMORY_MB_DEFAULT

    def rounded(self) -> "Shape":
        """Return the shape that a machine for this one has: memory up to the next size.

        There are four sizes to each doubling (256, 320, 384, 448, 512, 640, …), since each that is
        asked for is a template that has to be made, and takes some 100 MB of disk.
        """
        step_mb = max(1, 1 << (self.memory_mb - 1).bit_length() >> 3)
        return Shape(self.cpu, -(-self.memory_mb // step_mb) * step_mb)
