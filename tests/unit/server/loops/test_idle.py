"""Who is put to rest by one pass, where some take long."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import cast

import pytest

from cakework.domain.ids import AccountId, VmId
from cakework.domain.vms import VmState
from cakework.server.loops import idle
from cakework.server.routers.gates import Gates
from cakework.server.services.cached_vms import CachedVms
from cakework.server.services.routes import Route, Routes

pytestmark = pytest.mark.anyio
SLOW, OTHER = "slow", "other"


class Idling:
    """VMs that all are idle: those of one account take as long to be put to rest as a pass may,
    and do not come to it before that of the other's."""

    def __init__(self) -> None:
        self.rested: list[str] = []
        self.now_s = 1000.0
        self._other_rests = asyncio.Event()

    def idling(self) -> list[Route]:
        accounts = [*(SLOW,) * 20, OTHER]
        return [
            Route(VmId(f"{number}"), account, 80, VmState.STARTED, 1, True, 0)
            for number, account in enumerate(accounts)
        ]

    @contextlib.asynccontextmanager
    async def shut_if_idle(self, vm_id: str, idle_s: float) -> AsyncGenerator[None]:
        yield None

    async def suspend(self, account: AccountId, vm_id: VmId, reason: str) -> None:
        if account == SLOW:
            await self._other_rests.wait()
            self.now_s += idle.PASS_S
        self.rested.append(account)
        self._other_rests.set()


async def test_vms_that_take_long_keep_no_others_from_rest() -> None:
    """Another account's is put to rest beside them, and those that are not begun with are left, so
    that the next pass comes soon."""
    vms = Idling()
    loop = idle.IdleLoop(
        cast("Routes", vms), cast("Gates", vms), cast("CachedVms", vms), lambda: vms.now_s
    )
    await loop.one_pass()
    assert vms.rested == [OTHER, SLOW, SLOW]
