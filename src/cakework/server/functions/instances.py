"""Instances on record: found for work, made for it, given back, ended.

    starting ──▶ idle ◀──▶ busy ──▶ draining ──▶ (gone)
        └─────────────────────────────▲

An instance serves one version, and where its ``user_id`` is not empty that end user alone. It takes
no more work when it drains, and its VM is ended when it has none. It drains after so many
invocations, or so long, and goes when its version or settings are not those it was made with.
"""

import random
from dataclasses import dataclass

import structlog
from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import CakeworkError
from cakework.domain.functions import FunctionSettings, Isolation
from cakework.domain.ids import AccountId, VmId, new_vm_id
from cakework.domain.snapshots import SnapshotState
from cakework.domain.vms import Shape, VmRole, VmState
from cakework.server.clock import Clock
from cakework.server.functions.adapter import Adapter, NoAnswer
from cakework.server.functions.deploys import DeployLoop
from cakework.server.functions.functions import Functions
from cakework.server.functions.layers import layer_row
from cakework.server.functions.machines import Machines, ParentLost
from cakework.server.store.database import Database
from cakework.server.store.function_models import (
    FunctionRow,
    InstanceRow,
    InstanceState,
    LayerState,
    VersionRow,
)
from cakework.server.store.models import VmRow

SERVED_MAX = 1_000
LIFE_MS = 3_600_000
START_CLAIM_MS = 120_000
REMOVED_AT_ONCE = 200
_LIVE = (VmState.CREATED, VmState.STARTED)
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an instance has to be to take an invocation of ``user_id``."""

    function_id: str
    version: int
    isolation: Isolation
    user_id: str
    concurrency: int
    made_with: str

    @property
    def of_user(self) -> str:
        """Whose alone an instance has to be; empty for anybody's."""
        return "" if self.isolation is Isolation.FUNCTION else self.user_id


