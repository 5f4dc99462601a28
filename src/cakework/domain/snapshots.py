"""Snapshots of programs: a cached VM's program, up and ready, kept to be resumed from.

      cacheVM
         │
         ▼
      making ──▶ made ◀──▶ failed
         └──────────────────▲

making   the node is to make it, or at it
made     starts of the VM resume the program from it, and forks are started from it
failed   it could not be made; starts of the VM begin afresh

A start on a host that the snapshot does not match makes it anew, so ``made`` and ``failed`` may
follow each other. A VM cached with ``boot`` has none.
"""

from enum import StrEnum

IDLE_TIMEOUT_S_MIN, IDLE_TIMEOUT_S_MAX = 1, 86_400
FORKS_MIN, FORKS_MAX = 1, 100


class SnapshotKind(StrEnum):
    """What a cached VM's starts begin with."""

    BOOT = "boot"
    READY = "ready"


class SnapshotState(StrEnum):
    """Where the snapshot of a VM is."""

    MAKING = "making"
    MADE = "made"
    FAILED = "failed"
