"""A process that carries out builds until it is killed: DATA_DIR NETNS ORDERS FACTS.

ORDERS is a file of orders, one a line; facts are appended to the journal in folder FACTS.
"""

import asyncio
import sys
from pathlib import Path

from cakework.domain.orders import BuildOrder
from cakework.node.builds import Builds
from cakework.node.journal import Journal
from tests.integration.node.build_bench import Bench, NetworkOfNothing


async def main() -> None:
    data_dir, netns, orders, facts = sys.argv[1:]
    bench = Bench(Path(data_dir), netns)
    journal = Journal.open(Path(facts))
    network = NetworkOfNothing(netns)
    async with Builds(bench.settings(), bench.images(), network, journal) as builds:
        for line in Path(orders).read_text().splitlines():
            builds.submit(BuildOrder.model_validate_json(line))
        await asyncio.Event().wait()


asyncio.run(main())
