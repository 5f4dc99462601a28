"""A disk that is as full as a test says, and knows how often it was looked at."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import pytest


class FakeDisk:
    """What every path is on from now on. Fields as ``os.statvfs`` names them; blocks of 4 KiB."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        free_mb: int,
        inodes: int = 0,
        free_inodes: int = 0,
    ) -> None:
        self._answer = SimpleNamespace(
            f_bavail=free_mb * 256, f_frsize=4096, f_files=inodes, f_favail=free_inodes
        )
        self._loop = asyncio.get_running_loop()
        self._looks = asyncio.Semaphore(0)
        monkeypatch.setattr(os, "statvfs", self._look)

    def _look(self, _: Path) -> SimpleNamespace:
        self._loop.call_soon_threadsafe(self._looks.release)
        return self._answer

    async def found_enough(self) -> None:
        """Return when it is looked at again: who found too little before has said so by then."""
        for _ in range(2):
            await self._looks.acquire()
