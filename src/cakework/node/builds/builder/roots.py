"""The file systems that builder machines start from, each made once and kept.

builds/builders/<digest>.erofs    Debian's packages, builder.sh, and some base images of ours,
                                  unpacked, so that no build has to

The digest covers all that is in it. Machines share the file and cannot write to it. All of it is
ours: no stranger's image is in it.
"""

import asyncio
import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import structlog

from cakework.node.builds.bases import FILE_BYTES, MEMORY_MB, Bases, Say
from cakework.node.builds.failure import BuildError
from cakework.node.builds.recipes import BUILDER, RECIPES, Recipe
from cakework.node.builds.sandbox import Confinement, Sandbox
from cakework.node.builds.storage import BuildStorage
from cakework.node.cgroups import Cgroup, Limits
from cakework.node.cleanup import clean_up, cleanup
from cakework.node.listing import entries

ASSEMBLE = Path(__file__).with_name("assemble.sh")
PROGRAM = Path(__file__).with_name("builder.sh")

log = structlog.get_logger(__name__)


class BuilderRoots:
    """Makes and keeps them below ``storage``; what they are made of comes from ``bases``."""

    def __init__(
        self,
        storage: BuildStorage,
        sandbox: Sandbox,
        bases: Bases,
        cgroup_prefix: str,
        share: str,
    ) -> None:
        self._storage = storage
        self._sandbox = sandbox
        self._bases = bases
        self._cgroup_prefix = cgroup_prefix
        self._share = share
        self._folder = storage.home / "builders"
        self._locks: dict[str, asyncio.Lock] = {}

    async def ensure(self, recipes: Sequence[Recipe], say: Say) -> Path:
        """Return the file with the base images of ``recipes``; ``say`` is told what takes time.

        Raises:
            BuildError: it cannot be made.
        """
        name = _digest(recipes)
        file = self._folder / f"{name}.erofs"
        async with self._locks.setdefault(name, asyncio.Lock()):
            if not file.exists():
                for recipe in (BUILDER, *recipes):
                    await self._bases.ensure(recipe, say)
                say("making the file system of builder machines")
                await self._make(name, recipes, file)
        return file

    async def _make(self, name: str, recipes: Sequence[Recipe], file: Path) -> None:
        work_id = f"builder-{name}"
        work = self._storage.make_work(work_id)
        limits = Limits(memory_mb=MEMORY_MB, pids_max=4096, within=self._share)
        cgroup = Cgroup.create(f"{self._cgroup_prefix}{work_id}", limits)
        resolv_conf = self._storage.resolv_conf
        try:
            for source in (ASSEMBLE, PROGRAM):
                (work / source.name).write_bytes(source.read_bytes())
            names = (word for recipe in recipes for word in _names(recipe))
            status, _, output = await self._sandbox.read(
                ("sh", f"/b/{work_id}/{ASSEMBLE.name}", BUILDER.tag, *names),
                Confinement(work, resolv_conf, cgroup, FILE_BYTES, store=self._storage.bases),
            )
            if status:
                log.error("builder_root_failed", output=output[-4000:])
                raise BuildError("the machine for builds could not be made: see the node's log")
            self._keep(work / "out" / "rootfs.erofs", file)
        finally:
            await clean_up("cgroup", cgroup.end, work_id=work_id)
            await self._storage.clear_work(work_id)

    def _keep(self, made: Path, file: Path) -> None:
        """Take the file over; those of earlier recipes go."""
        self._folder.mkdir(exist_ok=True, mode=0o700)
        os.chown(made, 0, 0)
        made.chmod(0o444)
        made.rename(file)
        wanted = {f"{name}.erofs" for name in _digests()}
        for other in entries(self._folder):
            with cleanup("builder root", name=other.name):
                if other.name not in wanted:
                    other.unlink(missing_ok=True)
        log.info("builder_root_made", size_bytes=file.stat().st_size)


def _names(recipe: Recipe) -> Iterator[str]:
    """Yield the image of a recipe, and a name that it gets, for each that FROM may use."""
    for reference in recipe.references:
        yield from (recipe.tag, f"localhost/{reference}")


def _digest(recipes: Sequence[Recipe]) -> str:
    digest = hashlib.sha256(BUILDER.tag.encode())
    for source in (ASSEMBLE, PROGRAM):
        digest.update(source.read_bytes())
    for tag in sorted(recipe.tag for recipe in recipes):
        digest.update(tag.encode())
    return digest.hexdigest()[:32]


def _digests() -> Iterator[str]:
    """Yield the digest of every file system that a build of today may want."""
    for count in range(len(RECIPES) + 1):
        for recipes in combinations(RECIPES, count):
            yield _digest(recipes)
