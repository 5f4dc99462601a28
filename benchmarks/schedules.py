"""``python -m benchmarks.schedules``: how long occurrences take that are due at once, and what
triggers cost of which none is. See docs/benchmarks.md.

The loop alone, on either store: no server answers meanwhile, and nothing of what is made is begun.
"""

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from sqlalchemy import event
from tests.integration.server import postgres
from tests.integration.server.rig import settings_for
from tests.integration.server.scheduling import MINUTE, NOON, Bench, bench

FUNCTIONS = 20
SCHEDULE = {"cron": "* * * * *", "timeZone": "Europe/Berlin"}
ROW = "{store:<12}{what:<44}{value:>10}"


def main() -> int:
    """Measure, and print what each took."""
    parser = argparse.ArgumentParser(prog="benchmarks.schedules", description=__doc__)
    parser.add_argument("--triggers", type=int, default=10_000, help="how many (default 10000)")
    options = parser.parse_args()
    for store in ("SQLite", "PostgreSQL"):
        asyncio.run(_measure(store, options.triggers))
    return 0


async def _measure(store: str, count: int) -> None:
    async with _opened(store) as on:
        for _ in range(FUNCTIONS):
            await on.triggers(count // FUNCTIONS, await on.function(), **SCHEDULE)
        asked = await _queries(on)
        print(ROW.format(store=store, what=f"{count} not due: queries of a pass", value=asked))
        for what, at_ms in (("due at once", NOON), ("due at once, all overlap", NOON + MINUTE)):
            begun = time.monotonic()
            await on.at(at_ms)
            took = f"{time.monotonic() - begun:.1f} s"
            print(ROW.format(store=store, what=f"{count} {what}", value=took))


async def _queries(on: Bench) -> int:
    """Return how many queries a pass makes that finds nothing; there are two a minute."""
    asked: list[str] = []

    def counts(_: object, __: object, statement: str, *___: object) -> None:
        if not statement.startswith("BEGIN"):
            asked.append(statement)

    for engine in on.database.engines:
        event.listen(engine, "before_cursor_execute", counts)
    await on.at(NOON - 1)
    return len(asked)


@contextlib.asynccontextmanager
async def _opened(store: str) -> AsyncGenerator[Bench]:
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cw-", dir="/tmp"))
        url = None
        if store == "PostgreSQL":
            cluster = stack.enter_context(postgres.running_cluster())
            url = await stack.enter_async_context(cluster.database(empty=False))
        yield await stack.enter_async_context(bench(settings_for(Path(folder), url)))


if __name__ == "__main__":
    raise SystemExit(main())
