"""What those who change states announce, within the transaction of the change."""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cakework.domain.vms import Ending
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.function_models import VersionRow
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

    async def version_ended(self, session: AsyncSession, row: VersionRow) -> None:
        """Note that a version of a function is ready, or has failed."""
        ...

    def invocations_ended(self, session: Session, ids: Sequence[str]) -> None:
        """Note which invocations have ended, of whatever accounts and however they did."""
        ...

    def trigger_paused(self, session: Session, row: TriggerRow) -> None:
        """Note that a trigger has paused itself."""
        ...


class All:
    """Tells several of each change, one after the other."""

    def __init__(self, *others: Announcements) -> None:
        """Tell ``others``; more may be added before the first change."""
        self.others = list(others)

    async def build_ended(self, session: AsyncSession, row: BuildRow) -> None:
        """Note that a build has succeeded or failed."""
        for other in self.others:
            await other.build_ended(session, row)

    async def vm_started(self, session: AsyncSession, row: VmRow) -> None:
        """Note that the program in a VM was started."""
        for other in self.others:
            await other.vm_started(session, row)

    async def vm_stopped(self, session: AsyncSession, row: VmRow, ending: Ending) -> None:
        """Note that a run of a VM is over."""
        for other in self.others:
            await other.vm_stopped(session, row, ending)

    async def vm_destroyed(self, session: AsyncSession, row: VmRow) -> None:
        """Note that a VM is ended for good."""
        for other in self.others:
            await other.vm_destroyed(session, row)

    async def version_ended(self, session: AsyncSession, row: VersionRow) -> None:
        """Note that a version of a function is ready, or has failed."""
        for other in self.others:
            await other.version_ended(session, row)

    def invocations_ended(self, session: Session, ids: Sequence[str]) -> None:
        """Note which invocations have ended."""
        for other in self.others:
            other.invocations_ended(session, ids)

    def trigger_paused(self, session: Session, row: TriggerRow) -> None:
        """Note that a trigger has paused itself."""
        for other in self.others:
            other.trigger_paused(session, row)
