"""How much of the disk is left free that the server writes to.

It runs full by whatever writes to it, not by the server alone. So before it is full nothing new is
taken on, and no account's logs grow; what reads and what ends things goes on for as long as it can.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cakework.domain.errors import NoRoom

RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """The disk of ``folder``, of which ``least_mb`` is to stay free."""

    folder: Path
    least_mb: int

    @property
    def short(self) -> bool:
        """Whether less is free. One call of the system, which asks no disk."""
        return free_mb(self.folder) < self.least_mb

    def check(self) -> None:
        """Refuse what takes more room. Raises NoRoom."""
        if self.short:
            raise NoRoom(
                "The disk that the server writes to is nearly full. Nothing new is taken on until "
                "there is room; reading, stopping and deleting go on.",
                retry_after_s=RETRY_AFTER_S,
            )


def free_mb(folder: Path) -> int:
    """Return what is free on the disk of ``folder`` for who is not root, in MiB."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize >> 20
