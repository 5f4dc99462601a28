"""The outbox: an event is written where the change that it tells of is, in one transaction.

So there is an event exactly when there was the change, whatever crashes. An event gets a
delivery for each endpoint that wants it by then; with none there is no event.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cakework.domain.builds import BuildStatus
from cakework.domain.functions import VersionState
from cakework.domain.invocations import TEST, InvocationState
from cakework.domain.vms import Ending, VmRole
from cakework.server.clock import Clock
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.function_models import FunctionRow, InvocationRow, VersionRow
from cakework.server.store.models import BuildRow, VmRow
from cakework.server.store.together import after_commit
from cakework.server.store.values import storable
from cakework.server.store.webhook_models import (
    WebhookDeliveryRow,
    WebhookEndpointRow,
    WebhookEventRow,
)
from cakework.server.webhooks.events import (
    BY_NAME_ALONE,
    EventType,
    new_delivery_id,
    new_event_id,
)

INVOCATIONS_PENDING_MAX = 10_000
"""Deliveries pending for an endpoint, from which on it is told of no end of an invocation: as many
as may wait of one function. What is written at the same moment may be a few more."""
_ENDS = {
    InvocationState.SUCCEEDED: EventType.INVOCATION_SUCCEEDED,
    InvocationState.FAILED: EventType.INVOCATION_FAILED,
    InvocationState.EXPIRED: EventType.INVOCATION_FAILED,
}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shapes:
    """How the API shows a build, a VM, a version, a trigger, and invocations by their ids, without
    events and results."""

    build: Callable[[BuildRow], Json]
    vm: Callable[[VmRow], Json]
    version: Callable[[VersionRow], Json]
    trigger: Callable[[TriggerRow], Json]
    invocations: Callable[[Session, Sequence[str]], dict[str, Json]]
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
        await self._tell_vm(session, EventType.VM_STOPPED, row, told)

    async def vm_destroyed(self, session: AsyncSession, row: VmRow) -> None:
        """Tell that a VM is ended for good."""
        await self._tell_vm(session, EventType.VM_DESTROYED, row)

    async def version_ended(self, session: AsyncSession, row: VersionRow) -> None:
        """Tell that a version of a function is ready, or has failed."""
        owner = select(FunctionRow.account_id).where(FunctionRow.id == row.function_id)
        account = await session.scalar(owner)
        if account is None:
            return
        ready = row.state == VersionState.READY
        kind = EventType.FUNCTION_DEPLOYED if ready else EventType.FUNCTION_FAILED
        await self._tell(session, account, kind, lambda: self._shapes.version(row))

    def invocations_ended(self, session: Session, ids: Sequence[str]) -> None:
        """Tell which invocations have succeeded, or failed for good; of tests and of what was given
        up nothing is told.

        An endpoint that has ``INVOCATIONS_PENDING_MAX`` pending is not told; how often that was
        is counted.
        """
        session.flush()
        rooms: dict[str, int] = {}
        missed = Counter[str]()
        wanted: dict[str, tuple[EventType, list[str]]] = {}
        for invocation_id, state, endpoint_id, events in session.execute(_to_be_told(ids)):
            kind = _ENDS[InvocationState(state)]
            if not _wants(events, kind):
                continue
            if endpoint_id not in rooms:
                rooms[endpoint_id] = _room(session, endpoint_id)
            if rooms[endpoint_id] > 0:
                rooms[endpoint_id] -= 1
                wanted.setdefault(invocation_id, (kind, []))[1].append(endpoint_id)
            else:
                missed[endpoint_id] += 1
        if wanted:
            told = self._shapes.invocations(session, list(wanted))
            for invocation_id, (kind, endpoints) in wanted.items():
                self._write(session, kind, told[invocation_id], endpoints)
        for endpoint_id in sorted(missed):
            session.execute(
                update(WebhookEndpointRow)
                .where(WebhookEndpointRow.id == endpoint_id)
                .values(missed=WebhookEndpointRow.missed + missed[endpoint_id])
                .execution_options(synchronize_session=False)
            )

    def trigger_paused(self, session: Session, row: TriggerRow) -> None:
        """Tell that a trigger has paused itself."""
        self._tell_now(
            session, row.account_id, EventType.TRIGGER_PAUSED, lambda: self._shapes.trigger(row)
        )

    async def test(
        self, session: AsyncSession, endpoint_id: str, token: str | None
    ) -> WebhookDeliveryRow:
        """Send an event to one endpoint that says only that it arrives."""

        def write(session: Session) -> WebhookDeliveryRow:
            row = self._event(session, EventType.TEST, {"webhookId": endpoint_id})
            return self._deliver(session, row.id, endpoint_id, token)

        return await session.run_sync(write)

    def deliver(
        self, session: AsyncSession, event_id: str, endpoint_id: str, token: str | None = None
    ) -> WebhookDeliveryRow:
        """Have an event delivered to an endpoint, from the first attempt on."""
        return self._deliver(session.sync_session, event_id, endpoint_id, token)

    async def _tell_vm(
        self, session: AsyncSession, kind: EventType, row: VmRow, how: Json | None = None
    ) -> None:
        if row.role == VmRole.OWN:
            account = row.account_id
            await self._tell(session, account, kind, lambda: self._shapes.vm(row) | (how or {}))

    async def _tell(
        self, session: AsyncSession, account: str, kind: EventType, data: Callable[[], Json]
    ) -> None:
        await session.run_sync(lambda session: self._tell_now(session, account, kind, data))

    def _tell_now(
        self, session: Session, account: str, kind: EventType, data: Callable[[], Json]
    ) -> None:
        query = select(WebhookEndpointRow.id, WebhookEndpointRow.events).where(
            WebhookEndpointRow.account_id == account,
            WebhookEndpointRow.disabled_reason.is_(None),
        )
        query = query.with_for_update(read=True, key_share=True)
        wanted = [
            endpoint_id for endpoint_id, events in session.execute(query) if _wants(events, kind)
        ]
        if wanted:
            self._write(session, kind, data(), wanted)

    def _write(
        self, session: Session, kind: EventType, data: Json, endpoints: Sequence[str]
    ) -> None:
        row = self._event(session, kind, data)
        for endpoint_id in endpoints:
            self._deliver(session, row.id, endpoint_id)

    def _event(self, session: Session, kind: EventType, data: Json) -> WebhookEventRow:
        now = self._clock()
        message = {"type": kind, "timestamp": self._shapes.time(now), "data": data}
        row = WebhookEventRow(
            id=new_event_id(),
            type=kind,
            body=json.dumps(message, ensure_ascii=False, separators=(",", ":")),
            created_ms=now,
        )
        session.add(row)
        session.flush()
        return row

    def _deliver(
        self, session: Session, event_id: str, endpoint_id: str, token: str | None = None
    ) -> WebhookDeliveryRow:
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
        after_commit(session, self._hint)
        return row


def _to_be_told(ids: Sequence[str]) -> Select[str, str, str, list[str] | None]:
    """Ask for each end that may be told of, and each endpoint of its account."""
    return (
        select(
            InvocationRow.id, InvocationRow.state, WebhookEndpointRow.id, WebhookEndpointRow.events
        )
        .join(WebhookEndpointRow, WebhookEndpointRow.account_id == InvocationRow.account_id)
        .where(
            InvocationRow.id.in_(ids),
            InvocationRow.state.in_(_ENDS),
            InvocationRow.trigger != TEST,
            WebhookEndpointRow.disabled_reason.is_(None),
        )
        .order_by(WebhookEndpointRow.id, InvocationRow.id)
        .with_for_update(read=True, key_share=True, of=WebhookEndpointRow)
    )


def _wants(events: list[str] | None, kind: EventType) -> bool:
    return kind not in BY_NAME_ALONE if events is None else kind in events


def _room(session: Session, endpoint_id: str) -> int:
    """Return of how many ends more an endpoint may be told; no more is counted than may be."""
    pending = (
        select(1)
        .select_from(WebhookDeliveryRow)
        .where(
            WebhookDeliveryRow.endpoint_id == endpoint_id, WebhookDeliveryRow.next_ms.is_not(None)
        )
        .limit(INVOCATIONS_PENDING_MAX)
        .subquery()
    )
    counted = session.scalar(select(func.count()).select_from(pending)) or 0
    return INVOCATIONS_PENDING_MAX - counted
