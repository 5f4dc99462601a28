"""The retention loop: forgets what is kept for a time only."""

from sqlalchemy import delete

from cakework.server.clock import Clock
from cakework.server.services.idempotency import KEPT_MS
from cakework.server.store.database import Database
from cakework.server.store.models import IdempotencyRow


class RetentionLoop:
    """Removes the answers kept for Idempotency-Keys when their day is over."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Remove from ``database``."""
        self._database = database
        self._clock = clock

    async def one_pass(self) -> None:
        """Remove what is over."""
        async with self._database.writing() as session:
            await session.execute(
                delete(IdempotencyRow).where(IdempotencyRow.created_ms < self._clock() - KEPT_MS)
            )
