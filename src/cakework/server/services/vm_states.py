"""Every change of a VM's state, in one place: rows change here, and who watches is told after.

A change applies only where the life of a VM allows it (see domain/vms.py), so an answer that
comes late, or twice, changes nothing.
"""

from collections.abc import Iterable
from dataclasses import replace

from sqlalchemy import ColumnElement, case, func, literal, null, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.ids import VmId
from cakework.domain.orders import VmReport
from cakework.domain.snapshots import SnapshotState
from cakework.domain.vms import Ending, Life, VmState, sources
from cakework.server.clock import Clock
from cakework.server.logs.followers import Followers
from cakework.server.logs.lines import vm_source
from cakework.server.services.announcements import Announcements
from cakework.server.services.routes import Routes
from cakework.server.store.models import VmRow
from cakework.server.store.values import not_before, storable


class VmStates:
    """Changes the state of VMs within a caller's transaction; ``tell()`` after it committed."""

    def __init__(
        self, routes: Routes, followers: Followers, announcements: Announcements, clock: Clock
    ) -> None:
        """Tell ``routes`` and ``followers`` of changes; announce them to ``announcements``."""
        self._announcements = announcements
        self._routes = routes
        self._followers = followers
        self._clock = clock

    async def begin_run(
        self, session: AsyncSession, vm_id: VmId, token: str | None
    ) -> VmRow | None:
        """Note that a cached VM is to be started once more; returns the row.

        ``token`` names the idempotent request that asked for it.
        """
        begun: dict[str, object] = {
            "wanted": VmState.STARTED,
            "run": VmRow.run + 1,
            "start_token": token,
            "log_complete": False,
            "rest_reason": None,
        }
        return await self._move(session, VmRow.cached & _is(vm_id), VmState.CREATED, begun)

    async def not_started(self, session: AsyncSession, vm_id: VmId, run: int) -> VmRow | None:
        """Note that the node refused a run of a cached VM; it is as it was before."""
        values: dict[str, object] = {"wanted": _after_stop(), "log_complete": True}
        refused = _is(vm_id) & VmRow.cached & (VmRow.run == run) & (VmRow.state == VmState.CREATED)
        return await self._move(session, refused, VmState.STOPPED, values)

    async def started(self, session: AsyncSession, vm_id: VmId, run: int) -> VmRow | None:
        """Note that the program was started; returns the row, None when there is none."""
        values: dict[str, object] = {
            "reason": None,
            "exit_code": None,
            "cause": None,
            "memory_kept": False,
            "env_sealed": _env_if_cached(),
        }
        row = await self._move(session, _is_run(vm_id, run), VmState.STARTED, values)
        if row is not None:
            await self._announcements.vm_started(session, row)
        return row or await session.get(VmRow, vm_id)

    async def stopped(
        self,
        session: AsyncSession,
        vm_id: VmId,
        run: int,
        ending: Ending,
        *,
        log_complete: bool = False,
    ) -> VmRow | None:
        """Note that the VM is gone, as far as is known; ``ended`` is to follow with the facts.

        ``log_complete`` says that nothing more is to come for its log. Returns the row.
        """
        values: dict[str, object] = {
            "reason": _reason(ending),
            "exit_code": ending.exit_code,
            "cause": ending.cause,
            "wanted": _after_stop(),
            "env_sealed": _env_if_cached(),
        }
        if ending.memory_kept is not None:
            values["memory_kept"] = _kept_if_cached(ending)
        if log_complete:
            values["log_complete"] = True
        row = await self._move(session, _is_run(vm_id, run), VmState.STOPPED, values)
        if row is not None and log_complete:
            await self._announce(session, row, ending)
        return row or await session.get(VmRow, vm_id)

    async def ended(
        self, session: AsyncSession, vm_id: VmId, run: int, ending: Ending
    ) -> VmRow | None:
        """Note how a run ended, by its node's own account, and that its log is whole.

        That replaces what was noted before, whatever state the VM is in by now; when a later
        run has begun it changes nothing. Returns the row.
        """
        row = await self.stopped(session, vm_id, run, ending)
        if row is None:
            return None
        news = row.run > run or not row.log_complete
        if row.run <= run:
            row.log_complete = True
            row.reason = _reason_of(row, ending)
            row.exit_code, row.cause = ending.exit_code, ending.cause
            row.memory_kept = bool(ending.memory_kept) and row.cached and _is_stopped(row)
        if news:
            await self._announce(session, row, ending)
        return row

    async def destroyed(
        self, session: AsyncSession, vm_id: VmId, report: VmReport | None
    ) -> VmRow | None:
        """Note that the VM is ended for good; its environment is forgotten.

        ``report`` says how its run ended, if that was ended for this.
        """
        gone: dict[str, object] = {
            "wanted": VmState.DESTROYED,
            "env_sealed": None,
            "memory_kept": False,
        }
        if report is not None and report.reason is not None:
            gone |= {
                "reason": storable(report.reason),
                "exit_code": report.exit_code,
                "cause": report.cause,
            }
        row = await self._move(session, _is(vm_id), VmState.DESTROYED, gone)
        if row is not None:
            await self._announcements.vm_destroyed(session, row)
        return row or await session.get(VmRow, vm_id)

    async def resting(self, session: AsyncSession, vm_id: VmId, run: int, reason: str) -> None:
        """Note why a run is about to be ended with its memory kept, if it can be."""
        which = _is(vm_id) & (VmRow.run == run) & (VmRow.state == VmState.STARTED)
        await session.execute(update(VmRow).where(which).values(rest_reason=reason))

    def tell(self, rows: Iterable[VmRow | None]) -> None:
        """Show rows, as they were committed, to everyone who watches."""
        for row in rows:
            if row is not None:
                self._routes.show(row)
                self._followers.wake([vm_source(row.id)])

    async def _announce(self, session: AsyncSession, row: VmRow, ending: Ending) -> None:
        told = replace(ending, reason=_reason_of(row, ending))
        await self._announcements.vm_stopped(session, row, told)

    async def _move(
        self,
        session: AsyncSession,
        which: ColumnElement[bool],
        target: VmState,
        values: dict[str, object],
    ) -> VmRow | None:
        """Change the VM if it is one of ``which`` and has an arrow to ``target``."""
        return await session.scalar(
            update(VmRow)
            .where(which, VmRow.state.in_(sources(target)))
            .values(state=target, updated_ms=not_before(VmRow.updated_ms, self._clock()), **values)
            .returning(VmRow)
            .execution_options(populate_existing=True)
        )


