"""The build loop: hands over builds the node has not taken, and those it has lost, and ends
those that were cancelled.

A build that was taken, has not ended, and is not on the node's list may have ended a moment
ago, its fact still on the way. So it is handed over again only when it was missing in two
passes running; the order is the same, so a node that knows it does nothing. A node that was
restarted says itself which orders it wants again: those whose tokens it had in memory alone.
"""

import asyncio

import structlog
from sqlalchemy import select, update

from cakework.domain.builds import BuildStatus
from cakework.domain.errors import CakeworkError, NoRoom, Unavailable
from cakework.domain.ids import BuildId
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.node.client import NodeClient
from cakework.server.services.build_states import BuildStates
from cakework.server.services.builds import Builds
from cakework.server.services.spool import Spool
from cakework.server.store.database import Database
from cakework.server.store.models import BuildRow

_log = structlog.stdlib.get_logger(__name__)


class BuildLoop:
    """Sees to it that the node has every build that has not ended, and the spool no other."""

    def __init__(
        self,
        database: Database,
        node: NodeClient,
        spool: Spool,
        builds: Builds,
        states: BuildStates,
    ) -> None:
        """Compare ``database`` and ``spool`` with ``node``."""
        self._database = database
        self._node = node
        self._spool = spool
        self._builds = builds
        self._states = states
        self._missing: set[BuildId] = set()

    async def one_pass(self) -> None:
        """Clear the spool of ended builds, then hand over what the node should have."""
        await self._clear_spool()
        unaccepted = await self._unfinished(accepted=False)
        for build_id in unaccepted:
            await self._hand_over(build_id)
        reports = await self._node.builds()
        known = {BuildId(report.build_id) for report in reports}
        wanted = {BuildId(report.build_id) for report in reports if report.wants_order}
        accepted = await self._unfinished(accepted=True)
        await self._end_cancelled(known)
        missing = set(accepted) - known - set(unaccepted)
        for build_id in missing & self._missing | wanted & set(accepted):
            _log.warning("build.lost_by_node", build_id=build_id)
            await self._hand_over(build_id)
        self._missing = missing - self._missing

    async def _end_cancelled(self, known: set[BuildId]) -> None:
        """End on the node what has failed on record: it was cancelled."""
        if not known:
            return
        query = select(BuildRow.id).where(
            BuildRow.id.in_(known), BuildRow.status == BuildStatus.FAILED
        )
        async with self._database.reading() as session:
            failed = list(await session.scalars(query))
        for build_id in failed:
            await self._node.cancel_build(BuildId(build_id))

    async def _unfinished(self, *, accepted: bool) -> list[BuildId]:
        query = (
            select(BuildRow.id)
            .where(BuildRow.status == BuildStatus.CREATED, BuildRow.accepted == accepted)
            .order_by(BuildRow.created_ms, BuildRow.id)
        )
        async with self._database.reading() as session:
            return [BuildId(build_id) for build_id in await session.scalars(query)]

    async def _hand_over(self, build_id: BuildId) -> None:
        order = await asyncio.to_thread(self._spool.get, build_id)
        if order is None:
            await self._fail(build_id, "The build's order was lost; start the build again.")
            return
        try:
            await self._node.build(build_id, order)
            step(Step.BUILD_ORDERED)
        except (Unavailable, NoRoom):
            raise
        except CakeworkError as error:
            _log.warning("build.refused", build_id=build_id, code=error.code, detail=error.detail)
            await self._fail(build_id, error.detail)
            return
        async with self._database.writing() as session:
            await session.execute(
                update(BuildRow).where(BuildRow.id == build_id).values(accepted=True)
            )
        step(Step.BUILD_ACCEPTED)
        _log.info("build.handed_over", build_id=build_id)

    async def _fail(self, build_id: BuildId, error: str) -> None:
        async with self._database.writing() as session:
            row = await self._states.failed(session, build_id, error)
        self._states.tell([row])

    async def _clear_spool(self) -> None:
        kept = await asyncio.to_thread(lambda: set(self._spool.kept()))
        arriving = set(self._builds.arriving)
        async with self._database.reading() as session:
            unfinished = await session.scalars(
                select(BuildRow.id).where(BuildRow.status == BuildStatus.CREATED)
            )
            needed = {BuildId(build_id) for build_id in unfinished} | arriving
        for build_id in kept - needed - self._builds.arriving:
            await asyncio.to_thread(self._spool.remove, build_id)
