"""A node's imports without the node: real skopeo, a network with nothing but what is allowed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

from cakework.domain.facts import AnyFact, ImportFailed, ImportSucceeded
from cakework.domain.ids import new_image_id
from cakework.domain.orders import ImportOrder
from cakework.node.images import Image, ImageStore
from cakework.node.imports import Imports
from cakework.settings import Settings
from tests.integration.node.build_bench import NetworkOfNothing, reach_of
from tests.integration.node.registries import PASSWORD, USERNAME, Registry

DEADLINE_S = 250


class ImportLedger:
    """Takes facts as the journal does, in memory; wakes who waits for one."""

    def __init__(self) -> None:
        self.facts: list[AnyFact] = []
        self._grown = asyncio.Event()

    def append(self, fact: AnyFact) -> None:
        self.facts.append(fact)
        self._grown.set()
        self._grown = asyncio.Event()

    def last_seq(self, source: str) -> int:
        return 0 * len(source)

    async def ended(self, image_id: str) -> ImportSucceeded | ImportFailed:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for fact in self.facts:
                    if isinstance(fact, ImportSucceeded | ImportFailed):
                        assert fact.image_id == image_id
                        return fact
                await self._grown.wait()


@dataclass(frozen=True)
class SharedNetwork(NetworkOfNothing):
    """One that several fetch in at once: what they reach is there all the time."""

    @contextlib.asynccontextmanager
    async def lease_fetching(self, owner: str) -> AsyncGenerator[str]:
        yield self.path


@dataclass
class ImportBench:
    """Imports in a data folder of their own, from one registry."""

    data_dir: Path
    netns: str
    registry: Registry
    ledger: ImportLedger = field(default_factory=ImportLedger)

    def settings(self, **changes: object) -> Settings:
        values: dict[str, object] = {
            "data_dir": self.data_dir,
            "fetch_allow": [self.registry.address],
            "extra_ca": self.registry.ca,
            **changes,
        }
        return Settings.model_validate(values)

    def images(self) -> ImageStore:
        return ImageStore(self.settings().node_dir / "images")

    def order(self, reference: str, password: str = PASSWORD, account_id: str = "") -> ImportOrder:
        """Return an order with a new id."""
        return ImportOrder(
            image_id=new_image_id(),
            account_id=account_id,
            image_uri=reference,
            username=USERNAME,
            password=password,
        )

    @contextlib.asynccontextmanager
    async def open(self, **changes: object) -> AsyncGenerator[Imports]:
        self.ledger = ImportLedger()
        settings = self.settings(**changes)
        network = SharedNetwork(self.netns, reach_of(settings))
        async with (
            network.reaching(),
            Imports(settings, self.images(), network, self.ledger) as imports,
        ):
            yield imports

    def end(self, order: ImportOrder, **changes: object) -> ImportSucceeded | ImportFailed:
        """Carry one order out; return how it ended."""

        async def run() -> ImportSucceeded | ImportFailed:
            async with self.open(**changes) as imports:
                await imports.take(order)
                return await self.ledger.ended(order.image_id)

        return asyncio.run(run())

    def image(self, order: ImportOrder, **changes: object) -> Image:
        """Carry one order out, which has to succeed; return its image."""
        end = self.end(order, **changes)
        assert isinstance(end, ImportSucceeded), end
        image = self.images().get(order.image_id)
        assert image is not None
        assert image.config.size_bytes == end.size_bytes
        return image
