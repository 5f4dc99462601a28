"""The outbox: an event is written where the change that it tells of is, in one transaction.

So there is an event exactly when there was the change, whatever crashes. An event gets a
delivery for each endpoint that wants it by then; with none there is no event.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.builds import BuildStatus
from cakework.domain.vms import Ending
from cakework.server.clock import Clock
from cakework.server.store.models import BuildRow, VmRow
from cakework.server.store.values import storable
from cakework.server.store.webhook_models import (
    WebhookDeliveryRow,
    WebhookEndpointRow,
    WebhookEventRow,
)
from cakework.server.webhooks.events import EventType, new_delivery_id, new_event_id

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shapes:
    """How the API shows a build and a VM."""

    build: Callable[[BuildRow], Json]
    vm: Callable[[VmRow], Json]
    time: Callable[[int], str]


class Outbox:
    """Writes events and their deliveries in a caller's transaction; ``hint`` once it commits."""

    def __init__(self, shapes: Shapes, clock: Clock, hint: Callable[[], None]) -> None:
        """Show what changed as ``shapes`` say."""
        self._shapes = shapes
        self._clock = clock
        self._hint = hint

    async def build_ended(self, session: AsyncSession, row: BuildRow) -> None:
        """Tell that a build has succeeded or failed."""
        succeeded = row.status == BuildStatus.SUCCEEDED
        kind = EventType.BUILD_SUCCEEDED if succeeded else EventType.BUILD_FAILED
        await self._tell(session, row.account_id, kind, lambda: self._shapes.build(row))

    async def vm_started(self, session: AsyncSession, row: VmRow) -> None:
        """Tell that the program in a VM was started."""
        await self._tell_vm(session, EventType.VM_STARTED, row)

    async def vm_stopped(self, session: AsyncSession, row: VmRow, ending: Ending) -> None:
        """Tell that a run of a VM is over, and how that run ended."""
        how = {
            "reason": storable(ending.reason),
            "exitCode": ending.exit_code,
            "memoryKept": ending.memory_kept or None,
        }
        told = {name: value for name, value in how.items() if value is not None}
        await self._tell(
            session, row.account_id, EventType.VM_STOPPED, lambda: self._shapes.vm(row) | told
        )

    async def vm_destroyed(self, session: AsyncSession, row: VmRow) -> None:
        """Tell that a VM is ended for good."""
        await self._tell_vm(session, EventType.VM_DESTROYED, row)

    async def test(
        self, session: AsyncSession, endpoint_id: str, token: str | None
    ) -> WebhookDeliveryRow:
        """Send an event to one endpoint that says only that it arrives."""
        row = await self._event(session, EventType.TEST, {"webhookId": endpoint_id})
        return self.deliver(session, row.id, endpoint_id, token)

    def deliver(
        self, session: AsyncSession, event_id: str, endpoint_id: str, token: str | None = None
    ) -> WebhookDeliveryRow:
        """Have an event delivered to an endpoint, from the first attempt on."""
        now = self._clock()
        row = WebhookDeliveryRow(
            id=new_delivery_id(),
            endpoint_id=endpoint_id,
            event_id=event_id,
            status="pending",
            attempts=0,
            next_ms=now,
            request_token=token,
            created_ms=now,
        )
        session.add(row)
        event.listen(session.sync_session, "after_commit", self._committed, once=True)
        return row

    async def _tell_vm(self, session: AsyncSession, kind: EventType, row: VmRow) -> None:
        await self._tell(session, row.account_id, kind, lambda: self._shapes.vm(row))

    async def _tell(
        self, session: AsyncSession, account: str, kind: EventType, data: Callable[[], Json]
    ) -> None:
        query = select(WebhookEndpointRow.id, WebhookEndpointRow.events).where(
            WebhookEndpointRow.account_id == account,
            WebhookEndpointRow.disabled_reason.is_(None),
        )
        query = query.with_for_update(read=True, key_share=True)
        wanted = [
            endpoint_id
            for endpoint_id, events in await session.execute(query)
            if events is None or kind in events
        ]
        if not wanted:
            return
        row = await self._event(session, kind, data())
        for endpoint_id in wanted:
            self.deliver(session, row.id, endpoint_id)

    async def _event(self, session: AsyncSession, kind: EventType, data: Json) -> WebhookEventRow:
        now = self._clock()
        message = {"type": kind, "timestamp": self._shapes.time(now), "data": data}
        row = WebhookEventRow(
            id=new_event_id(),
            type=kind,
            body=json.dumps(message, ensure_ascii=False, separators=(",", ":")),
            created_ms=now,
        )
        session.add(row)
        await session.flush()
        return row

    def _committed(self, _session: object) -> None:
        self._hint()
