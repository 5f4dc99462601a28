"""The builds of an account: listed, and cancelled."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import select, tuple_

from cakework.domain.builds import BuildStatus
from cakework.domain.errors import CakeworkError, Conflict, NotFound
from cakework.domain.ids import AccountId, BuildId
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.node.client import NodeClient
from cakework.server.services.build_states import BuildStates
from cakework.server.store.database import Database
from cakework.server.store.models import BuildRow

PAGE = 100
CANCELLED = "The build was cancelled."
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BuildPlace:
    """A place in the list of builds: behind the build made at this time with this id."""

    created_ms: int
    build_id: BuildId


class AccountBuilds:
    """Lists and cancels builds."""

    def __init__(
        self, database: Database, node: NodeClient, states: BuildStates, hint: Callable[[], None]
    ) -> None:
        """``hint`` has the build loop end what the node could not be told to end."""
        self._database = database
        self._node = node
        self._states = states
        self._hint = hint

    async def page(
        self, account: AccountId, status: BuildStatus | None, after: BuildPlace | None
    ) -> tuple[list[BuildRow], BuildPlace | None]:
        """Return up to 100 builds, newest first, and the place where the next page goes on."""
        query = select(BuildRow).where(BuildRow.account_id == account)
        if status is not None:
            query = query.where(BuildRow.status == status)
        if after is not None:
            key = tuple_(BuildRow.created_ms, BuildRow.id)
            query = query.where(key < (after.created_ms, after.build_id))
        query = query.order_by(BuildRow.created_ms.desc(), BuildRow.id.desc()).limit(PAGE + 1)
        async with self._database.reading() as session:
            rows = list(await session.scalars(query))
        if len(rows) <= PAGE:
            return rows, None
        last = rows[PAGE - 1]
        return rows[:PAGE], BuildPlace(last.created_ms, BuildId(last.id))

    async def cancel(self, account: AccountId, build_id: BuildId) -> BuildRow:
        """End a build as failed; one that has failed stays as it is.

        The record comes first, so that the build loop ends it on the node whatever happens next.

        Raises:
            NotFound: the account has no such build.
            Conflict: it has succeeded.
        """
        async with self._database.writing() as session:
            row = await session.get(BuildRow, build_id)
            if row is None or row.account_id != account:
                raise NotFound(f"There is no build {build_id}.")
            ended = await self._states.failed(session, build_id, CANCELLED)
            row = await session.get_one(BuildRow, build_id, populate_existing=True)
        if row.status == BuildStatus.SUCCEEDED:
            raise Conflict("The build has succeeded.")
        self._states.tell([ended])
        if ended is not None:
            step(Step.BUILD_CANCELLED)
            await self._end_on_node(build_id)
        return row

    async def _end_on_node(self, build_id: BuildId) -> None:
        try:
            await self._node.cancel_build(build_id)
        except CakeworkError as error:
            _log.info("build.cancel_waits", build_id=build_id, detail=error.detail)
        self._hint()
