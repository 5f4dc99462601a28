"""A node's builds without the node: real buildah, a network with nothing on it, facts kept."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cakework.domain.facts import AnyFact, AnyLine, BuildFailed, BuildLine, BuildSucceeded
from cakework.domain.ids import new_build_id, new_image_id
from cakework.domain.orders import BuildOrder, ContextFile, FilesSource
from cakework.node.builds import Builds
from cakework.node.builds.layers import LayerStore, name_for
from cakework.node.builds.registries import Registries
from cakework.node.cgroups import ROOT
from cakework.node.images import Image, ImageStore
from cakework.node.network.builds import Reach
from cakework.node.network.relays import relay
from cakework.settings import Settings

DEADLINE_S = 3600
ACCOUNT = "account-of-the-bench"


class LedgerSource:
    """Takes the lines of one build into a ledger."""

    def __init__(self, ledger: "Ledger", build_id: str) -> None:
        self._ledger = ledger
        self._build_id = build_id

    @property
    def last_seq(self) -> int:
        return max((line.seq for line in self._ledger.lines(self._build_id)), default=0)

    def extend(self, lines: Sequence[AnyLine]) -> int:
        for line in lines:
            self._ledger.append(line)
        return 0

    async def room(self) -> None:
        """There is room always."""


class Ledger:
    """Takes facts as the journal does, in memory; wakes who waits for one."""

    def __init__(self) -> None:
        self.facts: list[AnyFact] = []
        self._grown = asyncio.Event()

    def append(self, fact: AnyFact) -> None:
        self.facts.append(fact)
        self._grown.set()
        self._grown = asyncio.Event()

    def source(self, source: str, account: str) -> LedgerSource:
        return LedgerSource(self, source)

    def lines(self, build_id: str) -> list[BuildLine]:
        return [
            fact for fact in self.facts if isinstance(fact, BuildLine) and fact.build_id == build_id
        ]

    def texts(self, build_id: str) -> list[str]:
        return [line.text for line in self.lines(build_id)]

    def end(self, build_id: str) -> BuildSucceeded | BuildFailed | None:
        for fact in self.facts:
            if isinstance(fact, BuildSucceeded | BuildFailed) and fact.build_id == build_id:
                return fact
        return None

    async def ended(self, build_id: str) -> BuildSucceeded | BuildFailed:
        async with asyncio.timeout(DEADLINE_S):
            while (end := self.end(build_id)) is None:
                await self._grown.wait()
        return end

    async def printed(self, build_id: str, text: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                while text not in self.texts(build_id):
                    await self._grown.wait()
        except TimeoutError as error:
            facts = [fact for fact in self.facts if isinstance(fact, BuildLine)]
            raise AssertionError(f"{text!r} was not printed, but {facts}") from error


@dataclass(frozen=True)
class NetworkOfNothing:
    """Leases one namespace that has its loopback interface and no other.

    Fetching there reaches what ``reach`` has of the host's loopback.
    """

    path: str
    reach: Reach = field(default_factory=Reach)

    @contextlib.asynccontextmanager
    async def lease(self, owner: str) -> AsyncGenerator[str]:
        yield self.path

    @contextlib.asynccontextmanager
    async def lease_fetching(self, owner: str) -> AsyncGenerator[str]:
        async with self.reaching():
            yield self.path

    @contextlib.asynccontextmanager
    async def reaching(self) -> AsyncGenerator[None]:
        """Have what ``reach`` names there."""
        async with contextlib.AsyncExitStack() as stack:
            fd = os.open(self.path, os.O_RDONLY)
            stack.callback(os.close, fd)
            for address in self.reach.loopback:
                await stack.enter_async_context(relay(fd, address))
            yield


def reach_of(settings: Settings) -> Reach:
    """Return the reach that settings give, as the node does."""
    registries = Registries.parse(settings.registry_mirrors, settings.insecure_registries)
    return Reach.parse(settings.fetch_allow, registries.addresses())


@dataclass
class Bench:
    """What the tests of builds share: a data folder, whose layers are kept, and a network."""

    data_dir: Path
    netns: str
    ledger: Ledger = field(default_factory=Ledger)

    def settings(self, **changes: object) -> Settings:
        values: dict[str, object] = {"data_dir": self.data_dir, "build_timeout_s": 1200, **changes}
        return Settings.model_validate(values)

    def images(self) -> ImageStore:
        return ImageStore(self.settings().node_dir / "images")

    @contextlib.asynccontextmanager
    async def open(self, **changes: object) -> AsyncGenerator[Builds]:
        """Have a node's builds; those that a failure cuts short do not go on with the next."""
        self.ledger = Ledger()
        settings = self.settings(**changes)
        network = NetworkOfNothing(self.netns, reach_of(settings))
        async with Builds(settings, self.images(), network, self.ledger) as builds:
            try:
                yield builds
            except BaseException:
                for build_id in builds.known():
                    await builds.cancel(build_id)
                raise

    def build(self, order: BuildOrder, **changes: object) -> BuildSucceeded | BuildFailed:
        """Carry one order out."""

        async def run() -> BuildSucceeded | BuildFailed:
            async with self.open(**changes) as builds:
                await builds.submit(order)
                return await self.ledger.ended(order.build_id)

        return asyncio.run(run())

    def image(self, order: BuildOrder, **changes: object) -> Image:
        """Carry one order out, which has to succeed; return its image."""
        end = self.build(order, **changes)
        assert isinstance(end, BuildSucceeded), (end, self.ledger.texts(order.build_id))
        image = self.images().get(order.image_id)
        assert image is not None
        return image

    def error(self, order: BuildOrder, **changes: object) -> str:
        """Carry one order out, which has to fail; return why."""
        end = self.build(order, **changes)
        assert isinstance(end, BuildFailed), end
        assert self.images().get(order.image_id) is None
        return end.error

    def store(self, account_id: str = ACCOUNT) -> LayerStore:
        """Return where the layers of an account's builds are."""
        return LayerStore(self.settings().node_dir / "builds" / "layers" / name_for(account_id))

    def unused_layers(self) -> set[str]:
        """Return the layers of the storage that neither an image nor a container is made of."""
        images, containers, layers = map(self._stored, ("images", "containers", "layers"))
        below: dict[str, str | None] = {layer["id"]: layer.get("parent") for layer in layers}
        unused = set(below)
        for user in (*images, *containers):
            for top in (user["layer"], *user.get("mapped-layers", ())):
                while top in below:
                    unused.discard(top)
                    top = below[top]
        return unused

    def _stored(self, kind: str) -> list[dict[str, Any]]:
        """Return what buildah's storage has on record of its images, containers or layers."""
        file = self.store().storage / f"overlay-{kind}" / f"{kind}.json"
        return json.loads(file.read_bytes()) if file.exists() else []

    def leftovers(self) -> dict[str, list[str]]:
        """Return what builds of this bench have left on the host, by kind."""
        home = self.settings().node_dir / "builds"
        return {
            "work": [entry.name for entry in (home / "work").iterdir()],
            "containers": [
                entry.name
                for store in (home / "bases", *(home / "layers").iterdir())
                for entry in (store / "storage" / "overlay-containers").glob("*/")
            ],
            # Not by a glob, which ends where a group goes that it was about to look into.
            "cgroups": [
                f"{parent}/{name}"
                for parent, names, _ in os.walk(ROOT)
                for name in names
                if name.startswith(cgroup_prefix(home))
            ],
            "mounts": [
                line
                for line in Path("/proc/self/mountinfo").read_text().splitlines()
                if str(self.data_dir) in line
            ],
            "processes": processes_in(home),
        }


