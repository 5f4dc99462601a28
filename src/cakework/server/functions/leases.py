"""Claims on the work of functions: kept while their process lives, and taken back when it is gone.

Whoever works at a version, a start or an attempt has its name in ``claimed_by`` until
``claimed_until_ms``, and renews that. Of a process that ended the claims run out, and another goes
on from what it finds. On SQLite there is one server: what is claimed when it starts is nobody's.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from sqlalchemy import update

from cakework.server.store.database import Database
from cakework.server.store.function_models import InstanceRow, InvocationRow, VersionRow

CLAIM_MS = 15_000
RENEW_S = 5.0
_log = structlog.stdlib.get_logger(__name__)


OF_SERVER = "server-"
"""How the names of those begin to whom instances are lent within a server, as to a router."""


async def take_back(database: Database) -> None:
    """Free what a server that ran before had claimed, where no other can be at work; what it had
    lent to itself is at its end, and is ended by the next pass."""
    if database.engine.dialect.name != "sqlite":
        return
    async with database.writing() as session:
        for table in (VersionRow, InstanceRow, InvocationRow):
            await session.execute(
                update(table)
                .where(table.claimed_by.is_not(None))
                .values(claimed_by=None, claimed_until_ms=None)
            )
        await session.execute(
            update(InstanceRow)
            .where(InstanceRow.leased_by.startswith(OF_SERVER))
            .values(leased_until_ms=0)
        )


@asynccontextmanager
async def renewing(renew: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    """Call ``renew`` every few seconds while the block runs."""
    task = asyncio.create_task(_renew(renew))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _renew(renew: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(RENEW_S)
        try:
            await renew()
        except Exception:
            # The next time is soon; and who loses its claim is told by what it writes next.
            _log.warning("lease.not_renewed", exc_info=True)
