"""Instances on record: found for work, made for it, given back, ended.

    starting ──▶ idle ◀──▶ busy ──▶ draining ──▶ (gone)
        └─────────────────────────────▲

An instance serves one version, and where its ``user_id`` is not empty that end user alone. It takes
no more work when it drains, and its VM is ended when it has none. It drains after so many
invocations, or so long, and goes when its version or settings are not those it was made with.
"""

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cakework.domain.errors import CakeworkError, QuotaExceeded, Unavailable
from cakework.domain.functions import FunctionSettings, Isolation
from cakework.domain.ids import AccountId, VmId, new_vm_id
from cakework.domain.invocations import InvocationState
from cakework.domain.snapshots import SnapshotState
from cakework.domain.steps import Step
from cakework.domain.vms import Shape, VmRole, VmState
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.functions.adapter import Adapter, NoAnswer
from cakework.server.functions.deploys import DeployLoop
from cakework.server.functions.functions import Functions
from cakework.server.functions.leases import CLAIM_MS, renewing
from cakework.server.functions.machines import Machines, ParentLost
from cakework.server.functions.marks import note_vm
from cakework.server.functions.secrets import Secrets, sees, views_of
from cakework.server.store.database import Database
from cakework.server.store.function_models import (
    FunctionRow,
    InstanceRow,
    InstanceState,
    InvocationRow,
    LayerRow,
    LayerState,
    VersionRow,
)
from cakework.server.store.models import VmRow

