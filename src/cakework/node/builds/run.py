"""One build, from its order to its image.

    context written ─▶ base images there ─▶ buildah ─▶ EROFS ─▶ image store

Images from registries are fetched over a network that reaches what the operator allows for
fetching; all that the Dockerfile itself does goes over the build's own.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import structlog

from cakework.domain.dockerfiles import DockerfileError
from cakework.domain.orders import BuildOrder, FilesSource
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.builds.bases import Bases
from cakework.node.builds.clone import Clone, CloneLimits
from cakework.node.builds.context import write_files, write_recipe
from cakework.node.builds.disk import DiskGuard, WrittenLayers
from cakework.node.builds.failure import BuildError, explain_build, explain_pull
from cakework.node.builds.log import BuildLog, LineSplitter
from cakework.node.builds.made import read_made
from cakework.node.builds.recipes import PREFIX, RECIPES, recipe_of
from cakework.node.builds.references import base_images
from cakework.node.builds.sandbox import Confinement, Sandbox
from cakework.node.builds.storage import BuildStorage
from cakework.node.cgroups import Cgroup, Limits
from cakework.node.images import Image, ImageStore, RunConfig
from cakework.node.unbroken import unbroken

EXPORT = Path(__file__).with_name("export.sh")
HOST_RESOLV_CONF = Path("/etc/resolv.conf")
PIDS_MAX = 2048
PULL = ["buildah", "pull", "--policy", "ifnewer", "--retry", "1", "--retry-delay", "1s"]
OURS = ", ".join(recipe.reference for recipe in RECIPES.values())
MIB = 2**20

log = structlog.get_logger(__name__)


class BuildNetwork(Protocol):
    """Where the networks come from that builds run on."""

    def lease(self) -> contextlib.AbstractAsyncContextManager[str]:
        """Give the path of a network namespace for as long as it is held."""
        ...

    def lease_fetching(self) -> contextlib.AbstractAsyncContextManager[str]:
        """Give one to fetch images and sources from, where no command of a stranger's runs."""
        ...


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What one build may use."""

    timeout_s: int
    memory_mb: int
    image_mb: int
    context_mb: int


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all builds of a node share."""

    storage: BuildStorage
    sandbox: Sandbox
    bases: Bases
    images: ImageStore
    network: BuildNetwork
    limits: BuildLimits
    cloning: CloneLimits
    cgroup_prefix: str


