"""A QEMU that was taken over, asked for its state."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cakework.domain.errors import Unavailable
from cakework.node.vms import machines
from cakework.node.vms.machines import Machine
from cakework.node.vms.monitor import Monitor
from cakework.node.vms.saved import Saved


def test_a_state_that_never_ends_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it has written all, and keeps the socket open: the machine is not saved."""
    monkeypatch.setattr(machines, "SAVE_TIMEOUT_S", 0.05)
    kept: list[int] = []

    async def save(fd: int, timeout_s: float) -> None:
        kept.append(os.dup(fd))
        os.write(fd, b"state")

    async def attack() -> None:
        machine = object.__new__(Machine)
        machine.monitor = cast("Monitor", SimpleNamespace(save=save))
        target = cast("Saved", SimpleNamespace(state=tmp_path / "state"))
        await asyncio.wait_for(machine.save(target), 60)

    with pytest.raises(Unavailable, match="has no end"):
        asyncio.run(attack())
    os.close(kept[0])
