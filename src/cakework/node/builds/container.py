"""A build in a container: what the Dockerfile says is done in the sandbox, on the host's kernel."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from cakework.domain.image_references import whole_reference
from cakework.domain.orders import BuildOrder
from cakework.node.builds.disk import (
    Bound,
    DiskGuard,
    WrittenBeside,
    WrittenByCommands,
    WrittenLayers,
)
from cakework.node.builds.failure import TOO_LARGE, BuildError, explain_build, explain_pull
from cakework.node.builds.layers import LayerStore
from cakework.node.builds.log import BuildLog, LineSplitter, is_for_people
from cakework.node.builds.made import explain_export, read_config, read_made
from cakework.node.builds.recipes import Recipe
from cakework.node.builds.references import mounts_files
from cakework.node.builds.sandbox import Confinement
from cakework.node.builds.shop import MIB, Workshop
from cakework.node.cgroups import Cgroup, Limits
from cakework.node.cleanup import clean_up
from cakework.node.images import RunConfig

EXPORT = Path(__file__).with_name("export.sh")
REMOVE_TIMEOUT_S = 60
HOST_RESOLV_CONF = Path("/etc/resolv.conf")
PULL = ["buildah", "pull", "--policy", "ifnewer", "--retry", "1", "--retry-delay", "1s"]


class ContainerBuild:
    """Carries ``order`` out within ``confinement``, with the layers of ``store``."""

    def __init__(
        self,
        shop: Workshop,
        order: BuildOrder,
        build_log: BuildLog,
        confinement: Confinement,
        store: LayerStore,
    ) -> None:
        self._shop = shop
        self._store = store
        self._order = order
        self._log = build_log
        self._confinement = replace(confinement, store=store, bases=shop.storage.bases)

    def prepare(self, foreign: Sequence[str]) -> None:
        """Write the script that exports the image."""
        (self._confinement.work / EXPORT.name).write_bytes(EXPORT.read_bytes())

    async def fetch(self, recipes: Sequence[Recipe], foreign: Sequence[str]) -> None:
        """Make ours, pull those from registries. Raises BuildError."""
        for recipe in recipes:
            await self._shop.bases.ensure(recipe, self._log.say)
        if foreign:
            written = WrittenByCommands(self._confinement.cgroup)
            async with self._shop.network.lease_fetching(self._order.owner) as network:
                for reference in foreign:
                    confinement = replace(self._confinement, network=network)
                    await self._pull(reference, confinement, written)
                    written.begin_another()

    async def build(self) -> None:
        """Run ``buildah build``. Raises BuildError."""
        shop, confinement = self._shop, self._confinement
        limits = shop.limits
        written = WrittenLayers(self._store, confinement.cgroup)
        beside = await anyio.to_thread.run_sync(WrittenBeside, self._store, confinement.work)
        bounds = (
            Bound(written, limits.image_mb, limits.wrote_too_much),
            Bound(beside, limits.beside_mb, limits.wrote_too_much_beside),
        )
        async with DiskGuard(shop.storage.home, limits.spare_mb, *bounds):
            status, output = await self._run(self._buildah(), confinement)
        if status:
            oom = confinement.cgroup.oom_kills() > 0
            raise BuildError(explain_build(output, status, oom=oom, memory_mb=limits.memory_mb))

    async def export(self) -> tuple[Path, RunConfig]:
        """Turn the image into a file system. Raises BuildError."""
        work = self._confinement.work
        image_id = read_made(work, "iid").decode(errors="replace")
        inside = f"/b/{work.name}"
        limits = self._shop.limits
        async with DiskGuard(work, limits.spare_mb):
            status, _, output = await self._shop.sandbox.read(
                ("sh", f"{inside}/{EXPORT.name}", image_id, f"{inside}/out"), self._confinement
            )
        if status:
            raise BuildError(explain_export(output, limits.image_mb))
        return work / "out" / "rootfs.erofs", read_config(read_made(work, "image.json"), image_id)

    async def _pull(
        self, reference: str, confinement: Confinement, written: WrittenByCommands
    ) -> None:
        # With its transport, whatever it may look like: there are others than registries.
        command = (*PULL, *self._policy(), "--", f"docker://{whole_reference(reference)}")
        limits = self._shop.limits
        # Each layer is written as it comes, and again unpacked.
        bound = Bound(written, 2 * limits.image_mb, limits.base_too_large(reference))
        async with DiskGuard(self._shop.storage.home, limits.spare_mb, bound):
            status, output = await self._run(command, confinement)
        if status and TOO_LARGE in output.lower():
            raise BuildError(limits.base_too_large(reference))
        if status:
            raise BuildError(explain_pull(reference, output))

    def _buildah(self) -> tuple[str, ...]:
        work = f"/b/{self._confinement.work.name}"
        has_ignore = (self._confinement.work / "dockerignore").exists()
        ignore = ("--ignorefile", f"{work}/dockerignore") if has_ignore else ()
        anew = ("--no-cache",) if mounts_files(self._order.dockerfile) else ()
        return (
            "buildah",
            "build",
            "--layers",
            "--pull=never",
            "--isolation=rootless",
            "--runtime=/b/etc/runtime",
            # The network namespace that buildah itself is in: the build's own.
            "--network=host",
            # A container in a user namespace cannot mount sysfs of a network that it does not own.
            f"--volume={work}/sys:/sys:ro",
            f"--iidfile={work}/out/iid",
            *self._policy(),
            *ignore,
            *anew,
            f"--file={work}/Dockerfile",
            f"{work}/context",
        )

    async def _run(self, command: tuple[str, ...], confinement: Confinement) -> tuple[int, str]:
        """Run a command with its output in the log; return its status and its last output."""
        stdout = LineSplitter(self._log, "stdout", is_for_people)
        stderr = LineSplitter(self._log, "stderr", is_for_people)
        status = await self._shop.sandbox.run(command, confinement, stdout.feed, stderr.feed)
        stdout.finish()
        return status, stderr.finish()

    def _policy(self) -> tuple[str, str]:
        return "--signature-policy", self._shop.storage.policy


async def remove_containers(shop: Workshop, store: LayerStore, build_id: str) -> None:
    """Remove the working containers that a build leaves which did not end by itself.

    Those that stay, as one not described yet does, go once no build is at the store.

    Raises:
        OSError: they cannot be removed.
    """
    containers = store.containers_of(build_id)
    if not containers:
        return
    cgroup = Cgroup.create(f"{shop.cgroup_prefix}clean-{build_id}", Limits(within=shop.share))
    work, bases = shop.storage.work / build_id, shop.storage.bases
    confinement = Confinement(work, HOST_RESOLV_CONF, cgroup, MIB * MIB, store=store, bases=bases)
    try:
        async with asyncio.timeout(REMOVE_TIMEOUT_S):
            status, _, stderr = await shop.sandbox.read(("buildah", "rm", *containers), confinement)
    finally:
        await clean_up("cgroup", cgroup.end, build_id=build_id)
    if status:
        raise OSError(f"buildah rm does not work here: {stderr.strip()[-500:]}")
