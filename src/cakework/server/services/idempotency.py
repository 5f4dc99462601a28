"""Idempotency-Keys: the same POST with the same key does its work once and is answered alike.

A key is reserved in the store before the work begins and gets its answer after. Who comes
with the key in between waits, in this process; after a crash in between the work is carried
on under the same ``token``, by which it finds what it had made. Answers that invite another
try (429, 5xx) are not kept. An answer may have what somebody sent in it, so those of one account
have a bound in bytes, too, whenever they come: the oldest go before their time.
"""

import hmac
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import Conflict, FieldError, InvalidRequest
from cakework.domain.ids import AccountId
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.services.claims import Claims
from cakework.server.store.database import Database
from cakework.server.store.models import IdempotencyRow
from cakework.server.store.sealing import Sealer

KEPT_MS = 24 * 3600 * 1000
KEY_CHARS_MAX = 255
BYTES_MAX = 128 << 20
"""Of the answers kept for one account: a thousand of the largest, invocations with 64 KiB of event
and of result."""
LOOK_BYTES = 4 << 20
"""Of an account's answers that are kept by one process until all that are kept are looked at."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it is kept: status, content type, body."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """A POST with a key: whose, which key, and a digest of what was asked.

    A request may hold a secret that can be guessed, so the digest is kept as a mark only.
    """

    account: AccountId
    key: str
    fingerprint: bytes


Work = Callable[[str], Awaitable[Answer]]
"""Does a request's work under a token and returns the answer."""


class Idempotency:
    """Has work done once for each key of an account."""

    def __init__(self, database: Database, sealer: Sealer, clock: Clock) -> None:
        """Keep keys and answers in ``database``; answers are sealed, for some hold a secret."""
        self._sealer = sealer
        self._database = database
        self._clock = clock
        self._claims: Claims[tuple[AccountId, str]] = Claims()
        self._new_bytes: Counter[AccountId] = Counter()

    async def once(self, attempt: Attempt, work: Work) -> Answer:
        """Return the answer kept for the key, or do the work and keep its answer.

        Raises:
            InvalidRequest: the key is empty, too long, or not printable ASCII.
            Conflict: the key was used for another request.
        """
        check_key(attempt.key)
        async with self._claims.hold((attempt.account, attempt.key)):
            return await self._answer(attempt, work)

    async def _answer(self, attempt: Attempt, work: Work) -> Answer:
        row = await self._reserve(attempt)
        step(Step.REQUEST_RESERVED)
        mark = self._sealer.mark(attempt.fingerprint, row.token)
        if not hmac.compare_digest(row.fingerprint, mark):
            raise Conflict("This Idempotency-Key was used for another request.")
        if row.status is not None and row.body is not None:
            body = self._sealer.unseal(row.body, row.token)
            return Answer(row.status, row.content_type or "", body)
        try:
            answer = await work(row.token)
        except Exception:
            await self._release(attempt)
            raise
        step(Step.REQUEST_DONE)
        if answer.status == 429 or answer.status >= 500:
            await self._release(attempt)
        else:
            await self._keep(attempt, answer, row.token)
            step(Step.REQUEST_KEPT)
        return answer

    async def _reserve(self, attempt: Attempt) -> IdempotencyRow:
        now = self._clock()
        place = (attempt.account, attempt.key)
        async with self._database.writing() as session:
            row = await session.get(IdempotencyRow, place)
            if row is not None and row.created_ms >= now - KEPT_MS:
                return row
            if row is not None:
                await session.delete(row)
                await session.flush()
            token = secrets.token_hex(16)
            row = IdempotencyRow(
                account_id=attempt.account,
                key=attempt.key,
                token=token,
                fingerprint=self._sealer.mark(attempt.fingerprint, token),
                created_ms=now,
            )
            session.add(row)
        return row

    async def _keep(self, attempt: Attempt, answer: Answer, token: str) -> None:
        sealed, account = self._sealer.seal(answer.body, token), attempt.account
        async with self._database.writing() as session:
            await session.execute(
                update(IdempotencyRow)
                .where(*_is(attempt))
                .values(status=answer.status, content_type=answer.content_type, body=sealed)
            )
            self._new_bytes[account] += len(sealed)
            if self._new_bytes[account] > LOOK_BYTES:
                del self._new_bytes[account]
                await _keep_to_bound(session, account)

    async def _release(self, attempt: Attempt) -> None:
        async with self._database.writing() as session:
            await session.execute(delete(IdempotencyRow).where(*_is(attempt)))


def check_key(key: str) -> None:
    """Check that an Idempotency-Key is 1 to 255 printable ASCII characters.

    Raises:
        InvalidRequest: it is not.
    """
    if not key or len(key) > KEY_CHARS_MAX or not (key.isascii() and key.isprintable()):
        message = f"must be 1 to {KEY_CHARS_MAX} printable ASCII characters"
        raise InvalidRequest(
            f"The Idempotency-Key {message}.", [FieldError("Idempotency-Key", message)]
        )


async def _keep_to_bound(session: AsyncSession, account: AccountId) -> None:
    """Forget the oldest answers of an account, beyond ``BYTES_MAX``."""
    row = IdempotencyRow
    newer = func.sum(func.length(row.body)).over(order_by=(row.created_ms.desc(), row.token))
    answered = row.account_id == account, row.body.is_not(None)
    sizes = select(row.token, newer.label("bytes")).where(*answered).subquery()
    beyond = select(sizes.c.token).where(sizes.c.bytes > BYTES_MAX)
    await session.execute(
        delete(row)
        .where(row.account_id == account, row.token.in_(beyond))
        .execution_options(synchronize_session=False)
    )


def _is(attempt: Attempt) -> tuple[ColumnElement[bool], ...]:
    return (
        IdempotencyRow.account_id == attempt.account,
        IdempotencyRow.key == attempt.key,
    )
