"""The delivery loop: attempts what is due, and decides when it is due again.

A pass claims as many due deliveries as there is room for and leaves each to a task of its own;
the end of a task asks for the next pass. Accounts take turns, and so do the endpoints of one, so
those that do not answer take up their own account's share and no more. A claim is a lease, taken
back when it has run out or the server starts again: then another attempt is made, so every event
arrives at least once. No database session is open while an attempt is under way, and its outcome
counts only if the lease still holds.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog
from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.ids import AccountId
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
from cakework.turns import Turns

WAITS_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""From one attempt to the next: the schedule that Standard Webhooks 1.0 gives as an example."""
JITTER = 0.1
LEASE_MS = 60_000
AT_ONCE = 32
AT_ONCE_PER_ACCOUNT = 8
AT_ONCE_PER_ENDPOINT = 4
GONE_REASON = "It answered 410 Gone."
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Due:
    """A delivery that is due, and whose it is."""

    delivery_id: str
    endpoint_id: str
    account: AccountId
    since_ms: int


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
        self._turns: Turns[AccountId] = Turns(AT_ONCE, each=AT_ONCE_PER_ACCOUNT)
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
        taken: dict[str, _Due] = {}
        try:
            while self._turns.free and (due := self._in_turns(await self._due(taken))):
                taken |= due
            for claimed in await self._claim(list(taken)) if taken else ():
                self._begin(claimed, taken.pop(claimed.delivery_id))
        finally:
            for each in taken.values():
                self._give_back(each)

    async def close(self) -> None:
        """Break off the attempts under way; they are made again once their leases run out."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, claimed: _Claimed, due: _Due) -> None:
        task = asyncio.create_task(self._attempt(claimed))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, due))

    def _ended(self, task: asyncio.Task[None], due: _Due) -> None:
        self._tasks.discard(task)
        self._give_back(due)
        self._hint()

    async def _due(self, but: Collection[str]) -> list[_Due]:
        """Return what is due for longest of each endpoint that has room, beside ``but``."""
        full = [name for name, busy in self._busy.items() if busy >= AT_ONCE_PER_ENDPOINT]
        first = (
            select(WebhookDeliveryRow.id)
            .where(WebhookDeliveryRow.endpoint_id == WebhookEndpointRow.id, *self._is_due())
            .where(WebhookDeliveryRow.id.not_in(but))
            .order_by(WebhookDeliveryRow.next_ms, WebhookDeliveryRow.id)
            .limit(1)
            .correlate(WebhookEndpointRow)
            .scalar_subquery()
        )
        of_each = select(first.label("delivery_id")).where(WebhookEndpointRow.id.not_in(full))
        query = (
            select(
                WebhookDeliveryRow.id,
                WebhookDeliveryRow.endpoint_id,
                WebhookEndpointRow.account_id,
                WebhookDeliveryRow.next_ms,
            )
            .join(WebhookEndpointRow, WebhookEndpointRow.id == WebhookDeliveryRow.endpoint_id)
            .where(WebhookDeliveryRow.id.in_(of_each))
        )
        async with self._database.reading() as session:
            found = (await session.execute(query)).all()
        return [
            _Due(delivery_id, endpoint_id, AccountId(account), since_ms or 0)
            for delivery_id, endpoint_id, account, since_ms in found
        ]

    def _in_turns(self, due: list[_Due]) -> dict[str, _Due]:
        """Take turns for as many of ``due`` as there is room for; return those, by their ids.

        Endpoints of one account that have fewer attempts under way come first.
        """
        by_account: dict[AccountId, list[_Due]] = {}
        for each in sorted(due, key=lambda each: (self._busy[each.endpoint_id], each.since_ms)):
            by_account.setdefault(each.account, []).append(each)
        taken: dict[str, _Due] = {}
        while (account := self._turns.whose(by_account)) is not None:
            self._turns.take(account)
            each = by_account[account].pop(0)
            if not by_account[account]:
                del by_account[account]
            self._busy[each.endpoint_id] += 1
            taken[each.delivery_id] = each
        return taken

    def _give_back(self, due: _Due) -> None:
        self._turns.give_back(due.account)
        self._busy[due.endpoint_id] -= 1
        if not self._busy[due.endpoint_id]:
            del self._busy[due.endpoint_id]

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
        message = Message(
            AccountId(endpoint.account_id),
            endpoint.url,
            row.event_id,
            body,
            self._endpoints.secrets_of(endpoint),
        )
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
