"""An account that means ill: what its functions hold up of others, and take of what is everybody's.

What takes long is held here by the test, where a hostile account would have code that does."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cakework.domain.functions import FunctionSettings
from cakework.server.functions.dispatch import STARTS_AT_ONCE
from cakework.server.functions.instances import Instances
from cakework.server.store.function_models import InstanceRow

from .function_node import FunctionNode
from .rig import eventually, settings_for
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hosting(folder: Path, tmp_path: Path, anyio_backend: str) -> AsyncGenerator[FunctionNode]:
    async with FunctionNode(settings_for(folder, None), tmp_path).hosting() as node:
        yield node


@pytest.fixture
async def functions(folder: Path, hosting: FunctionNode) -> AsyncGenerator[Functions]:
    async with served(folder, hosting, None) as made:
        yield made


async def test_starts_that_never_end_hold_up_their_account_alone(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, with an end user each."""
    rig = functions.rig
    hostile = await functions.made(settings={"maxInstances": 200})
    held: list[str] = []
    start = Instances.start

    async def slow(self: Instances, row: InstanceRow, settings: FunctionSettings) -> None:
        if row.function_id == hostile:
            held.append(row.vm_id)
            await asyncio.Event().wait()
        await start(self, row, settings)

    monkeypatch.setattr(Instances, "start", slow)
    for number in range(STARTS_AT_ONCE + 4):
        await functions.queue(hostile, userId=f"user-{number}")

    async def begun() -> bool:
        return len(held) >= STARTS_AT_ONCE // 2

    await eventually(begun, "as many start as may")
    async with await rig.other_account() as theirs:
        mine, rig.client = rig.client, theirs
        other = await functions.made(name="theirs")
        assert (await functions.invoke(other))["state"] == "succeeded"
        rig.client = mine
    assert len(held) == STARTS_AT_ONCE // 2
