"""API keys for the command line, straight on the store: no server needs to run."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from cakework.domain.ids import AccountId, KeyId
from cakework.server.services.keys import DEFAULT_ACCOUNT, CreatedKey, KeyInfo, Keys
from cakework.server.store.database import Database, database_url
from cakework.settings import Settings


async def create_key(
    settings: Settings, *, account: str = DEFAULT_ACCOUNT, name: str
) -> CreatedKey:
    """Make a key for ``account``; the only time the key itself is seen.

    Raises:
        InvalidRequest: ``name`` or ``account`` is empty or too long.
    """
    async with _keys(settings) as keys:
        return await keys.create(name, AccountId(account))


async def list_keys(settings: Settings) -> list[KeyInfo]:
    """Return every key, oldest first, revoked ones too."""
    async with _keys(settings) as keys:
        return await keys.list()


async def revoke_key(settings: Settings, key_id: KeyId) -> KeyInfo:
    """Make a key invalid; a server that runs refuses it at most two seconds later.

    Raises:
        NotFound: there is no such key.
    """
    async with _keys(settings) as keys:
        return await keys.revoke(key_id)


@asynccontextmanager
async def _keys(settings: Settings) -> AsyncGenerator[Keys]:
    settings.server_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(database_url(settings))
    try:
        await database.open()
        yield Keys(database)
    finally:
        await database.close()
