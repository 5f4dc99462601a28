"""Ends an import of which nothing more arrives: a registry may stall in the midst of a layer."""

import time
from pathlib import Path

from cakework.node.builds.disk import Bound, DiskGuard, bytes_below

STALL_S = 60
ARRIVED = "arrived"
"""A file that fetch.sh makes in the work folder when all is there."""


class ArrivalGuard(DiskGuard):
    """A DiskGuard of an import's folder, which also ends it when nothing is added for STALL_S."""

    def __init__(self, work: Path, image_mb: int, spare_mb: int) -> None:
        """Watch ``work``, which holds layers, and what is on its way into them."""
        fault = f"the image is larger than {image_mb} MB"
        super().__init__(work, spare_mb, Bound(self._bytes, 2 * image_mb, fault))
        self._work = work
        self._seen = -1
        self._grew_at = time.monotonic()

    def _bytes(self) -> int:
        found = bytes_below(self._work)
        if found != self._seen:
            self._seen, self._grew_at = found, time.monotonic()
        return found

    def _over(self) -> str | None:
        fault = super()._over()
        if fault or time.monotonic() - self._grew_at < STALL_S:
            return fault
        if (self._work / ARRIVED).exists():
            return None
        return f"the registry sent nothing for {STALL_S} s, in the midst of the image"
