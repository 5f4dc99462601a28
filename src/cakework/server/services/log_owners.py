"""Whose logs are: the log file is asked to keep lines, and has to know for whom."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select

from cakework.server.logs.lines import Source, build_source, function_source, vm_source
from cakework.server.store.database import Database
from cakework.server.store.function_models import FunctionVmRow
from cakework.server.store.models import BuildRow, VmRow


class LogOwners:
    """Finds the accounts that logs belong to."""

    def __init__(self, database: Database) -> None:
        """Look in ``database``."""
        self._database = database

    async def find(self, sources: Sequence[Source]) -> Mapping[Source, str]:
        """Return the accounts of logs; those of VMs and builds not on record are left out."""
        ids = [source.name.partition(":")[2] for source in sources]
        vms = select(VmRow.id, VmRow.account_id).where(VmRow.id.in_(ids))
        builds = select(BuildRow.id, BuildRow.account_id).where(BuildRow.id.in_(ids))
        async with self._database.reading() as session:
            owners = {vm_source(vm_id): whose for vm_id, whose in await session.execute(vms)}
            found = await session.execute(builds)
            owners |= {build_source(build_id): whose for build_id, whose in found}
        return owners

    async def functions(self, sources: Sequence[Source]) -> Mapping[Source, Source]:
        """Return the functions' logs that logs are part of; those of none are left out."""
        ids = [source.vm_id for source in sources if source.vm_id]
        query = select(FunctionVmRow.vm_id, FunctionVmRow.function_id)
        async with self._database.reading() as session:
            found = await session.execute(query.where(FunctionVmRow.vm_id.in_(ids)))
        return {vm_source(vm_id): function_source(function_id) for vm_id, function_id in found}
