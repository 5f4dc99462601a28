"""The retention loop: forgets what is kept for a time only."""

from sqlalchemy import delete, exists

from cakework.server.clock import Clock
from cakework.server.services.idempotency import KEPT_MS
from cakework.server.store.database import Database
from cakework.server.store.models import IdempotencyRow
from cakework.server.store.webhook_models import (
    DeliveryStatus,
    WebhookDeliveryRow,
    WebhookEventRow,
)

DAY_MS = 24 * 3600 * 1000


class RetentionLoop:
    """Removes kept answers and ended deliveries of webhooks when their time is over."""

    def __init__(self, database: Database, webhook_log_days: int, clock: Clock) -> None:
        """Remove from ``database``; deliveries that ended are kept for ``webhook_log_days``."""
        self._database = database
        self._webhook_log_ms = webhook_log_days * DAY_MS
        self._clock = clock

    async def one_pass(self) -> None:
        """Remove what is over."""
        await self._remove_deliveries()
        async with self._database.writing() as session:
            await session.execute(
                delete(IdempotencyRow).where(IdempotencyRow.created_ms < self._clock() - KEPT_MS)
            )

    async def _remove_deliveries(self) -> None:
        """Remove deliveries that ended, and events that no delivery is left of."""
        before = self._clock() - self._webhook_log_ms
        delivered = exists().where(WebhookDeliveryRow.event_id == WebhookEventRow.id)
        async with self._database.writing() as session:
            await session.execute(
                delete(WebhookDeliveryRow).where(
                    WebhookDeliveryRow.created_ms < before,
                    WebhookDeliveryRow.status != DeliveryStatus.PENDING,
                )
            )
            await session.execute(
                delete(WebhookEventRow).where(WebhookEventRow.created_ms < before, ~delivered)
            )
