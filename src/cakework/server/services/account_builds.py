"""The builds of an account: listed, and cancelled."""

from collections.abc import Callable

import structlog
from sqlalchemy import select

from cakework.domain.builds import BuildStatus
from cakework.domain.errors import CakeworkError, Conflict, NotFound
from cakework.domain.ids import AccountId, BuildId
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.node.client import NodeClient
from cakework.server.services.build_states import BuildStates
from cakework.server.store.database import Database
from cakework.server.store.models import BuildRow
from cakework.server.store.pages import Place, cut, newest_first

CANCELLED = "The build was cancelled."
_log = structlog.stdlib.get_logger(__name__)


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
        self, account: AccountId, status: BuildStatus | None, after: Place | None
    ) -> tuple[list[BuildRow], Place | None]:
        """Return up to 100 builds, newest first, and the place where the next page goes on."""
        query = select(BuildRow).where(BuildRow.account_id == account)
        if status is not None:
            query = query.where(BuildRow.status == status)
        query = newest_first(query, BuildRow.created_ms, BuildRow.id, after)
        async with self._database.reading() as session:
            rows = list(await session.scalars(query))
        return cut(rows, lambda row: Place(row.created_ms, row.id))

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