def life_of(row: VmRow) -> Life:
    """Return what decides about the VM of a record."""
    snapshot = SnapshotState(row.snapshot_state) if row.snapshot_state else None
    return Life(row.cached, VmState(row.state), VmState(row.wanted), row.run, snapshot)


def _reason_of(row: VmRow, ending: Ending) -> str:
    """Why a run ended: why it was asked to, if it was with its memory kept."""
    return (row.rest_reason if ending.memory_kept else None) or storable(ending.reason)


def _reason(ending: Ending) -> ColumnElement[str]:
    reason = literal(storable(ending.reason))
    return func.coalesce(VmRow.rest_reason, reason) if ending.memory_kept else reason


def _kept_if_cached(ending: Ending) -> ColumnElement[bool]:
    return VmRow.cached & bool(ending.memory_kept)


def _is_stopped(row: VmRow) -> bool:
    return row.state == VmState.STOPPED


def _is(vm_id: VmId) -> ColumnElement[bool]:
    return VmRow.id == vm_id


def _is_run(vm_id: VmId, run: int) -> ColumnElement[bool]:
    """Of an earlier run than the record's nothing counts any more."""
    return _is(vm_id) & (VmRow.run <= run)


def _after_stop() -> ColumnElement[str]:
    """A cached VM that was to run is content to be stopped."""
    content = VmRow.cached & (VmRow.wanted == VmState.STARTED)
    return case((content, VmState.STOPPED.value), else_=VmRow.wanted)


def _env_if_cached() -> ColumnElement[bytes | None]:
    """Only a cached VM is started again, and needs its environment for that."""
    return case((VmRow.cached, VmRow.env_sealed), else_=null())
