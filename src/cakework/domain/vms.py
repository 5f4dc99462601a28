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
            released but for a cached VM's volume, logs stay
destroyed   ended for good; id, record and logs stay until retention takes them

Each start of a cached VM is a run, counted from 1, and what a node says is of a run. What it
says of an earlier run than the record's counts for nothing any more.
"""

from dataclasses import dataclass
from enum import StrEnum

CPU_MIN, CPU_MAX, CPU_DEFAULT = 1, 8, 1
MEMORY_MB_MIN, MEMORY_MB_MAX, MEMORY_MB_DEFAULT = 256, 16384, 256
VOLUME_GB_MIN, VOLUME_GB_MAX = 1, 500
PORT_MIN, PORT_MAX = 1, 65535


class VmState(StrEnum):
    """Where a VM is in its life."""

    CREATED = "created"
    STARTED = "started"
    STOPPED = "stopped"
    DESTROYED = "destroyed"


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


@dataclass(frozen=True, slots=True)
class Life:
    """What decides about a VM: kind, state, state it is on its way to, number of starts."""

    cached: bool
    state: VmState
    wanted: VmState
    run: int


def decide(life: Life, request: VmRequest) -> Decision:
    """Say what a request does to a VM.

    A start in ``created`` carries on with that start; a start of what is about to be stopped
    comes after that.
    """
    match request:
        case VmRequest.START_CACHED:
            return _decide_start(life) if life.cached else _NOT_CACHED
        case VmRequest.STOP_CACHED:
            return _decide_stop(life) if life.cached else _NOT_CACHED
        case VmRequest.STOP if life.cached:
            return _CACHED
        case VmRequest.STOP | VmRequest.DESTROY:
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


def sources(target: VmState) -> frozenset[VmState]:
    """Return the states that have an arrow to ``target``."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a VM is given: the key of a template."""

    cpu: int = CPU_DEFAULT
    memory_mb: int = MEMORY_MB_DEFAULT
