"""VMs of functions that no record names any more: they are ended.

An instance or a version's VM is named by its row before it is asked for, and what ends it forgets
the row after. So one that no row names was left by what was broken off in between: a version that
was deleted while it was made, a snapshot that was lost and made anew in another VM.
"""

import structlog
from sqlalchemy import exists, select

from cakework.domain.errors import CakeworkError
from cakework.domain.ids import VmId
from cakework.domain.vms import VmRole, VmState
from cakework.server.clock import Clock
from cakework.server.functions.machines import Machines
from cakework.server.store.database import Database
from cakework.server.store.function_models import InstanceRow, InvocationRow, VersionRow
from cakework.server.store.models import VmRow

AT_ONCE = 100
AGE_MS = 60_000
"""So long a VM is left alone since it last changed."""
_log = structlog.stdlib.get_logger(__name__)


class Orphans:
    """Finds and ends them."""

    def __init__(self, database: Database, machines: Machines, clock: Clock) -> None:
        self._database = database
        self._machines = machines
        self._clock = clock

    async def one_pass(self) -> None:
        """End what nothing names. One that cannot be ended holds up no other."""
        instances = (VmRow.role == VmRole.INSTANCE) & ~(
            exists().where(InstanceRow.vm_id == VmRow.id)
            | exists().where(InvocationRow.vm_id == VmRow.id)
        )
        versions = (VmRow.role == VmRole.VERSION) & ~exists().where(VersionRow.vm_id == VmRow.id)
        query = (
            select(VmRow.id)
            .where(
                VmRow.state != VmState.DESTROYED,
                VmRow.updated_ms < self._clock() - AGE_MS,
                instances | versions,
            )
            .limit(AT_ONCE)
        )
        async with self._database.reading() as session:
            found = list(await session.scalars(query))
        for vm_id in found:
            try:
                await self._machines.end(VmId(vm_id))
                _log.info("function.orphan_ended", vm_id=vm_id)
            except CakeworkError as error:
                _log.info("function.orphan_not_ended", vm_id=vm_id, detail=error.detail)
