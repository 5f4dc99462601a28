"""What all builds of a node share, and what one may use."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cakework.node.builds.bases import Bases
from cakework.node.builds.builder.roots import BuilderRoots
from cakework.node.builds.builder.yard import BuilderYard
from cakework.node.builds.clone import CloneLimits
from cakework.node.builds.layers import AccountLayers
from cakework.node.builds.recipes import Recipe
from cakework.node.builds.sandbox import Sandbox
from cakework.node.builds.storage import BuildStorage
from cakework.node.free_space import least_for_builds_mb
from cakework.node.images import ImageStore, RunConfig
from cakework.settings import Settings

PIDS_MAX = 2048
MIB = 2**20


class BuildNetwork(Protocol):
    """Where the networks come from that builds run on, each for an account, its ``owner``."""

    def lease(self, owner: str) -> contextlib.AbstractAsyncContextManager[str]:
        """Give the path of a network namespace for as long as it is held."""
        ...

    def lease_fetching(self, owner: str) -> contextlib.AbstractAsyncContextManager[str]:
        """Give one to fetch images and sources from, where no command of a stranger's runs."""
        ...


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What one build may use."""

    timeout_s: int
    memory_mb: int
    image_mb: int
    context_mb: int
    spare_mb: int
    """Left free on the disk whatever a build wants."""

    @classmethod
    def of(cls, settings: Settings) -> "BuildLimits":
        """Return what the settings say."""
        return cls(
            timeout_s=settings.build_timeout_s,
            memory_mb=settings.build_memory_mb,
            image_mb=settings.image_size_mb,
            context_mb=settings.max_body_mb,
            spare_mb=least_for_builds_mb(settings.min_free_disk_mb),
        )

    @property
    def wrote_too_much(self) -> str:
        """Return the sentence for a build that wrote more than an image may hold."""
        return f"the build wrote more than {self.image_mb} MB"

    @property
    def beside_mb(self) -> int:
        """Return what a build may write beside layers: one is stored from a copy of a copy."""
        return 2 * self.image_mb

    @property
    def wrote_too_much_beside(self) -> str:
        """Return the sentence for a build that wrote more than that."""
        return (
            f"the build wrote more than {self.beside_mb} MB beside its layers: downloads, caches, "
            "volumes"
        )

    def base_too_large(self, reference: str) -> str:
        """Return the sentence for an image of a registry with which bases become too large."""
        return (
            f"base image {reference} is too large: the images that a build fetches from registries "
            f"may hold {self.image_mb} MB; build on a smaller one, or set CAKEWORK_IMAGE_SIZE_MB"
        )


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all builds of a node share; ``yard`` is there when they run in machines.

    ``share`` is the control group that theirs are within.
    """

    storage: BuildStorage
    layers: AccountLayers
    sandbox: Sandbox
    bases: Bases
    images: ImageStore
    network: BuildNetwork
    limits: BuildLimits
    cloning: CloneLimits
    cgroup_prefix: str
    share: str
    roots: BuilderRoots
    yard: BuilderYard | None = None


class Making(Protocol):
    """How the image of one build comes about, once its context is written."""

    def prepare(self, foreign: Sequence[str]) -> None:
        """Write into the work folder, in which nothing has run yet, what is needed there for
        images ``foreign`` of registries."""
        ...

    async def fetch(self, recipes: Sequence[Recipe], foreign: Sequence[str]) -> None:
        """Have the images there that it builds on: ours, and those from registries."""
        ...

    async def build(self) -> None:
        """Do what the Dockerfile says. Raises BuildError."""
        ...

    async def export(self) -> tuple[Path, RunConfig]:
        """Return the image's root file system, a file to be moved, and how it is run."""
        ...
