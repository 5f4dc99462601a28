"""What a router is told, over the socket that it comes to."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import pytest

from cakework.domain.errors import Conflict, Unavailable
from cakework.router.activity import Activity
from cakework.router.link import ServerLink
from cakework.server.functions.lendings import Lendings
from cakework.server.routers.desk import Desk
from cakework.server.routers.gates import Gates
from cakework.server.services.routes import Routes
from cakework.server.services.wakes import Wakes

pytestmark = pytest.mark.anyio


class Failing:
    """Wakes of which none goes well; a program that cannot be started has much to say."""

    async def wake(self, vm_id: str) -> None:
        raise Conflict("\x01" * 500_000)


class Nobody:
    """Lends nothing."""

    router = ""

    def borrower(self, _: object) -> "Nobody":
        return self

    async def run(self) -> None:
        return

    def close(self) -> None:
        return


async def whole(link: ServerLink) -> None:
    while True:
        try:
            return await link.confirm()
        except Unavailable:
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def linked(wakes: Failing) -> AsyncGenerator[ServerLink]:
    """A router's link to a server."""
    desk = Desk(Routes(), Gates(), cast("Wakes", wakes), cast("Lendings", Nobody()))
    with tempfile.TemporaryDirectory() as folder:
        await desk.open(Path(folder) / "routes.sock")
        link = ServerLink(Path(folder) / "routes.sock", Activity())
        task = asyncio.create_task(link.run())
        try:
            async with asyncio.timeout(30):
                await whole(link)
            yield link
        finally:
            task.cancel()
            await desk.close()


async def test_why_a_vm_was_not_woken_ends_nobodys_connection() -> None:
    """However long it is: it is cut, and the others' questions are answered."""
    async with linked(Failing()) as link:
        with pytest.raises(Conflict) as refused:
            await asyncio.wait_for(link.wake("vm"), 30)
        assert 0 < len(refused.value.detail) < 10_000
        assert link.is_whole
        await link.confirm()
