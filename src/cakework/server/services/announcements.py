"""What those who change states announce, within the transaction of the change."""

from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.vms import Ending
from cakework.server.store.models import BuildRow, VmRow


class Announcements(Protocol):
    """Takes note of changes; they count when the caller's transaction commits."""

    async def build_ended(self, session: AsyncSession, row: BuildRow) -> None:
        """Note that a build has succeeded or failed."""
        ...

    async def vm_started(self, session: AsyncSession, row: VmRow) -> None:
        """Note that the program in a VM was started."""
        ...

    async def vm_stopped(self, session: AsyncSession, row: VmRow, ending: Ending) -> None:
        """Note that a run of a VM is over, once for each run; the next may have begun by then."""
        ...

    async def vm_destroyed(self, session: AsyncSession, row: VmRow) -> None:
        """Note that a VM is ended for good."""
        ...
