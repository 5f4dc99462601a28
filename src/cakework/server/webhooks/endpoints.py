"""Endpoints: where an account wants to be told, and the secrets that deliveries are signed with.

A secret is shown when it is made and stored sealed. A rotated one goes on signing beside the
new one for a day, so that receivers can change over.
"""

import base64
import json
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import TypeAdapter
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import FieldError, InvalidRequest, NotFound, QuotaExceeded
from cakework.domain.ids import AccountId
from cakework.server.clock import Clock
from cakework.server.store.accounts import lock_account
from cakework.server.store.database import Database
from cakework.server.store.sealing import Sealer
from cakework.server.store.webhook_models import (
    DeliveryStatus,
    WebhookDeliveryRow,
    WebhookEndpointRow,
)
from cakework.server.webhooks.addresses import Guard, NotAllowed, literal
from cakework.server.webhooks.events import EventType, new_endpoint_id
from cakework.server.webhooks.names import NotKnown

ENDPOINTS_MAX = 20
SECRET_BYTES = 32
ROTATION_MS = 24 * 3600 * 1000
FORMER_MAX = 4
DISABLED_BY_OWNER = "It was disabled by its owner."
RETRY_AFTER_S = 60
_FORMER: TypeAdapter[list[tuple[str, int]]] = TypeAdapter(list[tuple[str, int]])


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """What is asked for; ``events`` None for every event."""

    url: str
    events: list[EventType] | None
    description: str | None


@dataclass(frozen=True, slots=True)
class Shown:
    """An endpoint with its secret, at the one time that it is shown."""

    row: WebhookEndpointRow
    secret: str


