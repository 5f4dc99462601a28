"""The layers of accounts: dependencies as images, built once for each digest.

A layer is recorded with the first version that needs it; its build is one of the account's, asked
for by the deploy loop and begun once.
"""

import base64
from collections.abc import Mapping

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import InvalidRequest
from cakework.domain.functions import Runtime
from cakework.domain.ids import AccountId, new_build_id, new_layer_id
from cakework.domain.orders import ContextFile, FilesSource
from cakework.runtimes import adapter_files
from cakework.server.clock import Clock
from cakework.server.functions.dependencies import Layer, layer_of
from cakework.server.functions.sources import Source
from cakework.server.services.builds import NewBuild
from cakework.server.store.function_models import LayerRow, LayerState


class Layers:
    """Finds and records layers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._adapters: dict[Runtime, Mapping[str, bytes]] = {}

    def of(self, runtime: Runtime, source: Source, fresh: str | None = None) -> Layer:
        """Return the layer that ``source`` needs. Blocks. Raises InvalidRequest."""
        if runtime is Runtime.IMAGE:
            raise InvalidRequest("A function of the runtime image brings its server, and no code.")
        if runtime not in self._adapters:
            self._adapters[runtime] = adapter_files(runtime)
        return layer_of(runtime, source, self._adapters[runtime], fresh)

    async def record(self, session: AsyncSession, account: AccountId, layer: Layer) -> LayerRow:
        """Return the record of a layer; one that failed is tried again."""
        now = self._clock()
        key = (
            (LayerRow.account_id == account)
            & (LayerRow.runtime == layer.runtime)
            & (LayerRow.digest == layer.digest)
        )
        row = await session.scalar(
            update(LayerRow).where(key).values(used_ms=now).returning(LayerRow)
        )
        if row is None:
            row = LayerRow(
                id=new_layer_id(),
                account_id=account,
                runtime=layer.runtime,
                digest=layer.digest,
                state=LayerState.BUILDING,
                build_id=new_build_id(),
                used_ms=now,
                created_ms=now,
            )
            session.add(row)
            await session.flush()
        elif row.state in (LayerState.FAILED, LayerState.GONE):
            await self.again(session, row)
        return row

    async def again(self, session: AsyncSession, row: LayerRow) -> None:
        """Have a layer built anew: it failed, or its image is gone."""
        row.state, row.error, row.image_id = LayerState.BUILDING, None, None
        row.build_id, row.used_ms = new_build_id(), self._clock()
        await session.flush()


async def layer_row(session: AsyncSession, layer_id: str) -> LayerRow:
    """Return the record of a layer that a version has."""
    return (await session.scalars(select(LayerRow).where(LayerRow.id == layer_id))).one()


def build_of(layer: Layer) -> NewBuild:
    """Return the build that makes a layer's image. Blocks if the files are many."""
    files = [
        ContextFile(path=path, content_base64=base64.b64encode(content).decode())
        for path, content in layer.files.items()
    ]
    return NewBuild(layer.dockerfile, FilesSource(files=files))
