"""Logs of VMs and builds: a page of one, or all of it as it grows."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import ColumnElement, false, func, select

from cakework.domain.errors import QuotaExceeded
from cakework.domain.ids import AccountId, BuildId, VmId
from cakework.domain.snapshots import SnapshotState
from cakework.domain.vms import VmState
from cakework.server.logs.followers import Followers
from cakework.server.logs.lines import Line, LineQuery, Page, build_source, vm_source
from cakework.server.logs.search import Bounds
from cakework.server.logs.store import LogStore
from cakework.server.services.builds import Builds
from cakework.server.services.vms import Vms
from cakework.server.store.database import Database
from cakework.server.store.models import BuildRow, VmRow
from cakework.turns import Crowded, Turns

HEARTBEAT_S = 15.0
FOLLOWED_AT_ONCE = 4000
TURN_S = 20.0
"""Longest that a page waits for those that the account asked for before."""
RETRY_AFTER_S = 5
FOLLOW_BATCH = 500
FOLLOWED = Bounds(chars=64 * 1024)
"""Of each log that is followed, so much waits in memory for whoever reads slowly."""


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
        most_followed: int,
        *,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """Read lines from ``store``; ``followers`` tells when one grows.

        An account may follow ``most_followed`` logs at once.
        """
        self._database = database
        self._store = store
        self._followers = followers
        self._heartbeat_s = heartbeat_s
        self._followed: Turns[AccountId] = Turns(FOLLOWED_AT_ONCE, each=most_followed)

    async def page(
        self,
        account: AccountId,
        query: LineQuery,
        render: Callable[[Page, tuple[int, int] | None], bytes],
    ) -> bytes:
        """Return what ``render`` makes of the lines that answer a query, as far as one call looks;
        where there are more, it gets the times of the log's first and last line, too. It is called
        in a thread.

        Raises:
            QuotaExceeded: too many searches of the account are under way.
        """
        try:
            async with asyncio.timeout(TURN_S):
                return await self._store.answer(query, account, render)
        except (TimeoutError, Crowded) as error:
            raise QuotaExceeded(
                "The account has as many searches in logs under way as it may.",
                retry_after_s=RETRY_AFTER_S,
            ) from error

    def check_followed(self, account: AccountId) -> None:
        """Refuse an account that follows as many logs as it may. Raises QuotaExceeded."""
        if self._followed.whose([account]) is None:
            raise QuotaExceeded(
                "The account follows as many logs as it may.", retry_after_s=RETRY_AFTER_S
            )

    async def follow(
        self, account: AccountId, log: Log, query: LineQuery
    ) -> AsyncGenerator[list[Line] | Quiet]:
        """Yield the lines that answer ``query``, oldest first, as they come.

        Ends when the log is whole. Holds one batch at a time: who reads slowly has the rest
        wait in the store.

        Raises:
            QuotaExceeded: the account follows as many logs as it may.
        """
        query = replace(query, batch=FOLLOW_BATCH)
        with self.counted(account), self._followers.follow(query.source) as changed:
            while not self._followers.closing:
                changed.clear()
                whole = await self._is_whole(log)
                try:
                    page = await self._store.page(query, account, FOLLOWED)
                except Crowded:
                    await asyncio.sleep(RETRY_AFTER_S)
                    continue
                query = replace(query, after=max(page.through, query.after or 0))
                if page.lines:
                    yield page.lines
                if page.more:
                    continue
                if whole:
                    return
                if not await _within(changed, self._heartbeat_s):
                    yield "quiet"

    @contextmanager
    def counted(self, account: AccountId) -> Generator[None]:
        """Count one who follows while the block runs. Raises QuotaExceeded."""
        self.check_followed(account)
        self._followed.take(account)
        try:
            yield
        finally:
            self._followed.give_back(account)

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