SERVED_MAX = 1_000
LIFE_MS = 3_600_000
CRASH_TOLD_S = 3.0
"""How long a VM that broke off without a word may take to end by itself, and to say why: its
sockets are closed some time before, when it had much memory to give back."""
REMOVED_AT_ONCE = 200
TAKEN_WITHIN_MS = 2_000
TURN = 20
"""Invocations after which a function's only instance may have to go for the first of another."""
_LIVE = (VmState.CREATED, VmState.STARTED)
_AT_WORK = or_(InstanceRow.state != InstanceState.DRAINING, InstanceRow.running > 0)
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
        secrets: Secrets,
        clock: Clock,
    ) -> None:
        """Keep records in ``database``, as the process ``server_id``."""
        self._database = database
        self._server_id = server_id
        self._functions = functions
        self._machines = machines
        self._adapter = adapter
        self._deploys = deploys
        self._secrets = secrets
        self._clock = clock
        self._seen_gone: set[str] = set()

    def take(self, session: Session, wanted: Wanted) -> InstanceRow | None:
        """Take a place in an instance that is there, the one used last; None: there is none."""
        shared = and_(
            InstanceRow.state == InstanceState.BUSY, InstanceRow.running < wanted.concurrency
        )
        fits = [*_fits(wanted), or_(InstanceRow.state == InstanceState.IDLE, shared)]
        if wanted.isolation is Isolation.INVOCATION:
            fits.append(InstanceRow.served == 0)
        fits += [InstanceRow.served < SERVED_MAX, InstanceRow.until_ms > self._clock()]
        found = (
            select(InstanceRow.vm_id)
            .where(*fits)
            .order_by(InstanceRow.used_ms.desc())
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        return session.scalar(
            update(InstanceRow)
            .where(InstanceRow.vm_id == found.scalar_subquery())
            .values(
                state=InstanceState.BUSY,
                running=InstanceRow.running + 1,
                served=InstanceRow.served + 1,
                used_ms=self._clock(),
                **self._claim(),
            )
            .returning(InstanceRow)
            .execution_options(populate_existing=True)
        )

    def give_back(self, session: Session, vm_id: str, *, again: bool) -> InstanceRow | None:
        """Give a place back; an instance that is not to serve ``again`` drains.

        Returns it, None if it is gone.
        """
        row = session.scalar(
            update(InstanceRow)
            .where(InstanceRow.vm_id == vm_id, InstanceRow.running > 0)
            .values(running=InstanceRow.running - 1, used_ms=self._clock())
            .returning(InstanceRow)
            .execution_options(populate_existing=True)
        )
        if row is None:
            return None
        worn = row.served >= SERVED_MAX or self._clock() >= row.until_ms
        if not again or worn:
            row.state = InstanceState.DRAINING
        elif row.state == InstanceState.BUSY and not row.running:
            row.state = InstanceState.IDLE
        return row

    def count(self, session: Session, function_id: str) -> int:
        """Return how many instances a function has at work, at hand, or on their way."""
        query = select(func.count()).where(InstanceRow.function_id == function_id, _AT_WORK)
        return session.scalar(query) or 0

    def counted(self) -> Select[str, int]:
        """Return what tells of each function that has some: ``function_id`` and ``count``."""
        count = func.count().label("count")
        query = select(InstanceRow.function_id, count).where(_AT_WORK)
        return query.group_by(InstanceRow.function_id)

    def coming(self, session: Session, wanted: Wanted, soon_free: Collection[str] = ()) -> int:
        """Return how many will fit that are on their way, or have arrived and are not taken yet,
        or are among those that are ``soon_free``."""
        there = InstanceRow.state == InstanceState.IDLE
        if wanted.isolation is Isolation.INVOCATION:
            there = there & (InstanceRow.served == 0)
        elif soon_free:
            again = InstanceRow.vm_id.in_(soon_free) & (InstanceRow.served < SERVED_MAX)
            there = there | (again & (InstanceRow.state == InstanceState.BUSY))
        query = select(func.count()).where(
            *_fits(wanted), or_(InstanceRow.state == InstanceState.STARTING, there)
        )
        return session.scalar(query) or 0

    def make_way(self, session: Session, wanted: Wanted) -> None:
        """Have an instance of the function go that serves others, when there may be no more and
        none serves these: one without work, or else one of whose are most."""
        ours = InstanceRow.function_id == wanted.function_id
        rows = list(session.scalars(select(InstanceRow).where(ours).order_by(InstanceRow.used_ms)))
        if any(row.state == InstanceState.DRAINING or _serves(row, wanted) for row in rows):
            return
        idle = [row for row in rows if row.state == InstanceState.IDLE and row.served]
        busy = [row for row in rows if row.state == InstanceState.BUSY]
        counts = Counter(row.user_id for row in busy)
        busy.sort(key=lambda row: -counts[row.user_id])
        for row in [*idle, *busy][:1]:
            row.state = InstanceState.DRAINING

    def reserve(self, session: Session, wanted: Wanted) -> InstanceRow:
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
            used_ms=now,
            **self._claim(),
            until_ms=now + round(LIFE_MS * random.uniform(0.9, 1.1)),  # noqa: S311 - no secret
        )
        session.add(row)
        note_vm(session, row.vm_id, row.function_id, row.version, now)
        return row

    async def start(self, row: InstanceRow, settings: FunctionSettings) -> None:
        """Start an instance that was reserved. Nothing is left of it when that fails.

        Raises:
            CakeworkError: it cannot be had now.
        """
        vm_id = VmId(row.vm_id)
        step(Step.SERVER_INSTANCE_RESERVED)
        try:
            async with renewing(lambda: self.renew([vm_id])):
                await self._begin(row, vm_id, settings)
        except BaseException:
            await self.remove(vm_id)
            raise
        step(Step.SERVER_INSTANCE_STARTED)
        arrived = (
            update(InstanceRow)
            .where(InstanceRow.vm_id == vm_id, InstanceRow.state == InstanceState.STARTING)
            .values(
                state=InstanceState.IDLE,
                claimed_by=None,
                claimed_until_ms=None,
                used_ms=self._clock(),
            )
        )
        await self._database.together(lambda session: session.execute(arrived) and None)

    async def remove(self, vm_id: VmId, wait_s: float = 0.0) -> VmRow | None:
        """End an instance's VM, and forget it; returns the VM's record.

        One that seems to have ended by itself is given ``wait_s`` seconds to say how.

        Raises:
            Unavailable: the node does not answer; it drains.
        """
        async with self._database.writing() as session:
            await session.execute(
                update(InstanceRow)
                .where(InstanceRow.vm_id == vm_id)
                .values(state=InstanceState.DRAINING)
            )
        row = await self._machines.end(vm_id, wait_s)
        step(Step.SERVER_INSTANCE_ENDED)
        async with self._database.writing() as session:
            await session.execute(delete(InstanceRow).where(InstanceRow.vm_id == vm_id))
        return row

    async def renew(self, vm_ids: Collection[str]) -> None:
        """Keep what this process has work in, or is starting."""
        async with self._database.writing() as session:
            await session.execute(
                update(InstanceRow).where(InstanceRow.vm_id.in_(vm_ids)).values(**self._claim())
            )

    def _claim(self) -> dict[str, Any]:
        return {"claimed_by": self._server_id, "claimed_until_ms": self._clock() + CLAIM_MS}

    async def tidy(self) -> None:
        """End instances that are not needed any more."""
        await self._count_again()
        for vm_id in await self._database.look(self._unneeded):
            try:
                await self._retire(VmId(vm_id))
            except CakeworkError as error:
                _log.info("instance.not_ended", vm_id=vm_id, detail=error.detail)

    async def hang_up(self) -> None:
        """Break off what leads to VMs that were gone a pass ago: what they had sent has come.

        Not with :meth:`tidy`, which may wait long for the ends of others.
        """
        async with self._database.reading() as session:
            gone = await gone_of(session, self._adapter.connected)
        self._adapter.hang_up(gone & self._seen_gone)
        self._seen_gone = gone

    async def _count_again(self) -> None:
        """Correct what a process that is gone had counted: places of attempts that have ended."""
        under_way = (
            select(func.count())
            .where(
                InvocationRow.vm_id == InstanceRow.vm_id,
                InvocationRow.state == InvocationState.RUNNING,
            )
            .correlate(InstanceRow)
            .scalar_subquery()
        )
        nobodys = or_(
            InstanceRow.claimed_by.is_(None), InstanceRow.claimed_until_ms < self._clock()
        )
        which = [nobodys, InstanceRow.leased_by.is_(None), InstanceRow.running > under_way]
        async with self._database.reading() as session:
            found = list(await session.scalars(select(InstanceRow.vm_id).where(*which)))
        if not found:
            return
        async with self._database.writing() as session:
            # What the attempt had left to do after its answer may go on: it serves no other.
            await session.execute(
                update(InstanceRow)
                .where(InstanceRow.vm_id.in_(found), *which)
                .values(running=under_way, state=InstanceState.DRAINING)
                .execution_options(synchronize_session=False)
            )

    async def make_room(self, row: VmRow, error: CakeworkError) -> bool:
        """Have an instance without work go for a VM that was refused for want of room: the one used
        longest ago, of the VM's account if that has as much as it may. Say whether one has gone.

        Where all have work, the first instance of a function gets one's place that is busy.
        """
        account = row.account_id if isinstance(error, QuotaExceeded) else None
        for vm_id in await self._database.look(lambda session: self._spare(session, account)):
            try:
                if await self._retire(VmId(vm_id)):
                    return True
            except CakeworkError as failed:
                _log.info("instance.not_ended", vm_id=vm_id, detail=failed.detail)
        await self._database.together(lambda session: self._take_turns(session, row, account))
        return False

    def _spare(self, session: Session, account: str | None) -> list[str]:
        """Return instances without work, but for those that are kept warm; used last comes last."""
        query = select(InstanceRow, FunctionRow.min_instances).join(
            FunctionRow, FunctionRow.id == InstanceRow.function_id
        )
        # What was started a moment ago is about to be taken by whom it was started for.
        resting = or_(InstanceRow.served > 0, InstanceRow.used_ms < self._clock() - TAKEN_WITHIN_MS)
        idle = and_(InstanceRow.state == InstanceState.IDLE, InstanceRow.running == 0, resting)
        query = query.where(idle).order_by(InstanceRow.used_ms)
        if account is not None:
            query = query.where(FunctionRow.account_id == account)
        spare: list[str] = []
        left: dict[str, int] = {}
        for instance, kept in session.execute(query):
            function_id = instance.function_id
            left.setdefault(function_id, self.count(session, function_id) - kept)
            if left[function_id] > 0:
                left[function_id] -= 1
                spare.append(instance.vm_id)
        return spare

    def _take_turns(self, session: Session, row: VmRow, account: str | None) -> None:
        """Have an instance drain for a function that has none: one of the function that has most;
        where all have one, one that has had its turn."""
        starting = session.get(InstanceRow, row.id)
        if starting is None or self.count(session, starting.function_id) > 1:
            return
        query = select(InstanceRow).where(InstanceRow.state != InstanceState.STARTING)
        if account is not None:
            query = query.join(FunctionRow, FunctionRow.id == InstanceRow.function_id)
            query = query.where(FunctionRow.account_id == account)
        others = list(session.scalars(query))
        counts = Counter(each.function_id for each in others)
        if any(each.state == InstanceState.DRAINING for each in others):
            return
        busy = [each for each in others if each.state == InstanceState.BUSY]
        busy.sort(key=lambda each: (counts[each.function_id], each.served))
        if busy and (counts[busy[-1].function_id] > 1 or busy[-1].served >= TURN):
            busy[-1].state = InstanceState.DRAINING

    async def _retire(self, vm_id: VmId) -> bool:
        """End an instance that has no work, unless it was given some; say whether that was done."""

        def work(session: Session) -> bool:
            drains = (
                update(InstanceRow)
                .where(InstanceRow.vm_id == vm_id, InstanceRow.running == 0)
                .values(state=InstanceState.DRAINING)
                .returning(InstanceRow.vm_id)
            )
            return session.scalar(drains) is not None

        if not await self._database.together(work):
            return False
        await self.remove(vm_id)
        return True

    def _unneeded(self, session: Session) -> list[str]:
        """Return which are to go: draining without work; without work for as long as they may be,
        beyond those that are kept warm; of another version or settings than are live; gone."""
        now = self._clock()
        resting = select(InstanceRow, VmRow.state).outerjoin(VmRow, VmRow.id == InstanceRow.vm_id)
        resting = resting.where(InstanceRow.running == 0).order_by(InstanceRow.used_ms)
        rows = [(row[0], row[1]) for row in session.execute(resting)]
        if not rows:
            return []
        ids = {row.function_id for row, _ in rows}
        found = session.scalars(select(FunctionRow).where(FunctionRow.id.in_(ids)))
        functions = {row.id: row for row in found}
        counts = {each: self.count(session, each) for each in functions}
        settings = {each: self._functions.settings(row) for each, row in functions.items()}
        asked = {
            sees(functions[row.function_id], settings[row.function_id], row.user_id)
            for row, _ in rows
            if row.function_id in functions
        }
        views = views_of(session, asked)
        unneeded: list[str] = []
        for row, state in rows:
            function = functions.get(row.function_id)
            if row.state == InstanceState.STARTING:
                goes = function is None or (row.claimed_until_ms or 0) < now
            elif function is None or row.state == InstanceState.DRAINING or state not in _LIVE:
                goes = True
            else:
                own = settings[function.id]
                made_with = views[sees(function, own, row.user_id)].made_with(own)
                current = (row.version, row.made_with) == (function.live_version, made_with)
                idle = row.used_ms < now - own.idle_timeout * 1000
                spare = counts[function.id] > own.min_instances
                goes = not current or now >= row.until_ms or (idle and spare)
                counts[function.id] -= goes
            if goes:
                unneeded.append(row.vm_id)
        return unneeded[:REMOVED_AT_ONCE]

    async def _begin(self, row: InstanceRow, vm_id: VmId, settings: FunctionSettings) -> None:
        def look(session: Session) -> tuple[VersionRow, FunctionRow, LayerRow, VmRow | None]:
            version = session.get(VersionRow, (row.function_id, row.version))
            function = session.get(FunctionRow, row.function_id)
            layer = session.get(LayerRow, version.layer_id) if version is not None else None
            if version is None or function is None or layer is None:
                raise CakeworkError("The function is not there any more.")
            made = version.vm_id
            return version, function, layer, session.get(VmRow, made) if made else None

        version, function, layer, parent = await self._database.look(look)
        if version.shelved or layer.state != LayerState.READY:
            raise CakeworkError("Of the version the source alone is kept.")
        who = sees(function, settings, row.user_id)
        if await self._from_version(version, parent, vm_id, settings):
            await self._secrets.give(vm_id, who, settings, row.made_with)
            return
        shape = Shape(settings.cpu, settings.memory).rounded()
        runtime = await self._machines.runtime(layer, shape)
        if runtime.snapshot_state == SnapshotState.FAILED:
            raise CakeworkError(f"The runtime could not be started: {runtime.snapshot_error}")
        if runtime.snapshot_state != SnapshotState.MADE:
            raise Unavailable("The runtime's snapshot is being made.")
        try:
            await self._machines.fork(runtime, vm_id, VmRole.INSTANCE, settings.egress)
        except ParentLost as error:
            raise Unavailable(error.detail) from error
        code = await self._deploys.code_of(AccountId(function.account_id), version, settings)
        if settings.secrets_at_init:
            await self._secrets.give(vm_id, who, settings, row.made_with)
        try:
            loaded = await self._adapter.load(vm_id, code)
        except NoAnswer as error:
            raise CakeworkError(f"The instance did not take its code: {error.detail}") from error
        if loaded.state != "ready":
            raise CakeworkError("The code cannot be imported any more.")
        if not settings.secrets_at_init:
            await self._secrets.give(vm_id, who, settings, row.made_with)

    async def _from_version(
        self, version: VersionRow, parent: VmRow | None, vm_id: VmId, settings: FunctionSettings
    ) -> bool:
        """Fork the version's snapshot, if it is there and fits; say whether that was done."""
        if not settings.has_snapshot or version.made_with != settings.made_with:
            return False
        if parent is None or parent.snapshot_state != SnapshotState.MADE:
            return False
        try:
            await self._machines.fork(parent, vm_id, VmRole.INSTANCE, settings.egress)
        except ParentLost:
            _log.warning(
                "version.snapshot_lost", function_id=version.function_id, version=version.number
            )
            await self._deploys.make_again(version)
            return False
        return True


def _serves(row: InstanceRow, wanted: Wanted) -> bool:
    kind = (row.version, row.user_id, row.made_with)
    return kind == (wanted.version, wanted.of_user, wanted.made_with)


async def gone_of(session: AsyncSession, vm_ids: Collection[str]) -> set[str]:
    """Return which of some VMs have ended."""
    if not vm_ids:
        return set()
    live = select(VmRow.id).where(VmRow.id.in_(vm_ids), VmRow.state.in_(_LIVE))
    return set(vm_ids) - set(await session.scalars(live))


def _fits(wanted: Wanted) -> list[ColumnElement[bool]]:
    return [
        InstanceRow.function_id == wanted.function_id,
        InstanceRow.version == wanted.version,
        InstanceRow.user_id == wanted.of_user,
        InstanceRow.made_with == wanted.made_with,
        InstanceRow.leased_by.is_(None),
    ]
