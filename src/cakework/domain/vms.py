"""The life of a VM.

    created ──▶ started ──▶ stopped ──▶ destroyed
       │           │                        ▲
       ├───────────┼────────────────────────┤
       └──▶ stopped (could not start)       │
                   └────────────────────────┘

created     recorded; the node may be at work on it, nothing of the user's runs yet
started     the user's program was started in the VM
stopped     the program ended, or the VM did; everything it held is released, logs stay
destroyed   ended for good; id, record and logs stay until retention takes them
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
    VmState.STOPPED: frozenset({VmState.DESTROYED}),
    VmState.DESTROYED: frozenset(),
}


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


def decide_stop(state: VmState) -> Decision:
    """Say what a stop of a one-time VM does in ``state``; it destroys the VM."""
    return Ignore() if state is VmState.DESTROYED else Accept()


def may_become(state: VmState, target: VmState) -> bool:
    """Say whether a VM in ``state`` may go to ``target`` next."""
    return target in TRANSITIONS[state]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a VM is given: the key of a template."""

    cpu: int = CPU_DEFAULT
    memory_mb: int = MEMORY_MB_DEFAULT
