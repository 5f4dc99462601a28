"""What a node tells, applied once each: changes of state, and lines.

Changes go to the database, together with the journal's cursor in one transaction. Lines go to the
log store, which knows by their numbers which ones it has. The node tells that a log has ended when
its lines are acknowledged: who sees that a VM stopped finds its whole log.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.facts import (
    AnyChange,
    AnyFact,
    AnyLine,
    BuildFailed,
    BuildLine,
    BuildSucceeded,
    ImportFailed,
    ImportSucceeded,
    SnapshotFailed,
    SnapshotMade,
    VmLine,
    VmStarted,
    VmStopped,
)
from cakework.domain.ids import BuildId, VmId
from cakework.domain.steps import Step
from cakework.domain.vms import Ending
from cakework.faults import step
from cakework.server.logs.followers import Followers
from cakework.server.logs.store import LogStore
from cakework.server.services.build_states import BuildStates
from cakework.server.services.import_states import ImportStates
from cakework.server.services.snapshot_states import SnapshotStates
from cakework.server.services.vm_states import VmStates
from cakework.server.store.database import Database
from cakework.server.store.models import BuildRow, ImportRow, NodeCursorRow, VmRow


@dataclass(frozen=True, slots=True)
class States:
    """Who records what became of VMs, their snapshots, builds and imports."""

    vms: VmStates
    snapshots: SnapshotStates
    builds: BuildStates
    imports: ImportStates


Masked = Callable[[Sequence[AnyLine]], Awaitable[Sequence[AnyLine]]]
_VmChange = VmStarted | VmStopped | SnapshotMade | SnapshotFailed


class Facts:
    """Applies facts to the stores, and tells who watches."""

    def __init__(
        self,
        database: Database,
        logs: LogStore,
        followers: Followers,
        states: States,
        build_ended: Callable[[], None],
        masked: Masked,
    ) -> None:
        """Apply to ``database`` and ``logs``; ``build_ended`` is called when a build has ended.

        ``masked`` takes secrets out of lines before these are stored.
        """
        self._database = database
        self._logs = logs
        self._followers = followers
        self._states = states
        self._build_ended = build_ended
        self._masked = masked

    async def cursor(self, node_id: str) -> int:
        """Return the cursor up to which every fact of the node's journal is applied."""
        async with self._database.reading() as session:
            query = select(NodeCursorRow.cursor).where(NodeCursorRow.node_id == node_id)
            return await session.scalar(query) or 0

    async def keep(self, lines: Sequence[AnyLine]) -> None:
        """Store lines, each log's in order; they are durable then. Those it has are left out."""
        self._followers.wake(await self._logs.append(await self._masked(lines)))
        step(Step.FACTS_LINES_STORED)

    async def apply(self, node_id: str, facts: Sequence[AnyFact], cursor: int) -> None:
        """Apply facts, in the journal's order, that end at ``cursor``; they are durable then.

        Changes at or below the cursor that is on record are left out. Journals of earlier versions
        have lines in them, before the changes that end their logs.
        """
        if lines := [fact for fact in facts if isinstance(fact, VmLine | BuildLine)]:
            await self.keep(lines)
        changes = [fact for fact in facts if not isinstance(fact, VmLine | BuildLine)]
        if changes:
            await self._apply_changes(node_id, changes, cursor)
            step(Step.FACTS_STORED)

    async def _apply_changes(self, node_id: str, changes: Sequence[AnyChange], cursor: int) -> None:
        vms: list[VmRow | None] = []
        builds: list[BuildRow | None] = []
        imports: list[ImportRow | None] = []
        async with self._database.writing() as session:
            mark = await session.get(NodeCursorRow, node_id)
            if mark is None:
                mark = NodeCursorRow(node_id=node_id, cursor=0)
                session.add(mark)
            for fact in changes:
                if fact.cursor <= mark.cursor:
                    continue
                if isinstance(fact, _VmChange):
                    vms.append(await self._change_vm(session, fact))
                elif isinstance(fact, ImportSucceeded | ImportFailed):
                    imports.append(await self._states.imports.apply(session, fact))
                else:
                    builds.append(await self._change_build(session, fact))
            mark.cursor = max(mark.cursor, cursor)
        self._states.vms.tell(vms)
        self._states.builds.tell(builds)
        self._states.imports.tell(imports)
        if any(builds):
            self._build_ended()

    async def _change_vm(self, session: AsyncSession, fact: _VmChange) -> VmRow | None:
        vm_id = VmId(fact.vm_id)
        match fact:
            case VmStarted():
                return await self._states.vms.started(session, vm_id, fact.run)
            case VmStopped():
                ending = Ending(fact.reason, fact.exit_code, fact.memory_kept, fact.cause)
                return await self._states.vms.ended(session, vm_id, fact.run, ending)
            case _:
                return await self._states.snapshots.apply(session, fact)

    async def _change_build(
        self, session: AsyncSession, fact: BuildSucceeded | BuildFailed
    ) -> BuildRow | None:
        build_id = BuildId(fact.build_id)
        if isinstance(fact, BuildSucceeded):
            return await self._states.builds.succeeded(session, build_id, fact.size_bytes)
        return await self._states.builds.failed(session, build_id, fact.error)
