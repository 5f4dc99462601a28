"""Accounts and their API keys.

A key is ``cw_`` and 43 random characters (256 bits). It is stored as its SHA-256: with that
much randomness nobody can try candidates against the hash, so a slow password hash would only
make every request slow. The hash is also what a key is looked up by, so the time a look-up
takes says nothing about how much of a key was right.
"""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import Conflict, FieldError, InvalidRequest, NotFound, Unauthenticated
from cakework.domain.ids import AccountId, KeyId
from cakework.server.clock import Clock, now_ms
from cakework.server.store.database import Database
from cakework.server.store.models import AccountRow, ApiKeyRow

DEFAULT_ACCOUNT = AccountId("default")
CONFIGURED_KEY = KeyId("configured")
PREFIX_CHARS = 9
NAME_CHARS_MAX = 100
ACCOUNT_CHARS_MAX = 64
VERIFIED_FOR_S = 2.0
VERIFIED_MAX = 1024


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key: the only time that ``key`` itself is seen."""

    id: KeyId
    key: str


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key as it is listed; ``prefix`` is its beginning, times are unix milliseconds."""

    id: KeyId
    account: AccountId
    name: str
    prefix: str
    created_ms: int
    revoked_ms: int | None


@dataclass(frozen=True, slots=True)
class _Verified:
    account: AccountId
    until_s: float


class Keys:
    """Makes, lists, revokes and verifies API keys."""

    def __init__(
        self,
        database: Database,
        clock: Clock = now_ms,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Work on ``database``; ``monotonic_s`` times how long a verified key is remembered."""
        self._database = database
        self._clock = clock
        self._monotonic_s = monotonic_s
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def create(self, name: str, account: AccountId = DEFAULT_ACCOUNT) -> CreatedKey:
        """Make a key for ``account``, and the account when it is not there.

        Raises:
            InvalidRequest: ``name`` or ``account`` is empty or too long.
        """
        _check_word("name", name, NAME_CHARS_MAX)
        _check_word("account", account, ACCOUNT_CHARS_MAX)
        key = f"cw_{secrets.token_urlsafe(32)}"
        row = self._row(KeyId(secrets.token_hex(8)), account, name, key)
        async with self._database.writing() as session:
            await self._ensure_account(session, account)
            session.add(row)
        return CreatedKey(KeyId(row.id), key)

    async def configure(self, key: SecretStr | None) -> None:
        """Make ``key`` the one valid key that comes from the settings, for account "default".

        A key that was created before, and stays as it is, needs nothing more.

        Raises:
            Conflict: it was created before and then revoked.
        """
        async with self._database.writing() as session:
            await self._ensure_account(session, DEFAULT_ACCOUNT)
            await session.execute(delete(ApiKeyRow).where(ApiKeyRow.id == CONFIGURED_KEY))
            if key is not None:
                row = self._row(CONFIGURED_KEY, DEFAULT_ACCOUNT, "settings", key.get_secret_value())
                created = await session.scalar(select(ApiKeyRow).where(ApiKeyRow.hash == row.hash))
                if created is None:
                    session.add(row)
                elif created.revoked_ms is not None:
                    raise Conflict("The key in the settings is one that was revoked.")
        self._verified.clear()

    async def list(self) -> list[KeyInfo]:
        """Return every key, oldest first, revoked ones too."""
        async with self._database.reading() as session:
            rows = await session.scalars(
                select(ApiKeyRow).order_by(ApiKeyRow.created_ms, ApiKeyRow.id)
            )
            return [_info(row) for row in rows]

    async def revoke(self, key_id: KeyId) -> KeyInfo:
        """Make a key invalid; revoking it again changes nothing.

        A server that runs elsewhere refuses it once it has forgotten that it verified it,
        at most two seconds later.

        Raises:
            NotFound: there is no such key.
        """
        async with self._database.writing() as session:
            await session.execute(
                update(ApiKeyRow)
                .where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_ms.is_(None))
                .values(revoked_ms=self._clock())
            )
            row = await session.get(ApiKeyRow, key_id, populate_existing=True)
            if row is None:
                raise NotFound(f"There is no key {key_id}.")
        self._verified.pop(row.hash, None)
        return _info(row)

    async def verify(self, key: str | None) -> AccountId:
        """Return whose key this is.

        Raises:
            Unauthenticated: there is none, it is not a valid one, or it was revoked.
        """
        if not key:
            raise Unauthenticated("Send an API key in the X-Api-Key header.")
        digest = _digest(key)
        known = self._verified.get(digest)
        if known is not None and known.until_s > self._monotonic_s():
            self._verified.move_to_end(digest)
            return known.account
        return await self._look_up(digest)

    async def _look_up(self, digest: bytes) -> AccountId:
        until_s = self._monotonic_s() + VERIFIED_FOR_S
        async with self._database.reading() as session:
            row = await session.scalar(select(ApiKeyRow).where(ApiKeyRow.hash == digest))
        if row is None or row.revoked_ms or not hmac.compare_digest(row.hash, digest):
            self._verified.pop(digest, None)
            raise Unauthenticated("The API key is not valid.")
        account = AccountId(row.account_id)
        self._verified[digest] = _Verified(account, until_s)
        self._verified.move_to_end(digest)
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)
        return account

    async def _ensure_account(self, session: AsyncSession, account: AccountId) -> None:
        if await session.get(AccountRow, account) is None:
            session.add(AccountRow(id=account, created_ms=self._clock()))
            await session.flush()

    def _row(self, key_id: KeyId, account: AccountId, name: str, key: str) -> ApiKeyRow:
        return ApiKeyRow(
            id=key_id,
            account_id=account,
            name=name,
            prefix=key[:PREFIX_CHARS],
            hash=_digest(key),
            created_ms=self._clock(),
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def _check_word(field: str, value: str, chars_max: int) -> None:
    if not value.strip() or len(value) > chars_max or not value.isprintable():
        message = f"must be 1 to {chars_max} printable characters"
        raise InvalidRequest(f"The {field} of a key {message}.", [FieldError(field, message)])


def _info(row: ApiKeyRow) -> KeyInfo:
    return KeyInfo(
        KeyId(row.id),
        AccountId(row.account_id),
        row.name,
        row.prefix,
        row.created_ms,
        row.revoked_ms,
    )
