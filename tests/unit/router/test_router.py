"""The router's own work beside requests."""

import asyncio
from typing import Any

import pytest

from cakework.router import router
from cakework.router.router import Router
from cakework.router.upstreams import Upstreams


def test_sweeping_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What leads to VMs that are gone is closed at the next sweep, if it was not at one."""

    async def scene() -> None:
        sweeps = asyncio.Semaphore(0)

        def sweep(_: Upstreams, is_live: object) -> None:
            sweeps.release()
            raise OSError("once and again")

        monkeypatch.setattr(router, "SWEEP_S", 0)
        monkeypatch.setattr(Upstreams, "sweep", sweep)
        unused: Any = None
        made = Router(routes=unused, dialer=unused, sleepers=unused)
        await made.start("127.0.0.1", 0)
        async with asyncio.timeout(20):
            for _ in range(3):
                await sweeps.acquire()
        await made.close()

    asyncio.run(scene())