class BuildRun:
    """Carries one order out; ``log`` gets every line of it."""

    def __init__(self, shop: Workshop, order: BuildOrder, build_log: BuildLog) -> None:
        self._shop = shop
        self._order = order
        self._log = build_log
        self._phases: dict[str, float] = {}

    async def build(self) -> Image:
        """Build the image and store it, releasing all else that was made.

        Raises:
            BuildError: it cannot be built; says why.
        """
        limits = self._shop.limits
        try:
            async with asyncio.timeout(limits.timeout_s):
                return await self._build()
        except TimeoutError as error:
            raise BuildError(f"the build took longer than {limits.timeout_s} s") from error
        finally:
            log.info("build_phases", build_id=self._order.build_id, **self._phases)

    async def _build(self) -> Image:
        async with self._workplace() as (confinement, guard):
            step(Step.NODE_BUILD_WORKPLACE_MADE)
            with self._phase("context_s"):
                await self._make_context(confinement)
            step(Step.NODE_BUILD_CONTEXT_WRITTEN)
            with self._phase("bases_s"):
                await self._fetch_bases(confinement)
            with self._phase("buildah_s"):
                async with guard:
                    await self._run_buildah(confinement)
            step(Step.NODE_BUILD_LAYERS_BUILT)
            with self._phase("erofs_s"):
                config = await self._export(confinement)
            step(Step.NODE_BUILD_EXPORTED)
            with self._phase("store_s"):
                return await self._shop.images.put(
                    self._order.image_id, confinement.work / "out" / "rootfs.erofs", config
                )

    @contextlib.asynccontextmanager
    async def _workplace(self) -> AsyncGenerator[tuple[Confinement, DiskGuard]]:
        """Give folder, cgroup and network; on the way out end and remove all that is left."""
        shop, work_id = self._shop, self._order.build_id
        limits = Limits(memory_mb=shop.limits.memory_mb, pids_max=PIDS_MAX)
        async with contextlib.AsyncExitStack() as stack:
            work = shop.storage.make_work(work_id)
            stack.callback(shop.storage.remove_work, work_id)
            stack.push_async_callback(self._remove_containers)
            cgroup = Cgroup.create(f"{shop.cgroup_prefix}{work_id}", limits)
            stack.push_async_callback(cgroup.end)
            network = await stack.enter_async_context(shop.network.lease())
            confinement = Confinement(
                work, shop.storage.resolv_conf, cgroup, shop.limits.image_mb * MIB, network
            )
            written = WrittenLayers(shop.storage.home, cgroup)
            fault = f"the build wrote more than {shop.limits.image_mb} MB"
            yield confinement, DiskGuard(shop.storage.home, written, shop.limits.image_mb, fault)

    async def _make_context(self, confinement: Confinement) -> None:
        source, work = self._order.source, confinement.work
        # Before anything ran there: what did could have left links in their places.
        await unbroken(asyncio.to_thread(write_recipe, self._order, work))
        (work / EXPORT.name).write_bytes(EXPORT.read_bytes())
        if isinstance(source, FilesSource):
            limit = self._shop.limits.context_mb * MIB
            await unbroken(asyncio.to_thread(write_files, source, work, limit))
            return
        async with self._shop.network.lease_fetching() as network:
            clone = Clone(self._shop.sandbox, self._shop.cloning, source, self._log)
            await clone.fetch(replace(confinement, network=network))

    async def _fetch_bases(self, confinement: Confinement) -> None:
        try:
            references = base_images(self._order.dockerfile)
        except DockerfileError as error:
            raise BuildError(f"the Dockerfile does not parse: {error}") from error
        foreign: list[str] = []
        for reference in references:
            if recipe := recipe_of(reference):
                await self._shop.bases.ensure(recipe, self._log.say)
            elif reference.startswith(PREFIX):
                raise BuildError(f"base image {reference} was not found: we make {OURS}")
            else:
                foreign.append(reference)
        if foreign:
            async with self._shop.network.lease_fetching() as network:
                for reference in foreign:
                    await self._pull(reference, replace(confinement, network=network))

    async def _pull(self, reference: str, confinement: Confinement) -> None:
        command = (*PULL, *self._policy(), "--", reference)
        status, output = await self._run(command, confinement)
        if status:
            raise BuildError(explain_pull(reference, output))

    async def _run_buildah(self, confinement: Confinement) -> None:
        status, output = await self._run(self._buildah(confinement), confinement)
        if status:
            raise BuildError(
                explain_build(
                    output,
                    status,
                    oom=confinement.cgroup.oom_kills() > 0,
                    memory_mb=self._shop.limits.memory_mb,
                )
            )

    def _buildah(self, confinement: Confinement) -> tuple[str, ...]:
        work = f"/b/{confinement.work.name}"
        has_ignore = (confinement.work / "dockerignore").exists()
        ignore = ("--ignorefile", f"{work}/dockerignore") if has_ignore else ()
        return (
            "buildah",
            "build",
            "--layers",
            "--pull=never",
            "--isolation=rootless",
            "--runtime=/usr/sbin/runc",
            # The network namespace that buildah itself is in: the build's own.
            "--network=host",
            # A container in a user namespace cannot mount sysfs of a network that it does not own.
            f"--volume={work}/sys:/sys:ro",
            f"--iidfile={work}/out/iid",
            *self._policy(),
            *ignore,
            f"--file={work}/Dockerfile",
            f"{work}/context",
        )

    async def _export(self, confinement: Confinement) -> RunConfig:
        work = confinement.work
        image_id = read_made(work, "iid").decode()
        inside = f"/b/{work.name}"
        status, _, output = await self._shop.sandbox.read(
            ("sh", f"{inside}/{EXPORT.name}", image_id, f"{inside}/out"), confinement
        )
        if status:
            raise BuildError(explain_export(output, self._shop.limits.image_mb))
        return run_config(json.loads(read_made(work, "image.json")), image_id)

    async def _run(self, command: tuple[str, ...], confinement: Confinement) -> tuple[int, str]:
        """Run a command with its output in the log; return its status and its last output."""
        stdout = LineSplitter(self._log, "stdout", _is_for_people)
        stderr = LineSplitter(self._log, "stderr", _is_for_people)
        status = await self._shop.sandbox.run(command, confinement, stdout.feed, stderr.feed)
        stdout.finish()
        return status, stderr.finish()

    async def _remove_containers(self) -> None:
        """Remove the working containers that a build leaves which did not end by itself."""
        storage = self._shop.storage
        containers = storage.containers_of(self._order.build_id)
        if not containers:
            return
        cgroup = Cgroup.create(f"{self._shop.cgroup_prefix}clean-{self._order.build_id}", Limits())
        confinement = Confinement(
            storage.work / self._order.build_id, HOST_RESOLV_CONF, cgroup, MIB * MIB
        )
        try:
            await self._shop.sandbox.read(("buildah", "rm", *containers), confinement)
        finally:
            await cgroup.end()

    def _policy(self) -> tuple[str, str]:
        return "--signature-policy", self._shop.storage.policy

    @contextlib.contextmanager
    def _phase(self, name: str) -> Generator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._phases[name] = round(time.monotonic() - started, 3)


def _is_for_people(line: str) -> bool:
    """Say whether a line says something to whoever builds, rather than to the host's operator."""
    return not line.startswith(('time="', "level="))


def explain_export(output: str, image_mb: int) -> str:
    """Say why export.sh failed, from its stderr."""
    if "File size limit" in output or "too large" in output.lower():
        return f"the image is larger than {image_mb} MB"
    if "no space left on device" in output.lower():
        return "the disk for builds is full"
    log.error("export_failed", output=output[-2000:])
    return "the image could not be turned into a disk for microVMs"


def run_config(inspected: dict[str, Any], image_id: str) -> RunConfig:
    """Read what ``buildah inspect --type image`` says of running the image."""
    config: dict[str, Any] = inspected["OCIv1"].get("config") or {}
    return RunConfig(
        argv=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
        env=tuple(config.get("Env") or ()),
        cwd=config.get("WorkingDir") or "/",
        user=config.get("User") or "",
        ports=tuple(sorted(config.get("ExposedPorts") or ())),
        stop_signal=config.get("StopSignal"),
        digest=image_id,
    )