class Endpoints:
    """Keeps the endpoints of accounts."""

    def __init__(self, database: Database, sealer: Sealer, guard: Guard, clock: Clock) -> None:
        """Seal secrets with ``sealer``; take URLs that ``guard`` lets pass."""
        self._database = database
        self._sealer = sealer
        self._guard = guard
        self._clock = clock

    async def create(self, account: AccountId, new: NewEndpoint, token: str | None) -> Shown:
        """Make an endpoint; ``token`` names an idempotent request, which makes one only once.

        Raises:
            InvalidRequest: webhooks cannot go to the URL.
            QuotaExceeded: the account has as many endpoints as it may.
        """
        await self._check_url(account, new.url)
        secret = new_secret()
        async with self._database.writing() as session:
            if token is not None and (made := await _made_by(session, token)) is not None:
                return Shown(made, self._open(made.id, made.secret_sealed))
            await self._check_quota(session, account)
            row = self._row(account, new, secret)
            row.request_token = token
            session.add(row)
        return Shown(row, secret)

    async def list(self, account: AccountId) -> list[WebhookEndpointRow]:
        """Return every endpoint of the account, oldest first."""
        query = (
            select(WebhookEndpointRow)
            .where(WebhookEndpointRow.account_id == account)
            .order_by(WebhookEndpointRow.created_ms, WebhookEndpointRow.id)
        )
        async with self._database.reading() as session:
            return list(await session.scalars(query))

    async def get(self, account: AccountId, endpoint_id: str) -> WebhookEndpointRow:
        """Return an endpoint of the account. Raises NotFound."""
        async with self._database.reading() as session:
            return await owned(session, account, endpoint_id)

    async def change(
        self, account: AccountId, endpoint_id: str, changes: dict[str, object]
    ) -> WebhookEndpointRow:
        """Set ``url``, ``events``, ``description`` or ``disabled_reason``; the rest stays.

        Disabling ends the deliveries that are still pending.

        Raises:
            NotFound: the account has no such endpoint.
            InvalidRequest: webhooks cannot go to the URL.
        """
        if isinstance(url := changes.get("url"), str):
            await self.get(account, endpoint_id)
            await self._check_url(account, url)
        async with self._database.writing() as session:
            row = await owned(session, account, endpoint_id, lock=True)
            for name, value in changes.items():
                setattr(row, name, value)
            row.updated_ms = max(row.updated_ms, self._clock())
            if row.disabled_reason is not None:
                await give_up(session, endpoint_id, row.disabled_reason)
        return row

    async def rotate(self, account: AccountId, endpoint_id: str, token: str | None) -> Shown:
        """Give the endpoint a new secret; the one before goes on signing for a day.

        ``token`` names an idempotent request: its secret is the same whenever it is carried out.

        Raises:
            NotFound: the account has no such endpoint.
        """
        async with self._database.writing() as session:
            row = await owned(session, account, endpoint_id, lock=True)
            secret = new_secret() if token is None else self._secret_for(endpoint_id, token)
            if secret in self.secrets_of(row):
                return Shown(row, secret)
            row.former_sealed = self._seal_former(row)
            row.secret_sealed = self._seal(endpoint_id, secret)
            row.updated_ms = max(row.updated_ms, self._clock())
        return Shown(row, secret)

    async def delete(self, account: AccountId, endpoint_id: str) -> WebhookEndpointRow:
        """Remove the endpoint and its deliveries; returns it as it was. Raises NotFound."""
        async with self._database.writing() as session:
            row = await owned(session, account, endpoint_id, lock=True)
            await session.execute(
                delete(WebhookDeliveryRow).where(WebhookDeliveryRow.endpoint_id == endpoint_id)
            )
            await session.delete(row)
        return row

    def secrets_of(self, row: WebhookEndpointRow) -> tuple[str, ...]:
        """Return the secrets that sign for the endpoint now, the newest first."""
        return (self._open(row.id, row.secret_sealed), *self._former(row))

    def _row(self, account: AccountId, new: NewEndpoint, secret: str) -> WebhookEndpointRow:
        now = self._clock()
        endpoint_id = new_endpoint_id()
        return WebhookEndpointRow(
            id=endpoint_id,
            account_id=account,
            url=new.url,
            description=new.description,
            events=new.events,
            secret_sealed=self._seal(endpoint_id, secret),
            missed=0,
            created_ms=now,
            updated_ms=now,
        )

    def _secret_for(self, endpoint_id: str, token: str) -> str:
        return _spelled(self._sealer.draw(f"webhook secret {endpoint_id} {token}"))

    def _seal(self, endpoint_id: str, secret: str) -> bytes:
        return self._sealer.seal(secret.encode(), endpoint_id)

    def _open(self, endpoint_id: str, sealed: bytes) -> str:
        return self._sealer.unseal(sealed, endpoint_id).decode()

    def _seal_former(self, row: WebhookEndpointRow) -> bytes:
        """Return the secrets up to now, sealed, for when there is a new one."""
        until = {self._open(row.id, row.secret_sealed): self._clock() + ROTATION_MS}
        former = list((until | self._former(row)).items())[:FORMER_MAX]
        return self._sealer.seal(json.dumps(former).encode(), row.id)

    def _former(self, row: WebhookEndpointRow) -> dict[str, int]:
        """Return the secrets before this one that still sign, the newest first, and until when."""
        if row.former_sealed is None:
            return {}
        kept = _FORMER.validate_json(self._sealer.unseal(row.former_sealed, row.id))
        return {secret: until_ms for secret, until_ms in kept if until_ms > self._clock()}

    async def _check_quota(self, session: AsyncSession, account: AccountId) -> None:
        await lock_account(session, account)
        count = await session.scalar(
            select(func.count())
            .select_from(WebhookEndpointRow)
            .where(WebhookEndpointRow.account_id == account)
        )
        if (count or 0) >= ENDPOINTS_MAX:
            raise QuotaExceeded(
                f"The account has {count} webhooks, which is as many as it may.",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _check_url(self, account: AccountId, url: str) -> None:
        """Refuse what can be seen at once; where a name leads is checked when it is used."""
        try:
            host, port, encrypted = parse_url(url)
            address = literal(host)
            if address is not None:
                self._guard.check(address, port, encrypted=encrypted)
            elif not encrypted:
                await self._guard.addresses(account, host, port, encrypted=False)
        except (NotAllowed, NotKnown) as error:
            raise _refused(error.detail) from error
        except (OSError, UnicodeError) as error:
            raise _refused("The name in the URL has no address.") from error
        except ValueError as error:
            raise _refused(str(error)) from error


def new_secret() -> str:
    """Return a random secret of 256 bits in the standard's form."""
    return _spelled(secrets.token_bytes(SECRET_BYTES))


def parse_url(url: str) -> tuple[str, int, bool]:
    """Return host, port, and whether it is https.

    Raises:
        ValueError: it is no URL that webhooks can go to; the message says why, for people.
    """
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("The URL must be spelled in ASCII, without spaces and backslashes.")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("The URL must begin with https:// and name a host.")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("The URL must have no credentials and no fragment.")
    encrypted = parts.scheme == "https"
    port = parts.port
    if port == 0:
        raise ValueError("The URL must name a port that there is.")
    return parts.hostname, port or (443 if encrypted else 80), encrypted


async def owned(
    session: AsyncSession, account: AccountId, endpoint_id: str, *, lock: bool = False
) -> WebhookEndpointRow:
    """Return an endpoint of the account, for change when ``lock``. Raises NotFound."""
    row = await session.get(WebhookEndpointRow, endpoint_id, with_for_update=lock or None)
    if row is None or row.account_id != account:
        raise NotFound(f"There is no webhook {endpoint_id}.")
    return row


async def give_up(session: AsyncSession, endpoint_id: str, reason: str) -> None:
    """End the deliveries to an endpoint that are pending."""
    await session.execute(
        update(WebhookDeliveryRow)
        .where(
            WebhookDeliveryRow.endpoint_id == endpoint_id,
            WebhookDeliveryRow.status == DeliveryStatus.PENDING,
        )
        .values(
            status=DeliveryStatus.FAILED,
            next_ms=None,
            lease_token=None,
            lease_until_ms=None,
            error=f"Not sent: the webhook is disabled. {reason}",
        )
    )


async def _made_by(session: AsyncSession, token: str) -> WebhookEndpointRow | None:
    query = select(WebhookEndpointRow).where(WebhookEndpointRow.request_token == token)
    return await session.scalar(query)


def _spelled(secret: bytes) -> str:
    return f"whsec_{base64.b64encode(secret).decode()}"


def _refused(detail: str) -> InvalidRequest:
    return InvalidRequest(detail, [FieldError("url", detail.rstrip("."))])