NOTHING: dict[str, list[str]] = {
    "work": [],
    "containers": [],
    "cgroups": [],
    "mounts": [],
    "processes": [],
}


def cgroup_prefix(home: Path) -> str:
    return f"build-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}-"


def processes_in(home: Path) -> list[str]:
    """Return the commands of processes that have the builds' configuration mounted as theirs."""
    mounted = next(path for path in home.parents if path.is_mount())
    mark = f" /{home.relative_to(mounted)}/etc /b/etc "
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "mountinfo").read_text():
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def order(
    dockerfile: str,
    files: Mapping[str, bytes | str] | None = None,
    *,
    dockerignore: str | None = None,
    account_id: str = ACCOUNT,
) -> BuildOrder:
    """Return an order with new ids."""
    return BuildOrder(
        build_id=new_build_id(),
        image_id=new_image_id(),
        account_id=account_id,
        dockerfile=dockerfile,
        dockerignore=dockerignore,
        source=FilesSource(
            files=[
                ContextFile(path=path, content_base64=_base64(content))
                for path, content in (files or {}).items()
            ]
        ),
    )


def _base64(content: bytes | str) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return base64.b64encode(raw).decode()


@contextlib.contextmanager
def mounted(image: Image, at: Path):
    """Mount an image's root file system, read-only, at ``at``."""
    at.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", image.rootfs, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)
