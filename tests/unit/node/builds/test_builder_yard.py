"""Where builds run, as setting and host have it, and the room that their machines take."""

import asyncio
from pathlib import Path

import pytest

from cakework.domain.vms import Shape
from cakework.node.builds.builder.yard import (
    SYSTEM_MB,
    builder_shape,
    choose_isolation,
    room_for,
)
from cakework.node.builds.failure import BuildError
from cakework.node.vms.room import Footprint, Room
from cakework.settings import Isolation

SHAPE = Shape(1, 512)


@pytest.mark.parametrize(
    ("wanted", "accelerator", "fits", "chosen"),
    [
        ("auto", "kvm", True, "vm"),
        ("auto", "kvm", False, "container"),
        ("auto", "tcg", True, "container"),
        ("vm", "tcg", False, "vm"),
        ("container", "kvm", True, "container"),
    ],
)
def test_what_is_not_said_depends_on_the_host(
    wanted: Isolation, accelerator: str, fits: bool, chosen: Isolation
) -> None:
    """Machines where they are quick and there is memory; what is said holds anyway."""
    assert choose_isolation(wanted, accelerator, fits=fits) == chosen


FOOTPRINT_MB = Footprint().mb(SHAPE)


def test_a_build_has_all_the_memory_it_may_use() -> None:
    """What the machine takes for itself comes on top."""
    assert builder_shape(2048).memory_mb == 2048 + SYSTEM_MB


def test_a_build_waits_for_room(tmp_path: Path) -> None:
    """Its log says so, once; it goes on when another has given its memory back."""
    room = Room(tmp_path, FOOTPRINT_MB, 0)
    said: list[str] = []
    waits = asyncio.Event()

    def say(text: str) -> None:
        said.append(text)
        waits.set()

    async def second() -> int:
        async with room_for(room, "second", SHAPE, say):
            return room.promised_mb

    async def run() -> None:
        async with asyncio.timeout(60):
            async with room_for(room, "first", SHAPE, said.append):
                assert said == []
                waiting = asyncio.create_task(second())
                await waits.wait()
            assert await waiting == FOOTPRINT_MB

    asyncio.run(run())
    assert said == ["waiting until the host has memory for a machine"]
    assert room.promised_mb == 0


@pytest.mark.parametrize(
    ("memory_mb", "min_free_disk_mb", "why"),
    [(FOOTPRINT_MB - 1, 0, "CAKEWORK_BUILD_MEMORY_MB"), (4096, 1 << 40, "disk")],
)
def test_a_host_that_never_has_room_is_not_waited_for(
    tmp_path: Path, memory_mb: int, min_free_disk_mb: int, why: str
) -> None:
    """Too little memory for one machine, or a full disk, fails the build."""

    async def run() -> None:
        async with room_for(Room(tmp_path, memory_mb, min_free_disk_mb), "build", SHAPE, print):
            raise AssertionError("it was taken")

    with pytest.raises(BuildError, match=why):
        asyncio.run(run())
