"""The import loop: ends imports on record that the node knows nothing of.

The node keeps what it knows of an import for days, so one that it does not know never reached
it, or went with its data folder. An import that a request is at work on is left alone.
"""

import structlog
from sqlalchemy import select

from cakework.domain.errors import NotFound
from cakework.domain.ids import ImageId
from cakework.domain.imports import ImportStatus
from cakework.server.node.client import NodeClient
from cakework.server.services.import_states import ImportStates
from cakework.server.services.imports import Imports
from cakework.server.store.database import Database
from cakework.server.store.models import ImportRow

LOST = "the import was interrupted; import the image again"
_log = structlog.stdlib.get_logger(__name__)


class ImportLoop:
    """Compares the records of unfinished imports with the node."""

    def __init__(
        self, database: Database, node: NodeClient, imports: Imports, states: ImportStates
    ) -> None:
        """Compare ``database`` with ``node``."""
        self._database = database
        self._node = node
        self._imports = imports
        self._states = states

    async def one_pass(self) -> None:
        """Compare once."""
        query = select(ImportRow.id).where(ImportRow.status == ImportStatus.IMPORTING)
        async with self._database.reading() as session:
            unfinished = [ImageId(found) for found in await session.scalars(query)]
        for image_id in unfinished:
            if not self._imports.claims.held(image_id):
                async with self._imports.claims.hold(image_id):
                    await self._settle(image_id)

    async def _settle(self, image_id: ImageId) -> None:
        try:
            await self._node.find_import(image_id)
        except NotFound:
            _log.warning("import.lost", image_id=image_id)
            async with self._database.writing() as session:
                row = await self._states.failed(session, image_id, LOST)
            self._states.tell([row])
