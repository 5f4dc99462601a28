"""What functions leave behind, and what is kept of them: the keeping loop.

| What | Stays | Then |
|---|---|---|
| versions: layer and snapshot | the live one, the newest five | shelved: the source alone is kept |
| versions: source | the live one, the newest fifty; fewer where an account has much | retired |
| versions: record | the newest 250 numbers | removed |
| sources, layers | as long as something names them | removed; a layer's runtimes and image, too |
| runtimes | a day from their last use | ended, and made again when they are wanted |
| VMs of functions | as long as their version, layer or instance names them | ended |
| invocations that ended | 14 days, dead letters 30, what was skipped one; fewer of much | removed |
| what waits for a deleted function | not at all | canceled |

Each step takes what it finds on record and no more than so much of it; what a crash left anywhere
is found by the next pass, since a thing is named by its record before it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import ColumnElement, delete, exists, func, select, true, update

from cakework.domain.builds import BuildStatus
from cakework.domain.errors import CakeworkError, Conflict, NotFound, Unavailable
from cakework.domain.functions import VersionState
from cakework.domain.ids import AccountId, ImageId, VmId
from cakework.domain.invocations import FINAL, STARTABLE, InvocationState, Reason
from cakework.domain.snapshots import SnapshotState
from cakework.domain.vms import VmRole, VmState
from cakework.server.clock import Clock
from cakework.server.functions.invocations import Endings
from cakework.server.functions.machines import Machines
from cakework.server.functions.sources import Sources
from cakework.server.services.images import Images
from cakework.server.store.accounts import lock_account
from cakework.server.store.database import Database
from cakework.server.store.function_models import (
    FunctionRow,
    InstanceRow,
    InvocationRow,
    LayerRow,
    LayerState,
    RuntimeVmRow,
    SecretRow,
    SourceRow,
    TrialRow,
    VersionRow,
)
from cakework.server.store.models import BuildRow, VmRow
from cakework.server.store.values import not_before

READY_KEPT = 5
RECORDS_KEPT = 250
AT_ONCE = 200
"""Of each kind, in one pass."""
INVOCATIONS_AT_ONCE = 2_000
ROUNDS = 20
"""So often as many in one pass: more than can come between two."""
INVOCATIONS_PER_ACCOUNT = 100_000
"""Records of ended invocations, beyond which the oldest go before their time."""
UNNAMED_MS = 3_600_000
"""For which what nobody names may be about to be named."""
RUNTIME_UNUSED_MS = 24 * 3_600_000
RUNTIME_FAILED_MS = 60_000
DAY_MS = 24 * 3_600_000
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeptOfFunctions:
    """How many versions of a function keep their source, and for how many days (0: any number);
    days that records of invocations are kept after their end, and MiB that an account's take."""

    versions: int
    version_days: int
    invocation_days: int
    dead_letter_days: int
    invocations_mb: int


