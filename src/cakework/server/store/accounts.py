"""Accounts as the store locks them, so that two requests at once are counted one by one."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.ids import AccountId
from cakework.server.store.models import AccountRow


async def lock_account(session: AsyncSession, account: AccountId) -> None:
    """Have others who lock the account wait until this transaction ends.

    On SQLite that is so already: a writing session has the whole database to itself.
    """
    if session.get_bind().dialect.name != "sqlite":
        locked = select(AccountRow.id).where(AccountRow.id == account).with_for_update()
        await session.execute(locked)
