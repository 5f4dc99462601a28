"""Who gives way when the disk fills up: builds and imports before anybody's VM."""

import asyncio
from pathlib import Path

import pytest

from cakework.domain.errors import NoRoom
from cakework.node.builds.disk import Bound, DiskGuard
from cakework.node.builds.failure import BuildError
from cakework.node.builds.shop import BuildLimits
from cakework.node.free_space import least_for_vms_mb
from cakework.node.vms.room import Room, Shortage
from cakework.settings import Settings
from tests.unit.node.fake_disk import FakeDisk

MB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def build_goes_on(disk: FakeDisk, folder: Path, spare_mb: int) -> bool:
    """Return whether a build goes on after the disk was looked at."""
    try:
        async with DiskGuard(folder, spare_mb):
            await disk.found_enough()
    except BuildError as error:
        assert str(error) == "the disk for builds is full"
        return False
    return True


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("free_mb", "starts", "builds", "runs"),
    [
        (2048, True, True, True),
        (2047, False, True, True),
        (1536, False, True, True),
        (1535, False, False, True),
        (1024, False, False, True),
        (1023, False, False, False),
    ],
)
async def test_builds_give_way_before_a_vm_does(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    free_mb: int,
    starts: bool,
    builds: bool,
    runs: bool,
) -> None:
    """With less and less free: no VM starts, builds and imports are ended, the largest VM is."""
    settings = Settings(data_dir=tmp_path)
    room = Room(tmp_path, 0, settings.min_free_disk_mb)
    limits = BuildLimits.of(settings)
    disk = FakeDisk(monkeypatch, free_mb=free_mb)
    assert await build_goes_on(disk, tmp_path, limits.spare_mb) is builds
    try:
        room.check_disk()
    except NoRoom:
        assert not starts
    else:
        assert starts
    shortage = Shortage(least_for_vms_mb(settings.min_free_disk_mb))
    assert shortage.asks_for_one(room.free_disk_mb()) is not runs


@pytest.mark.anyio
async def test_a_full_disk_is_seen_while_a_build_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Counting a large tree takes long; the disk is looked at meanwhile."""
    FakeDisk(monkeypatch, free_mb=10)

    def counted() -> int:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(ended.wait(), loop).result(60)
        return 0

    loop, begun, ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    guarded = DiskGuard(tmp_path, 100, Bound(counted, 1, "too much"))
    with pytest.raises(BuildError, match="the disk for builds is full"):
        async with guarded:
            await begun.wait()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
