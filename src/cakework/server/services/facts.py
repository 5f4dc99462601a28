"""Facts of a node's journal, applied once each.

Lines go to the log store and changes of state to the database, each together with its own
cursor in one transaction, so that a crash between the two leaves one of them behind and the
other knows what it has. Lines are stored first: who sees that a VM stopped finds its whole log.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.facts import (
    AnyFact,
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


_VmChange = VmStarted | VmStopped | SnapshotMade | SnapshotFailed
_Change = _VmChange | BuildSucceeded | BuildFailed | ImportSucceeded | ImportFailed


class Facts:
    """Applies facts to the stores, and tells who watches."""

    def __init__(
        self,
        database: Database,
        logs: LogStore,
        followers: Followers,
        states: States,
        build_ended: Callable[[], None],
    ) -> None:
        """Apply to ``database`` and ``logs``; ``build_ended`` is called when a build has ended."""
        self._database = database
        self._logs = logs
        self._followers = followers
        self._states = states
        self._build_ended = build_ended

    async def cursor(self, node_id: str) -> int:
        """Return the cursor up to which every fact of the node's journal is applied.

        It may be lower than what was acknowledged: the database notes its cursor only with
        changes of state, and lines that came after them are known to the log store alone.
        """
        return min(await self._logs.cursor(node_id), await self._applied(node_id))

    async def apply(self, node_id: str, facts: Sequence[AnyFact], cursor: int) -> None:
        """Apply facts, in the journal's order, that end at ``cursor``; they are durable then.

        Facts at or below a store's own cursor are left out there.
        """
        lines = [fact for fact in facts if isinstance(fact, VmLine | BuildLine)]
        self._followers.wake(await self._logs.append(node_id, cursor, lines))
        changes = [fact for fact in facts if not isinstance(fact, VmLine | BuildLine)]
        if changes:
            step(Step.FACTS_LINES_STORED)
            await self._apply_changes(node_id, changes, cursor)
            step(Step.FACTS_STORED)

    async def _applied(self, node_id: str) -> int:
        async with self._database.reading() as session:
            query = select(NodeCursorRow.cursor).where(NodeCursorRow.node_id == node_id)
            return await session.scalar(query) or 0

    async def _apply_changes(self, node_id: str, changes: Sequence[_Change], cursor: int) -> None:
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
                ending = Ending(fact.reason, fact.exit_code, fact.memory_kept)
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
