"""The delivery log of an endpoint, and deliveries that are asked for: a test, a repetition."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import Conflict, NotFound, QuotaExceeded
from cakework.domain.ids import AccountId
from cakework.server.store.database import Database
from cakework.server.store.webhook_models import (
    DeliveryStatus,
    WebhookDeliveryRow,
    WebhookEndpointRow,
    WebhookEventRow,
)
from cakework.server.webhooks.endpoints import owned
from cakework.server.webhooks.outbox import Outbox

PAGE = 100
PENDING_MAX = 1000
"""Deliveries that wait for an endpoint, from which on no more may be asked for. Those of what
happens do not count in number: there are as many as there were changes."""
RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery and the type of its event."""

    row: WebhookDeliveryRow
    event_type: str


class Deliveries:
    """Finds deliveries, and adds those that are asked for."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        """Add through ``outbox``."""
        self._database = database
        self._outbox = outbox

    async def page(
        self,
        account: AccountId,
        endpoint_id: str,
        status: DeliveryStatus | None,
        before: str | None,
    ) -> tuple[list[Delivery], str | None]:
        """Return up to 100 deliveries, newest first, and the id behind which the next page is.

        Raises:
            NotFound: the account has no such endpoint.
        """
        query = (
            select(WebhookDeliveryRow, WebhookEventRow.type)
            .join(WebhookEventRow, WebhookEventRow.id == WebhookDeliveryRow.event_id)
            .where(WebhookDeliveryRow.endpoint_id == endpoint_id)
            .order_by(WebhookDeliveryRow.id.desc())
            .limit(PAGE + 1)
        )
        if status is not None:
            query = query.where(WebhookDeliveryRow.status == status)
        if before is not None:
            query = query.where(WebhookDeliveryRow.id < before)
        async with self._database.reading() as session:
            await owned(session, account, endpoint_id)
            found = [Delivery(row, kind) for row, kind in await session.execute(query)]
        return found[:PAGE], found[PAGE - 1].row.id if len(found) > PAGE else None

    async def test(self, account: AccountId, endpoint_id: str, token: str | None) -> Delivery:
        """Send the endpoint an event that says only that it arrives.

        Raises:
            NotFound: the account has no such endpoint.
            Conflict: the endpoint is disabled.
            QuotaExceeded: as many deliveries wait for it as may.
        """
        async with self._database.writing() as session:
            _check_enabled(await owned(session, account, endpoint_id, lock=True))
            if (row := await _made_by(session, token)) is None:
                await _check_pending(session, endpoint_id)
                row = await self._outbox.test(session, endpoint_id, token)
            return await _with_type(session, row)

    async def repeat(
        self, account: AccountId, endpoint_id: str, delivery_id: str, token: str | None
    ) -> Delivery:
        """Send the event of a delivery once more, with the same id and body.

        Raises:
            NotFound: the account has no such endpoint, or that no such delivery.
            Conflict: the endpoint is disabled.
            QuotaExceeded: as many deliveries wait for it as may.
        """
        async with self._database.writing() as session:
            endpoint = await owned(session, account, endpoint_id, lock=True)
            before = await session.get(WebhookDeliveryRow, delivery_id)
            if before is None or before.endpoint_id != endpoint_id:
                raise NotFound(f"There is no delivery {delivery_id}.")
            _check_enabled(endpoint)
            if (row := await _made_by(session, token)) is None:
                await _check_pending(session, endpoint_id)
                row = self._outbox.deliver(session, before.event_id, endpoint_id, token)
            return await _with_type(session, row)


def _check_enabled(endpoint: WebhookEndpointRow) -> None:
    if endpoint.disabled_reason is not None:
        raise Conflict(f"The webhook is disabled. {endpoint.disabled_reason}")


async def _check_pending(session: AsyncSession, endpoint_id: str) -> None:
    pending = await session.scalar(
        select(func.count())
        .select_from(WebhookDeliveryRow)
        .where(
            WebhookDeliveryRow.endpoint_id == endpoint_id,
            WebhookDeliveryRow.next_ms.is_not(None),
        )
    )
    if (pending or 0) >= PENDING_MAX:
        raise QuotaExceeded(
            f"The webhook has {pending} deliveries pending, which is as many as may be asked for.",
            retry_after_s=RETRY_AFTER_S,
        )


async def _made_by(session: AsyncSession, token: str | None) -> WebhookDeliveryRow | None:
    if token is None:
        return None
    query = select(WebhookDeliveryRow).where(WebhookDeliveryRow.request_token == token)
    return await session.scalar(query)


async def _with_type(session: AsyncSession, row: WebhookDeliveryRow) -> Delivery:
    event = await session.get_one(WebhookEventRow, row.event_id)
    return Delivery(row, event.type)