class KeepingLoop:
    """Removes what is over of functions."""

    def __init__(
        self,
        database: Database,
        sources: Sources,
        machines: Machines,
        images: Images,
        endings: Endings,
        kept: KeptOfFunctions,
        clock: Clock,
    ) -> None:
        """Remove from ``database`` what is more than ``kept``, and VMs through ``machines``."""
        self._database = database
        self._sources = sources
        self._machines = machines
        self._images = images
        self._endings = endings
        self._kept = kept
        self._clock = clock

    async def one_pass(self, at_ms: int | None = None) -> None:
        """Remove what is over now, or at ``at_ms``. What takes the node comes last."""
        now = self._clock() if at_ms is None else at_ms
        await self._cancel_orphans(now)
        await self._shelve(now)
        await self._retire(now)
        await self._forget_versions()
        await self._forget_invocations(now)
        await self._forget_secrets()
        async with self._database.writing() as session:
            await self._sources.forget_unused(session, now - UNNAMED_MS)
        await self._forget_runtimes(now)
        await self._end_unnamed()
        await self._forget_layers(now)

    async def _cancel_orphans(self, now: int) -> None:
        """End what waits for a function that was deleted while it was taken."""
        there = exists().where(FunctionRow.id == InvocationRow.function_id)
        waiting = select(InvocationRow.id).where(InvocationRow.state.in_(STARTABLE), ~there)
        async with self._database.writing() as session:
            ids = list(await session.scalars(waiting.limit(AT_ONCE)))
            await session.execute(
                update(InvocationRow)
                .where(InvocationRow.id.in_(ids), InvocationRow.state.in_(STARTABLE))
                .values(
                    state=InvocationState.CANCELED,
                    reason=Reason.FUNCTION_DELETED,
                    ended_ms=now,
                    updated_ms=not_before(InvocationRow.updated_ms, now),
                )
            )
            running = InvocationRow.state == InvocationState.RUNNING
            await session.execute(
                update(InvocationRow)
                .where(running, ~InvocationRow.cancel, ~there)
                .values(cancel=True, reason=Reason.FUNCTION_DELETED)
            )
        for each in ids:
            self._endings.tell(each)

    async def _shelve(self, now: int) -> None:
        """Keep of older versions nothing but their source."""
        ready = _Ranked((VersionState.READY,))
        found = await self._versions(ready, READY_KEPT, ~VersionRow.shelved)
        for account, function_id, number in found:
            await self._leave(account, function_id, number, VersionState.READY, now)

    async def _retire(self, now: int) -> None:
        """Keep of the oldest versions not even that."""
        ended = _Ranked((VersionState.READY, VersionState.FAILED))
        found = list(await self._versions(ended, self._kept.versions, true()))
        if self._kept.version_days:
            before = now - self._kept.version_days * DAY_MS
            found += await self._versions(ended, READY_KEPT, VersionRow.since_ms < before)
        for account in await self._crowded():
            theirs = FunctionRow.account_id == account
            gone = VersionRow.shelved | (VersionRow.state == VersionState.FAILED)
            found += await self._versions(ended, 0, theirs & gone)
        for account, function_id, number in found:
            await self._leave(account, function_id, number, VersionState.RETIRED, now)

    async def _versions(
        self, ranked: "_Ranked", most: int, which: ColumnElement[bool]
    ) -> Sequence[tuple[str, str, int]]:
        """Return account, function and number of versions that are not live, beyond the ``most``
        newest of each function; the oldest first."""
        query = (
            select(FunctionRow.account_id, VersionRow.function_id, VersionRow.number)
            .join(FunctionRow, FunctionRow.id == VersionRow.function_id)
            .join(
                ranked.table,
                (ranked.table.c.function_id == VersionRow.function_id)
                & (ranked.table.c.number == VersionRow.number),
            )
            .where(
                ranked.table.c.place > most,
                VersionRow.number != func.coalesce(FunctionRow.live_version, 0),
                which,
            )
            .order_by(VersionRow.since_ms)
            .limit(AT_ONCE)
        )
        async with self._database.reading() as session:
            return [(row[0], row[1], row[2]) for row in await session.execute(query)]

    async def _crowded(self) -> list[str]:
        """Return the accounts that have nearly as much code as they may."""
        query = (
            select(SourceRow.account_id)
            .group_by(SourceRow.account_id)
            .having(func.sum(SourceRow.bytes) > self._sources.bytes_max * 3 // 4)
        )
        async with self._database.reading() as session:
            return list(await session.scalars(query))

    async def _leave(
        self, account: str, function_id: str, number: int, state: VersionState, now: int
    ) -> None:
        """Shelve a version, or retire it; not while it is live, used, or promised to work."""
        pinned = exists().where(
            InvocationRow.function_id == function_id,
            InvocationRow.version == number,
            InvocationRow.state.not_in(FINAL),
        )
        used = exists().where(InstanceRow.function_id == function_id, InstanceRow.version == number)
        changed: dict[str, object] = {"state": state, "shelved": True}
        if state is VersionState.RETIRED:
            changed["error"] = None
        async with self._database.writing() as session:
            # Invocations are taken, and versions promoted, under these.
            await lock_account(session, AccountId(account))
            function = await session.get(FunctionRow, function_id, with_for_update=True)
            if function is None or function.live_version == number:
                return
            await session.execute(
                update(VersionRow)
                .where(
                    VersionRow.function_id == function_id,
                    VersionRow.number == number,
                    VersionRow.state.in_((VersionState.READY, VersionState.FAILED)),
                    VersionRow.claimed_by.is_(None),
                    ~pinned,
                    ~used,
                )
                .values(
                    vm_id=None,
                    made_with=None,
                    snapshot_error=None,
                    updated_ms=not_before(VersionRow.updated_ms, now),
                    **changed,
                )
            )

    async def _forget_versions(self) -> None:
        """Remove records of versions of which nothing is left."""
        last = (
            select(FunctionRow.last_version)
            .where(FunctionRow.id == VersionRow.function_id)
            .scalar_subquery()
        )
        old = select(VersionRow.function_id, VersionRow.number).where(
            VersionRow.state == VersionState.RETIRED, VersionRow.number <= last - RECORDS_KEPT
        )
        async with self._database.writing() as session:
            for function_id, number in (await session.execute(old.limit(AT_ONCE))).all():
                await session.execute(
                    delete(VersionRow).where(
                        VersionRow.function_id == function_id, VersionRow.number == number
                    )
                )

    async def _forget_invocations(self, now: int) -> None:
        """Remove records of invocations that ended long ago, or that are very many."""
        row, ended = InvocationRow, InvocationRow.ended_ms
        dead = (
            (row.kind == "queued")
            & row.state.in_((InvocationState.FAILED, InvocationState.EXPIRED))
            & row.settled_ms.is_(None)
        )
        over = (
            (row.state == InvocationState.SKIPPED) & (ended < now - DAY_MS),
            ~dead & (ended < now - self._kept.invocation_days * DAY_MS),
            ended < now - self._kept.dead_letter_days * DAY_MS,
        )
        for which in over:
            await self._remove_invocations(which)
        async with self._database.reading() as session:
            counted = select(row.account_id).where(ended.is_not(None)).group_by(row.account_id)
            counted = counted.having(func.count() > INVOCATIONS_PER_ACCOUNT)
            accounts = list(await session.scalars(counted))
        for account in accounts:
            theirs = (row.account_id == account) & ended.is_not(None)
            place = (
                select(ended)
                .where(theirs)
                .order_by(ended.desc())
                .offset(INVOCATIONS_PER_ACCOUNT - 1)
            )
            oldest = place.limit(1).scalar_subquery()
            await self._remove_invocations(theirs & (ended < oldest))
        await self._forget_much()

    async def _forget_much(self) -> None:
        """Remove the oldest invocations of accounts whose take nearly as much as they may."""
        row, most = InvocationRow, (self._kept.invocations_mb << 20) * 3 // 4
        size = func.sum(row.kept_bytes)
        heavy = select(row.account_id, size).group_by(row.account_id).having(size > most)
        async with self._database.reading() as session:
            found = [(each[0], int(each[1])) for each in await session.execute(heavy)]
        for account, kept in found:
            theirs = (row.account_id == account) & row.ended_ms.is_not(None)
            ended = select(row.ended_ms, row.kept_bytes).where(theirs).order_by(row.ended_ms)
            last, over = 0, kept - most
            async with self._database.reading() as session:
                for each in await session.execute(ended.limit(INVOCATIONS_AT_ONCE * ROUNDS)):
                    if over <= 0:
                        break
                    last, over = each[0], over - each[1]
            await self._remove_invocations(theirs & (row.ended_ms <= last))

    async def _remove_invocations(self, which: ColumnElement[bool]) -> None:
        for _ in range(ROUNDS):
            if await self._remove_some(which) < INVOCATIONS_AT_ONCE:
                return

    async def _remove_some(self, which: ColumnElement[bool]) -> int:
        query = select(InvocationRow.id).where(which, InvocationRow.state.in_(FINAL))
        async with self._database.reading() as session:
            ids = list(await session.scalars(query.limit(INVOCATIONS_AT_ONCE)))
        for start in range(0, len(ids), AT_ONCE):
            async with self._database.writing() as session:
                some = InvocationRow.id.in_(ids[start : start + AT_ONCE])
                # A trial is of an invocation, and goes first: with what it may have begun.
                tried = exists().where(TrialRow.id == InvocationRow.id)
                await session.execute(delete(InvocationRow).where(some, ~tried))
        return len(ids)

    async def _forget_secrets(self) -> None:
        there = exists().where(FunctionRow.id == SecretRow.function_id)
        async with self._database.writing() as session:
            await session.execute(delete(SecretRow).where(SecretRow.function_id != "", ~there))

    async def _forget_runtimes(self, now: int) -> None:
        """Forget runtimes that were not used for long, and those that could not be started."""
        failed = exists().where(
            VmRow.id == RuntimeVmRow.vm_id, VmRow.snapshot_state == SnapshotState.FAILED
        )
        over = (RuntimeVmRow.used_ms < now - RUNTIME_UNUSED_MS) | (
            failed & (RuntimeVmRow.used_ms < now - RUNTIME_FAILED_MS)
        )
        async with self._database.writing() as session:
            await session.execute(delete(RuntimeVmRow).where(over))

    async def _end_unnamed(self) -> None:
        """End the VMs that nothing on record names."""
        named = {
            VmRole.VERSION: exists().where(VersionRow.vm_id == VmRow.id),
            VmRole.RUNTIME: exists().where(RuntimeVmRow.vm_id == VmRow.id),
            VmRole.INSTANCE: exists().where(InstanceRow.vm_id == VmRow.id),
        }
        for role, name in named.items():
            unnamed = select(VmRow.id).where(
                VmRow.role == role, VmRow.wanted != VmState.DESTROYED, ~name
            )
            async with self._database.reading() as session:
                ids = list(await session.scalars(unnamed.limit(AT_ONCE)))
            for vm_id in ids:
                await self._end(vm_id)

    async def _end(self, vm_id: str) -> None:
        try:
            await self._machines.end(VmId(vm_id))
        except Unavailable:
            # It is wanted to be destroyed, which is done once the node answers.
            return
        except CakeworkError as error:
            _log.warning("keeping.not_ended", vm_id=vm_id, detail=error.detail)

    async def _forget_layers(self, now: int) -> None:
        await self._mark_layers(now)
        gone = select(LayerRow).where(LayerRow.state == LayerState.GONE).limit(AT_ONCE)
        async with self._database.reading() as session:
            layers = list(await session.scalars(gone))
        for layer in layers:
            if layer.image_id is not None:
                await self._remove_image(layer)
        named = (
            exists().where(VersionRow.layer_id == LayerRow.id)
            | exists().where(TrialRow.layer_id == LayerRow.id)
            | exists().where(RuntimeVmRow.layer_id == LayerRow.id)
        )
        async with self._database.writing() as session:
            await session.execute(
                delete(LayerRow).where(
                    LayerRow.state == LayerState.GONE,
                    LayerRow.image_id.is_(None),
                    LayerRow.used_ms < now - UNNAMED_MS,
                    ~named,
                )
            )

    async def _mark_layers(self, now: int) -> None:
        """Say of which layers nothing is to stay: those that no version that is kept ready needs,
        nor one that is being made."""
        needed = exists().where(
            VersionRow.layer_id == LayerRow.id,
            VersionRow.state.in_((VersionState.BUILDING, VersionState.READY)),
            ~VersionRow.shelved,
        )
        tried = exists().where(TrialRow.layer_id == LayerRow.id)
        made = select(BuildRow.image_id).where(
            BuildRow.id == LayerRow.build_id, BuildRow.status == BuildStatus.SUCCEEDED
        )
        building = exists().where(
            BuildRow.id == LayerRow.build_id, BuildRow.status == BuildStatus.CREATED
        )
        async with self._database.writing() as session:
            await session.execute(
                update(LayerRow)
                .where(
                    LayerRow.state != LayerState.GONE,
                    LayerRow.used_ms < now - UNNAMED_MS,
                    ~needed,
                    ~tried,
                    ~building,
                )
                .values(
                    state=LayerState.GONE,
                    error=None,
                    image_id=func.coalesce(LayerRow.image_id, made.scalar_subquery()),
                )
                .execution_options(synchronize_session=False)
            )

    async def _remove_image(self, layer: LayerRow) -> None:
        """Remove the image of a layer that is gone, and the runtimes that have it."""
        async with self._database.reading() as session:
            runtimes = list(
                await session.scalars(
                    select(RuntimeVmRow.vm_id).where(RuntimeVmRow.layer_id == layer.id)
                )
            )
        for vm_id in runtimes:
            await self._end(vm_id)
        async with self._database.writing() as session:
            await session.execute(delete(RuntimeVmRow).where(RuntimeVmRow.vm_id.in_(runtimes)))
        try:
            await self._images.delete(AccountId(layer.account_id), ImageId(layer.image_id or ""))
        except Conflict:
            # A VM has it that is still being ended; the next pass finds it again.
            return
        except NotFound:
            _log.info("keeping.image_gone", image_id=layer.image_id)
        async with self._database.writing() as session:
            await session.execute(
                update(LayerRow)
                .where(LayerRow.id == layer.id, LayerRow.state == LayerState.GONE)
                .values(image_id=None)
            )


class _Ranked:
    """The versions in some states, each with its place from the newest of its function."""

    def __init__(self, states: Sequence[VersionState]) -> None:
        place = func.row_number().over(
            partition_by=VersionRow.function_id, order_by=VersionRow.number.desc()
        )
        self.table = (
            select(VersionRow.function_id, VersionRow.number, place.label("place"))
            .where(VersionRow.state.in_(states))
            .subquery()
        )
