"""One build, from its order to its image.

    context written ─▶ base images there ─▶ buildah ─▶ EROFS ─▶ image store

Repositories and images from registries are fetched in the sandbox, over a network that reaches
what the operator allows for fetching. What the Dockerfile itself does goes over the build's own:
in a machine of its own (:mod:`.builder.build`) or in a container (:mod:`.container`).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from functools import partial

import structlog

from cakework.domain.dockerfiles import DockerfileError
from cakework.domain.image_references import ImageReferenceError, whole_reference
from cakework.domain.orders import BuildOrder, FilesSource
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.builds.builder.build import VmBuild
from cakework.node.builds.clone import Clone
from cakework.node.builds.container import ContainerBuild, remove_containers
from cakework.node.builds.context import write_files, write_recipe
from cakework.node.builds.failure import BuildError
from cakework.node.builds.log import BuildLog
from cakework.node.builds.recipes import Recipe, UnknownBase, recipe_of
from cakework.node.builds.references import base_images, hidden_images
from cakework.node.builds.sandbox import Confinement
from cakework.node.builds.shop import MIB, PIDS_MAX, Making, Workshop
from cakework.node.cgroups import Cgroup, Limits
from cakework.node.cleanup import clean_up
from cakework.node.images import Image
from cakework.unbroken import unbroken

TRANSPORTS = frozenset(
    {
        *("atomic", "containers-storage", "dir", "docker", "docker-archive", "docker-daemon"),
        *("oci", "oci-archive", "ostree", "sif", "tarball"),
    }
)
"""Where builders find images beside registries: containers-transports(5)."""

log = structlog.get_logger(__name__)


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
        try:
            async with self._workplace() as confinement:
                step(Step.NODE_BUILD_WORKPLACE_MADE)
                async with self._making(confinement) as making:
                    return await self._make_in_time(making, confinement)
        finally:
            log.info("build_phases", build_id=self._order.build_id, **self._phases)

    async def _make_in_time(self, making: Making, confinement: Confinement) -> Image:
        """Make it within the time there is, to which releasing what was made does not count."""
        timeout_s = self._shop.limits.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._make(making, confinement)
        except TimeoutError as error:
            raise BuildError(f"the build took longer than {timeout_s} s") from error

    async def _make(self, making: Making, confinement: Confinement) -> Image:
        ours, foreign = bases_of(self._order.dockerfile)
        with self._phase("context_s"):
            # Before anything ran there: what did could have left links in their places.
            await unbroken(asyncio.to_thread(write_recipe, self._order, confinement.work))
            await unbroken(asyncio.to_thread(making.prepare, foreign))
            await self._make_context(confinement)
        step(Step.NODE_BUILD_CONTEXT_WRITTEN)
        with self._phase("bases_s"):
            await making.fetch(ours, foreign)
        with self._phase("buildah_s"):
            await making.build()
        step(Step.NODE_BUILD_LAYERS_BUILT)
        with self._phase("erofs_s"):
            rootfs, config = await making.export()
        step(Step.NODE_BUILD_EXPORTED)
        with self._phase("store_s"):
            return await self._shop.images.put(self._order.image_id, rootfs, config)

    @contextlib.asynccontextmanager
    async def _workplace(self) -> AsyncGenerator[Confinement]:
        """Give folder, cgroup and network; on the way out end and remove all that is left."""
        shop, work_id = self._shop, self._order.build_id
        limits = Limits(shop.limits.memory_mb, PIDS_MAX, within=shop.share)
        async with contextlib.AsyncExitStack() as stack:
            work = shop.storage.make_work(work_id)
            stack.push_async_callback(shop.storage.clear_work, work_id)
            cgroup = Cgroup.create(f"{shop.cgroup_prefix}{work_id}", limits)
            stack.push_async_callback(clean_up, "cgroup", cgroup.end, build_id=work_id)
            network = await stack.enter_async_context(shop.network.lease(self._order.owner))
            resolv_conf, file_bytes = shop.storage.resolv_conf, shop.limits.image_mb * MIB
            yield Confinement(work, resolv_conf, cgroup, file_bytes, network)

    @contextlib.asynccontextmanager
    async def _making(self, confinement: Confinement) -> AsyncGenerator[Making]:
        shop, order = self._shop, self._order
        if shop.yard is not None:
            async with VmBuild(shop, shop.yard, order, self._log, confinement) as making:
                yield making
            return
        async with shop.layers.used_for(order.owner) as store:
            try:
                yield ContainerBuild(shop, order, self._log, confinement, store)
            finally:
                remove = partial(remove_containers, shop, store, order.build_id)
                await clean_up("containers", remove, build_id=order.build_id)

    async def _make_context(self, confinement: Confinement) -> None:
        source, work = self._order.source, confinement.work
        if isinstance(source, FilesSource):
            limit = self._shop.limits.context_mb * MIB
            await unbroken(asyncio.to_thread(write_files, source, work, limit))
            return
        async with self._shop.network.lease_fetching(self._order.owner) as network:
            clone = Clone(self._shop.sandbox, self._shop.cloning, source, self._log)
            await clone.fetch(replace(confinement, network=network))

    @contextlib.contextmanager
    def _phase(self, name: str) -> Generator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._phases[name] = round(time.monotonic() - started, 3)


def bases_of(dockerfile: str) -> tuple[list[Recipe], list[str]]:
    """Return the images that a Dockerfile builds on: ours, and those from registries.

    Raises:
        BuildError: it does not parse, or names what is in no registry.
    """
    try:
        references, hidden = base_images(dockerfile), hidden_images(dockerfile)
    except DockerfileError as error:
        raise BuildError(f"the Dockerfile does not parse: {error}") from error
    ours: dict[str, Recipe] = {}
    foreign: list[str] = []
    for reference in references:
        try:
            recipe = recipe_of(reference)
        except UnknownBase as error:
            raise BuildError(str(error)) from error
        if recipe:
            ours[recipe.key] = recipe
        else:
            foreign.append(_checked(reference))
    for reference in hidden:
        _checked(reference)
    return list(ours.values()), foreign


def _checked(reference: str) -> str:
    """Return a reference that is one of an image in a registry, and of nothing else: neither of a
    file, nor of what an engine keeps. Raises BuildError."""
    shown = f"base image {reference[:200]}"
    try:
        whole_reference(reference)
    except ImageReferenceError as error:
        raise BuildError(f"{shown} {error}") from error
    transport, colon, _ = reference.partition(":")
    if colon and transport in TRANSPORTS and not reference.startswith("docker://"):
        # It is the name of an image in the default registry to us, and not to a builder.
        raise BuildError(f"{shown} must be the name of an image: registry/name:tag")
    return reference
