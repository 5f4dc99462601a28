"""Logs of VMs and builds: a page of one, or all of it as it grows."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import ColumnElement, false, func, select

from cakework.domain.ids import AccountId, BuildId, VmId
from cakework.domain.snapshots import SnapshotState
from cakework.domain.vms import VmState
from cakework.server.logs.followers import Followers
from cakework.server.logs.lines import Line, LineQuery, Page, build_source, vm_source
from cakework.server.logs.store import LogStore
from cakework.server.services.builds import Builds
from cakework.server.services.vms import Vms
from cakework.server.store.database import Database
from cakework.server.store.models import BuildRow, VmRow

HEARTBEAT_S = 15.0
FOLLOW_BATCH = 500


@dataclass(frozen=True, slots=True)
class VmLog:
    """The log of a VM."""

    vm_id: VmId


@dataclass(frozen=True, slots=True)
class BuildLog:
    """The log of a build."""

    build_id: BuildId


Log = VmLog | BuildLog
Quiet = Literal["quiet"]
"""Nothing came for a while; the log goes on."""


class Logs:
    """Reads the logs of accounts."""

    def __init__(
        self,
        database: Database,
        store: LogStore,
        followers: Followers,
        *,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """Read lines from ``store``; ``followers`` tells when one grows."""
        self._database = database
        self._store = store
        self._followers = followers
        self._heartbeat_s = heartbeat_s

    async def page(self, query: LineQuery) -> Page:
        """Return the lines that answer a query."""
        return await self._store.page(query)

    async def span(self, query: LineQuery) -> tuple[int, int] | None:
        """Return the times of the log's first and last line; None when it has none."""
        return await self._store.span(query.source)

    async def follow(self, log: Log, query: LineQuery) -> AsyncGenerator[list[Line] | Quiet]:
        """Yield the lines that answer ``query``, oldest first, as they come.

        Ends when the log is whole. Holds one batch at a time: who reads slowly has the rest
        wait in the store.
        """
        query = replace(query, batch=FOLLOW_BATCH)
        with self._followers.follow(query.source) as changed:
            while not self._followers.closing:
                changed.clear()
                whole = await self._is_whole(log)
                page = await self._store.page(query)
                query = replace(query, after=max(page.through, query.after or 0))
                if page.lines:
                    yield page.lines
                if page.more:
                    continue
                if whole:
                    return
                if not await _within(changed, self._heartbeat_s):
                    yield "quiet"

    @property
    def closing(self) -> bool:
        """Whether following ends because the server is going away."""
        return self._followers.closing

    async def _is_whole(self, log: Log) -> bool:
        if isinstance(log, VmLog):
            query = select(vm_log_complete()).where(VmRow.id == log.vm_id)
        else:
            query = select(BuildRow.log_complete).where(BuildRow.id == log.build_id)
        async with self._database.reading() as session:
            return await session.scalar(query) is not False


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Owners:
    """Finds whose a log is."""

    vms: Vms
    builds: Builds

    async def check(self, account: AccountId, log: Log) -> LineQuery:
        """Return the query for every line of a log of the account.

        Raises:
            NotFound: the account has no such VM or build.
        """
        if isinstance(log, VmLog):
            await self.vms.get(account, log.vm_id)
            return LineQuery(vm_source(log.vm_id))
        await self.builds.get(account, log.build_id)
        return LineQuery(build_source(log.build_id))


def vm_log_complete() -> ColumnElement[bool]:
    """Whether no more lines are to come: of no run, nor while its snapshot is made."""
    making = (VmRow.snapshot_state == SnapshotState.MAKING) & (VmRow.state != VmState.DESTROYED)
    return VmRow.log_complete & ~func.coalesce(making, false())
