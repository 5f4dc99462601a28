"""What an import leaves in its folder is not trusted by the node, which goes on there."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import cast

import pytest

from cakework.domain.errors import CakeworkError
from cakework.domain.orders import ImportOrder
from cakework.node.builds.sandbox import Confinement, Sandbox
from cakework.node.builds.shop import BuildLimits, BuildNetwork
from cakework.node.builds.storage import BuildStorage
from cakework.node.cgroups import Cgroup
from cakework.node.images import ImageStore
from cakework.node.imports import run as module
from cakework.node.imports.run import ImportRun, ImportShop


class Attacker:
    """A sandbox in which something has the files of its folder lead to one of the node's."""

    def __init__(self, victim: Path) -> None:
        self.runs = 0
        self._victim = victim

    async def read(
        self, command: Sequence[str], confinement: Confinement, stdin: bytes = b""
    ) -> tuple[int, str, str]:
        self.runs += 1
        for file in [path for path in confinement.work.iterdir() if path.is_file()]:
            file.unlink()
            file.symlink_to(self._victim)
        return 1, "", "unexpected EOF" if self.runs == 1 else 'level=fatal msg="denied"'


class Network:
    """No network."""

    @contextlib.asynccontextmanager
    async def lease_fetching(self, owner: str) -> AsyncGenerator[str]:
        yield "/proc/self/ns/net"


class Group:
    """No control group."""

    @classmethod
    def create(cls, *_: object) -> "Group":
        return cls()

    async def end(self) -> None:
        """There is nothing in it."""

    def oom_kills(self) -> int:
        return 0


def test_a_second_attempt_writes_through_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that breaks off has what the first left there used again, and not written to."""
    monkeypatch.setattr(module, "Cgroup", cast("type[Cgroup]", Group))
    victim = tmp_path / "victim"
    victim.write_text("the node's")
    attacker = Attacker(victim)
    storage = BuildStorage(tmp_path / "builds")
    shop = ImportShop(
        storage,
        cast("Sandbox", attacker),
        ImageStore(tmp_path / "images"),
        cast("BuildNetwork", Network()),
        BuildLimits(600, 512, 64, 64, 0),
        "test-",
        "",
    )
    order = ImportOrder(image_id="image", image_uri="registry.example/image:1")
    with pytest.raises(CakeworkError):
        asyncio.run(ImportRun(shop, order).fetch())
    assert attacker.runs == 2
    assert victim.read_text() == "the node's"
