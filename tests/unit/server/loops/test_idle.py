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
    """VMs that all are idle: those of one account take long to be put to rest."""

    def __init__(self) -> None:
        self.rested: list[str] = []

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
        await asyncio.sleep(0.3 if account == SLOW else 0)
        self.rested.append(account)


async def test_vms_that_take_long_keep_no_others_from_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another account's is put to rest beside them, and those that are not begun with are left, so
    that the next pass comes soon."""
    monkeypatch.setattr(idle, "PASS_S", 0.1)
    vms = Idling()
    loop = idle.IdleLoop(cast("Routes", vms), cast("Gates", vms), cast("CachedVms", vms))
    await loop.one_pass()
    assert vms.rested == [OTHER, SLOW, SLOW]
