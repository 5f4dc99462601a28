"""The delivery loop: attempts what is due, and decides when it is due again.

A pass claims as many due deliveries as there is room for and leaves each to a task of its own;
the end of a task asks for the next pass. A claim is a lease, taken back when it has run out or
the server starts again: then another attempt is made, so every event arrives at least once. No
database session is open while an attempt is under way, and its outcome counts only if the lease
still holds.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.store.database import Database
from cakework.server.store.webhook_models import (
    DeliveryStatus,
    WebhookDeliveryRow,
    WebhookEndpointRow,
    WebhookEventRow,
)
from cakework.server.webhooks.endpoints import Endpoints, give_up
from cakework.server.webhooks.sender import GONE, Message, Outcome, Sender

WAITS_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""From one attempt to the next: the schedule that Standard Webhooks 1.0 gives as an example."""
JITTER = 0.1
LEASE_MS = 60_000
AT_ONCE = 16
AT_ONCE_PER_ENDPOINT = 4
GONE_REASON = "It answered 410 Gone."
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A delivery that is ours to attempt while the lease ``token`` holds."""

    delivery_id: str
    endpoint_id: str
    token: str
    attempt: int
    message: Message


class DeliveryLoop:
    """Makes the attempts that are due. ``open()`` before use, ``close()`` when done."""

    def __init__(
        self,
        database: Database,
        endpoints: Endpoints,
        sender: Sender,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """Attempt with ``sender``; ``hint`` asks for the next pass."""
        self._database = database
        self._endpoints = endpoints
        self._sender = sender
        self._clock = clock
        self._hint = hint
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: Counter[str] = Counter()

    async def open(self) -> None:
        """Take back the leases of a server that ran before: its attempts are made again."""
        async with self._database.writing() as session:
            await session.execute(
                update(WebhookDeliveryRow)
                .where(WebhookDeliveryRow.lease_token.is_not(None))
                .values(lease_token=None, lease_until_ms=None)
            )

    async def one_pass(self) -> None:
        """Begin the attempts that are due and that there is room for."""
        due = await self._due(AT_ONCE - len(self._tasks))
        if not due:
            return
        for claimed in await self._claim(due):
            self._busy[claimed.endpoint_id] += 1
            task = asyncio.create_task(self._attempt(claimed))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Break off the attempts under way; they are made again once their leases run out."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._hint()

    async def _due(self, room: int) -> list[str]:
        """Return the ids of due deliveries, at most ``room``, few of one endpoint."""
        if room <= 0:
            return []
        full = [name for name, busy in self._busy.items() if busy >= AT_ONCE_PER_ENDPOINT]
        query = (
            select(WebhookDeliveryRow.id, WebhookDeliveryRow.endpoint_id)
            .where(*self._is_due(), WebhookDeliveryRow.endpoint_id.not_in(full))
            .order_by(WebhookDeliveryRow.next_ms, WebhookDeliveryRow.id)
            .limit(room)
        )
        async with self._database.reading() as session:
            found = (await session.execute(query)).all()
        taken = Counter(self._busy)
        due: list[str] = []
        for delivery_id, endpoint_id in found:
            taken[endpoint_id] += 1
            if taken[endpoint_id] <= AT_ONCE_PER_ENDPOINT:
                due.append(delivery_id)
        return due

    async def _claim(self, due: list[str]) -> list[_Claimed]:
        token, now = secrets.token_hex(16), self._clock()
        async with self._database.writing() as session:
            await session.execute(
                update(WebhookDeliveryRow)
                .where(WebhookDeliveryRow.id.in_(due), *self._is_due())
                .values(
                    lease_token=token,
                    lease_until_ms=now + LEASE_MS,
                    attempts=WebhookDeliveryRow.attempts + 1,
                    attempted_ms=now,
                )
            )
            query = (
                select(WebhookDeliveryRow, WebhookEventRow.body, WebhookEndpointRow)
                .join(WebhookEventRow, WebhookEventRow.id == WebhookDeliveryRow.event_id)
                .join(WebhookEndpointRow, WebhookEndpointRow.id == WebhookDeliveryRow.endpoint_id)
                .where(WebhookDeliveryRow.lease_token == token)
            )
            return [
                self._claimed(token, row, body, endpoint)
                for row, body, endpoint in await session.execute(query)
            ]

    def _claimed(
        self, token: str, row: WebhookDeliveryRow, body: str, endpoint: WebhookEndpointRow
    ) -> _Claimed:
        message = Message(endpoint.url, row.event_id, body, self._endpoints.secrets_of(endpoint))
        return _Claimed(row.id, endpoint.id, token, row.attempts, message)

    async def _attempt(self, claimed: _Claimed) -> None:
        step(Step.WEBHOOK_CLAIMED)
        try:
            outcome = await self._sender.send(claimed.message, self._clock())
            step(Step.WEBHOOK_ANSWERED)
            await self._record(claimed, outcome)
            _log.info(
                "webhook.attempted",
                delivery_id=claimed.delivery_id,
                endpoint_id=claimed.endpoint_id,
                attempt=claimed.attempt,
                status=outcome.status,
            )
        except Exception:
            _log.exception("webhook.failed", delivery_id=claimed.delivery_id)
        finally:
            self._busy[claimed.endpoint_id] -= 1
            if not self._busy[claimed.endpoint_id]:
                del self._busy[claimed.endpoint_id]

    async def _record(self, claimed: _Claimed, outcome: Outcome) -> None:
        async with self._database.writing() as session:
            held = await session.scalar(
                update(WebhookDeliveryRow)
                .where(
                    WebhookDeliveryRow.id == claimed.delivery_id,
                    WebhookDeliveryRow.lease_token == claimed.token,
                )
                .values(
                    lease_token=None,
                    lease_until_ms=None,
                    response_status=outcome.status,
                    response_body=outcome.body,
                    error=outcome.error,
                    **self._what_next(claimed.attempt, outcome),
                )
                .returning(WebhookDeliveryRow.id)
            )
            if held is not None and outcome.status == GONE:
                await self._disable(session, claimed.endpoint_id)

    def _what_next(self, attempt: int, outcome: Outcome) -> dict[str, object]:
        if outcome.succeeded:
            return {"status": DeliveryStatus.SUCCEEDED, "next_ms": None}
        if outcome.status == GONE or attempt > len(WAITS_S):
            return {"status": DeliveryStatus.FAILED, "next_ms": None}
        return {"next_ms": self._clock() + wait_ms(attempt)}

    async def _disable(self, session: AsyncSession, endpoint_id: str) -> None:
        await session.execute(
            update(WebhookEndpointRow)
            .where(WebhookEndpointRow.id == endpoint_id)
            .values(disabled_reason=GONE_REASON)
        )
        await give_up(session, endpoint_id, GONE_REASON)

    def _is_due(self) -> tuple[ColumnElement[bool], ...]:
        now = self._clock()
        return (
            WebhookDeliveryRow.status == DeliveryStatus.PENDING,
            WebhookDeliveryRow.next_ms <= now,
            or_(
                WebhookDeliveryRow.lease_until_ms.is_(None),
                WebhookDeliveryRow.lease_until_ms <= now,
            ),
        )


def wait_ms(attempt: int) -> int:
    """Return how long to wait after the ``attempt``-th attempt, spread by a tenth either way."""
    spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
    return int(WAITS_S[attempt - 1] * 1000 * spread)
