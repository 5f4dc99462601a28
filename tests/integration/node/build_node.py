"""A process that carries out builds until it is killed: DATA_DIR NETNS ORDERS FACTS.

ORDERS is a file of orders, one a line; facts are appended to the journal in folder FACTS.
"""

import asyncio
import sys
from pathlib import Path

from cakework.domain.orders import BuildOrder
from cakework.node.builds import Builds
from cakework.node.journal import Journal
from tests.integration.node.build_bench import Bench, NetworkOfNothing, reach_of


async def main(data_dir: str, netns: str, orders: list[str], facts: str) -> None:
    bench = Bench(Path(data_dir), netns)
    journal = Journal.open(Path(facts))
    settings = bench.settings()
    network = NetworkOfNothing(netns, reach_of(settings))
    async with Builds(settings, bench.images(), network, journal) as builds:
        for line in orders:
            await builds.submit(BuildOrder.model_validate_json(line))
        await asyncio.Event().wait()


if __name__ == "__main__":
    folder, namespace, file, journal_folder = sys.argv[1:]
    given = Path(file).read_text().splitlines()
    asyncio.run(main(folder, namespace, given, journal_folder))