class Instances:
    """The instances of versions."""

    def __init__(
        self,
        database: Database,
        server_id: str,
        functions: Functions,
        machines: Machines,
        adapter: Adapter,
        deploys: DeployLoop,
        clock: Clock,
    ) -> None:
        """Keep records in ``database``, as the process ``server_id``."""
        self._database = database
        self._server_id = server_id
        self._functions = functions
        self._machines = machines
        self._adapter = adapter
        self._deploys = deploys
        self._clock = clock

    async def take(self, session: AsyncSession, wanted: Wanted) -> InstanceRow | None:
        """Take a place in an instance that is there, the one used last; None: there is none."""
        shared = and_(
            InstanceRow.state == InstanceState.BUSY, InstanceRow.running < wanted.concurrency
        )
        fits = [*_fits(wanted), or_(InstanceRow.state == InstanceState.IDLE, shared)]
        if wanted.isolation is Isolation.INVOCATION:
            fits.append(InstanceRow.served == 0)
        found = await session.scalar(
            select(InstanceRow.vm_id)
            .where(*fits)
            .order_by(InstanceRow.used_ms.desc())
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if found is None:
            return None
        return await session.scalar(
            update(InstanceRow)
            .where(InstanceRow.vm_id == found)
            .values(
                state=InstanceState.BUSY,
                running=InstanceRow.running + 1,
                served=InstanceRow.served + 1,
                used_ms=self._clock(),
            )
            .returning(InstanceRow)
            .execution_options(populate_existing=True)
        )

    async def give_back(self, session: AsyncSession, vm_id: str, *, again: bool) -> None:
        """Give a place back; an instance that is not to serve ``again`` drains."""
        row = await session.scalar(
            update(InstanceRow)
            .where(InstanceRow.vm_id == vm_id, InstanceRow.running > 0)
            .values(running=InstanceRow.running - 1, used_ms=self._clock())
            .returning(InstanceRow)
            .execution_options(populate_existing=True)
        )
        if row is None:
            return
        worn = row.served >= SERVED_MAX or self._clock() >= row.until_ms
        if not again or worn:
            row.state = InstanceState.DRAINING
        elif row.state == InstanceState.BUSY and not row.running:
            row.state = InstanceState.IDLE

    async def count(self, session: AsyncSession, function_id: str) -> int:
        """Return how many instances a function has, or is about to have."""
        query = select(func.count()).where(
            InstanceRow.function_id == function_id, InstanceRow.state != InstanceState.DRAINING
        )
        return await session.scalar(query) or 0

    async def starting(self, session: AsyncSession, wanted: Wanted) -> int:
        """Return how many are on their way that will fit."""
        query = select(func.count()).where(
            *_fits(wanted), InstanceRow.state == InstanceState.STARTING
        )
        return await session.scalar(query) or 0

    async def reserve(self, session: AsyncSession, wanted: Wanted) -> InstanceRow:
        """Record an instance that is about to be started, by this process."""
        now = self._clock()
        row = InstanceRow(
            vm_id=new_vm_id(),
            function_id=wanted.function_id,
            version=wanted.version,
            user_id=wanted.of_user,
            made_with=wanted.made_with,
            state=InstanceState.STARTING,
            running=0,
            served=0,
            claimed_by=self._server_id,
            claimed_until_ms=now + START_CLAIM_MS,
            used_ms=now,
            until_ms=now + round(LIFE_MS * random.uniform(0.9, 1.1)),  # noqa: S311 - no secret
        )
        session.add(row)
        await session.flush()
        return row

    async def start(self, row: InstanceRow, settings: FunctionSettings) -> None:
        """Start an instance that was reserved. Nothing is left of it when that fails.

        Raises:
            CakeworkError: it cannot be had now.
        """
        vm_id = VmId(row.vm_id)
        try:
            await self._begin(row, vm_id, settings)
        except BaseException:
            await self.remove(vm_id)
            raise
        async with self._database.writing() as session:
            await session.execute(
                update(InstanceRow)
                .where(InstanceRow.vm_id == vm_id, InstanceRow.state == InstanceState.STARTING)
                .values(
                    state=InstanceState.IDLE,
                    claimed_by=None,
                    claimed_until_ms=None,
                    used_ms=self._clock(),
                )
            )

    async def remove(self, vm_id: VmId) -> VmRow | None:
        """End an instance's VM, and forget it; returns the VM's record.

        Raises:
            Unavailable: the node does not answer; it drains.
        """
        async with self._database.writing() as session:
            await session.execute(
                update(InstanceRow)
                .where(InstanceRow.vm_id == vm_id)
                .values(state=InstanceState.DRAINING)
            )
        row = await self._machines.end(vm_id)
        async with self._database.writing() as session:
            await session.execute(delete(InstanceRow).where(InstanceRow.vm_id == vm_id))
        return row

    async def tidy(self) -> None:
        """End instances that are not needed any more."""
        for vm_id in await self._unneeded():
            try:
                await self.remove(VmId(vm_id))
            except CakeworkError as error:
                _log.info("instance.not_ended", vm_id=vm_id, detail=error.detail)

    async def _unneeded(self) -> list[str]:
        """Return which are to go: draining without work; without work for as long as they may be,
        beyond those that are kept warm; of another version or settings than are live; gone."""
        now = self._clock()
        resting = select(InstanceRow, VmRow.state).outerjoin(VmRow, VmRow.id == InstanceRow.vm_id)
        resting = resting.where(InstanceRow.running == 0).order_by(InstanceRow.used_ms)
        async with self._database.reading() as session:
            rows = [(row[0], row[1]) for row in await session.execute(resting)]
            ids = {row.function_id for row, _ in rows}
            found = await session.scalars(select(FunctionRow).where(FunctionRow.id.in_(ids)))
            functions = {row.id: row for row in found}
            counts = {each: await self.count(session, each) for each in functions}
        settings = {each: self._functions.settings(row) for each, row in functions.items()}
        unneeded: list[str] = []
        for row, state in rows:
            function = functions.get(row.function_id)
            if row.state == InstanceState.STARTING:
                goes = function is None or (row.claimed_until_ms or 0) < now
            elif function is None or row.state == InstanceState.DRAINING or state not in _LIVE:
                goes = True
            else:
                own = settings[function.id]
                current = (row.version, row.made_with) == (function.live_version, own.made_with)
                idle = row.used_ms < now - own.idle_timeout * 1000
                spare = counts[function.id] > own.min_instances
                goes = not current or now >= row.until_ms or (idle and spare)
                counts[function.id] -= goes
            if goes:
                unneeded.append(row.vm_id)
        return unneeded[:REMOVED_AT_ONCE]

    async def _begin(self, row: InstanceRow, vm_id: VmId, settings: FunctionSettings) -> None:
        async with self._database.reading() as session:
            version = await session.get(VersionRow, (row.function_id, row.version))
            function = await session.get(FunctionRow, row.function_id)
            if version is None or function is None:
                raise CakeworkError("The function is not there any more.")
            layer = await layer_row(session, version.layer_id)
        if version.shelved or layer.state != LayerState.READY:
            raise CakeworkError("Of the version the source alone is kept.")
        if await self._from_version(version, vm_id, settings):
            return
        shape = Shape(settings.cpu, settings.memory).rounded()
        runtime = await self._machines.runtime(layer, shape)
        if runtime.snapshot_state != SnapshotState.MADE:
            raise CakeworkError("The runtime's snapshot is being made.")
        await self._machines.fork(runtime, vm_id, VmRole.INSTANCE)
        code = await self._deploys.code_of(AccountId(function.account_id), version, settings)
        try:
            loaded = await self._adapter.load(vm_id, code)
        except NoAnswer as error:
            raise CakeworkError(f"The instance did not take its code: {error.detail}") from error
        if loaded.state != "ready":
            raise CakeworkError("The code cannot be imported any more.")

    async def _from_version(
        self, version: VersionRow, vm_id: VmId, settings: FunctionSettings
    ) -> bool:
        """Fork the version's snapshot, if it is there and fits; say whether that was done."""
        if version.vm_id is None or version.made_with != settings.made_with:
            return False
        parent = await self._machines.find(version.vm_id)
        if parent is None or parent.snapshot_state != SnapshotState.MADE:
            return False
        try:
            await self._machines.fork(parent, vm_id, VmRole.INSTANCE)
        except ParentLost:
            _log.warning(
                "version.snapshot_lost", function_id=version.function_id, version=version.number
            )
            await self._deploys.make_again(version)
            return False
        return True


def _fits(wanted: Wanted) -> list[ColumnElement[bool]]:
    return [
        InstanceRow.function_id == wanted.function_id,
        InstanceRow.version == wanted.version,
        InstanceRow.user_id == wanted.of_user,
        InstanceRow.made_with == wanted.made_with,
    ]
