"""The deploy loop: makes versions out of what was sent.

| a version that is building has | done |
|---|---|
| a layer whose build was not asked for | it is asked for |
| a layer that is being built | nothing: its build's end hints |
| a layer that failed | the version failed, and why |
| a layer, and no runtime of it that rests | one is made; nothing while it is |
| a runtime | a fork of it is given the code; what cannot be imported fails with its traceback |
| the code imported | the fork becomes its snapshot; it is ready, and live if so asked |

Of a pass that was broken off anywhere, the next one ends the fork and begins with another. A live
version whose snapshot is lost, or was made with other settings, gets one in the same way; until
then its instances do without.
"""

import asyncio
from collections.abc import Callable

import structlog
from sqlalchemy import or_, select, tuple_, union, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.builds import BuildStatus
from cakework.domain.errors import CakeworkError, InvalidRequest, Unavailable
from cakework.domain.functions import FunctionSettings, Runtime, VersionState
from cakework.domain.ids import AccountId, BuildId, VmId, new_vm_id
from cakework.domain.snapshots import SnapshotState
from cakework.domain.steps import Step
from cakework.domain.vms import Shape, VmRole
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.functions.adapter import Adapter, Code, HandlerError, NoAnswer
from cakework.server.functions.functions import Functions
from cakework.server.functions.layers import Layers, build_of, layer_row
from cakework.server.functions.leases import CLAIM_MS, renewing
from cakework.server.functions.machines import Machines, ParentLost
from cakework.server.functions.marks import note_vm
from cakework.server.functions.secrets import Secrets, Sees, sees
from cakework.server.functions.sources import Source, Sources, as_json
from cakework.server.services.announcements import Announcements
from cakework.server.services.builds import Builds
from cakework.server.store.database import Database
from cakework.server.store.function_models import (
    FunctionRow,
    LayerRow,
    LayerState,
    TrialRow,
    VersionRow,
)
from cakework.server.store.models import BuildRow, ImageRow, VmRow
from cakework.server.store.values import not_before, storable
from cakework.turns import Turns

AT_ONCE = 4
CLOSING_S = 1.0
PATIENCE_MS = 3_600_000
"""For which a version may wait for room, builds or a node that answers."""
ERROR_CHARS_MAX = 16_384
SETTINGS_AT_ONCE = 20
"""Of functions that changed: variables of 64 KiB take a millisecond to read."""
STALE_AT_ONCE = NAMED_MAX = 500
LATE_MS = 10_000
"""How long a change may be on its way into the store, or a server's clock behind."""
WHOLE_MS = 60_000
"""How often all that is live is looked at, for what changed later than that."""
_log = structlog.stdlib.get_logger(__name__)


class Waits(Exception):
    """A version cannot go on now; what it waits for hints, or the next pass sees it."""


class DoesNot(Exception):
    """A version cannot be made; the text is for whoever sent it."""


class DeployLoop:
    """Sees versions from building to ready or failed."""

    def __init__(
        self,
        database: Database,
        server_id: str,
        functions: Functions,
        sources: Sources,
        layers: Layers,
        builds: Builds,
        machines: Machines,
        adapter: Adapter,
        secrets: Secrets,
        announcements: Announcements,
        clock: Clock,
        promoted: Callable[[], None],
    ) -> None:
        """Work as the process ``server_id``; ``promoted`` says that there is more to run."""
        self._database = database
        self._server_id = server_id
        self._functions = functions
        self._sources = sources
        self._layers = layers
        self._builds = builds
        self._machines = machines
        self._adapter = adapter
        self._secrets = secrets
        self._announcements = announcements
        self._clock = clock
        self._promoted = promoted
        self._turns: Turns[str] = Turns(AT_ONCE)
        self._under_way: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._wanted: dict[str, tuple[int, str | None]] = {}
        """What snapshots of functions are to be made with, and as of which change; None: none."""
        self._stale_ids: set[str] = set()
        self._looked_ms = self._whole_ms = 0
        """When changes were looked for, and when all that is live is to be looked at again."""

    async def one_pass(self) -> None:
        """Have each version that is not made, and that nobody is at, looked at once. Accounts take
        turns, and one whose code never comes to its end holds up no other's pass."""
        building = (
            select(VersionRow, FunctionRow)
            .join(FunctionRow, FunctionRow.id == VersionRow.function_id)
            .where(VersionRow.state == VersionState.BUILDING)
            .order_by(VersionRow.since_ms)
        )
        async with self._database.reading() as session:
            found = [(row[0], row[1]) for row in await session.execute(building)]
        for row, function in [*found, *await self._stale()]:
            key = row.function_id, row.number
            if key not in self._under_way:
                task = asyncio.create_task(self._guarded(row, function.account_id))
                self._under_way[key] = task
                task.add_done_callback(lambda task, key=key: self._ended(key, task))

    async def close(self) -> None:
        """Let go of what is under way: the next process goes on with it."""
        tasks = list(self._under_way.values())
        if not tasks:
            return
        # Most are done soon; what is cancelled in the midst of a transaction takes its connection
        # with it.
        await asyncio.wait(tasks, timeout=CLOSING_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._database.writing() as session:
            await session.execute(
                update(VersionRow)
                .where(VersionRow.claimed_by == self._server_id)
                .values(claimed_by=None, claimed_until_ms=None)
            )

    async def make_again(self, version: VersionRow) -> None:
        """Have a version's snapshot made again: the one it had is lost."""
        async with self._database.writing() as session:
            await session.execute(
                update(VersionRow)
                .where(_is(version), VersionRow.vm_id == version.vm_id)
                .values(vm_id=None, updated_ms=not_before(VersionRow.updated_ms, self._clock()))
            )

    async def _stale(self) -> list[tuple[VersionRow, FunctionRow]]:
        """Return live versions whose snapshot is lost, or is of other settings than those of now,
        and that nobody is at. Settings are read once after each change, a few at a time."""
        now = self._clock()
        ids = None if now >= self._whole_ms else await self._changed_functions()
        self._looked_ms = now
        if ids is None:
            self._whole_ms = now + WHOLE_MS
        elif not ids:
            return []
        live = (
            select(
                FunctionRow.id,
                FunctionRow.updated_ms,
                VersionRow.number,
                VersionRow.vm_id,
                VersionRow.made_with,
            )
            .join(VersionRow, FunctionRow.id == VersionRow.function_id)
            .where(
                FunctionRow.live_version == VersionRow.number,
                VersionRow.state == VersionState.READY,
                VersionRow.snapshot_error.is_(None),
            )
        )
        if ids is not None:
            live = live.where(FunctionRow.id.in_(ids))
        async with self._database.reading() as session:
            rows = (await session.execute(live)).all()
        known = {row.id: told for row in rows if (told := self._wanted.get(row.id)) is not None}
        self._wanted = known if ids is None else self._wanted
        new = [row.id for row in rows if known.get(row.id, (0, None))[0] != row.updated_ms]
        for start in range(0, len(new), SETTINGS_AT_ONCE):
            some = FunctionRow.id.in_(new[start : start + SETTINGS_AT_ONCE])
            async with self._database.reading() as session:
                functions = list(await session.scalars(select(FunctionRow).where(some)))
            for function in functions:
                settings = self._functions.settings(function)
                made_with = settings.made_with if settings.has_snapshot else None
                known[function.id] = function.updated_ms, made_with
        self._wanted |= known
        found = [
            (row.id, row.number)
            for row in rows
            if (made_with := known.get(row.id, (0, None))[1]) is not None
            and (row.vm_id is None or row.made_with != made_with)
        ]
        self._stale_ids = {each for each, _ in found}
        stale = [each for each in found if each not in self._under_way]
        if not stale:
            return []
        pairs = select(VersionRow, FunctionRow).join(
            FunctionRow, FunctionRow.id == VersionRow.function_id
        )
        key = tuple_(VersionRow.function_id, VersionRow.number)
        async with self._database.reading() as session:
            some = await session.execute(pairs.where(key.in_(stale[:STALE_AT_ONCE])))
            return [(row[0], row[1]) for row in some]

    async def _changed_functions(self) -> set[str] | None:
        """Return functions that changed since the last look, and what was stale then; None: too
        many to name."""
        since = self._looked_ms - LATE_MS
        changed = union(
            select(FunctionRow.id).where(FunctionRow.updated_ms >= since),
            select(VersionRow.function_id).where(VersionRow.updated_ms >= since),
        )
        async with self._database.reading() as session:
            rows = await session.execute(changed.limit(NAMED_MAX + 1))
            ids = {row[0] for row in rows} | self._stale_ids
        return ids if len(ids) <= NAMED_MAX else None

    def _ended(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("deploy.fault", function_id=key[0], version=key[1], exc_info=fault)

    async def _guarded(self, row: VersionRow, account: str) -> None:
        async with self._turns.hold(account):
            if not await self._claimed(row):
                return
            try:
                async with renewing(lambda: self._renew(row)):
                    await self._go_on(row)
            except Waits:
                await self._let_go(row)
            except DoesNot as error:
                if row.state == VersionState.BUILDING:
                    await self._fail(row, str(error))
                else:
                    await self._made(row, None, None, str(error))
            except Unavailable as error:
                _log.info("deploy.waits", function_id=row.function_id, detail=error.detail)
                await self._let_go(row)
            except CakeworkError as error:
                _log.warning("deploy.waits", function_id=row.function_id, detail=error.detail)
                late = row.since_ms < self._clock() - PATIENCE_MS
                if late and row.state == VersionState.BUILDING:
                    await self._fail(row, f"It could not be made in time: {error.detail}")
                else:
                    await self._let_go(row)

    async def _go_on(self, row: VersionRow) -> None:
        async with self._database.reading() as session:
            function = await session.get(FunctionRow, row.function_id)
        if function is None:
            return
        account, settings = AccountId(function.account_id), self._functions.settings(function)
        runtime = await self.runtime(account, row, settings)
        await self._load(account, row, runtime, settings, sees(function, settings, ""))

    async def runtime(
        self, account: AccountId, row: VersionRow | TrialRow, settings: FunctionSettings
    ) -> VmRow:
        """Return a runtime at rest that has what code imports; see to it that there is one.

        Raises:
            Waits: it is being made.
            DoesNot: it cannot be made.
            CakeworkError: not now.
        """
        async with self._database.reading() as session:
            layer = await layer_row(session, row.layer_id)
            image = await session.get(ImageRow, layer.image_id) if layer.image_id else None
        if layer.state == LayerState.READY and image is not None and image.deleted_ms is not None:
            await self._lost(layer)
            raise Waits
        if layer.state != LayerState.READY:
            layer = await self._build(account, row, layer)
        shape = Shape(settings.cpu, settings.memory).rounded()
        runtime = await self._machines.runtime(layer, shape)
        if runtime.snapshot_state == SnapshotState.FAILED:
            raise DoesNot(f"The runtime could not be started: {runtime.snapshot_error}")
        if runtime.snapshot_state != SnapshotState.MADE:
            raise Waits
        return runtime

    async def _lost(self, layer: LayerRow) -> None:
        """Have a layer built anew, whose image was deleted by its account."""
        async with self._database.writing() as session:
            found = await session.get(LayerRow, layer.id, with_for_update=True)
            if found is not None and found.build_id == layer.build_id:
                await self._layers.again(session, found)

    async def _build(
        self, account: AccountId, row: VersionRow | TrialRow, layer: LayerRow
    ) -> LayerRow:
        """Return the layer, ready; ask for its build if nobody has. Raises Waits, DoesNot."""
        async with self._database.reading() as session:
            build = await session.get(BuildRow, layer.build_id)
        if build is None:
            source = await self._source(account, row)
            made = await asyncio.to_thread(self._layers.of, Runtime(row.runtime), source, row.fresh)
            new = await asyncio.to_thread(build_of, made)
            await self._builds.create(account, new, build_id=BuildId(layer.build_id))
            raise Waits
        if build.status == BuildStatus.CREATED:
            raise Waits
        succeeded = build.status == BuildStatus.SUCCEEDED
        async with self._database.writing() as session:
            changed = await session.scalar(
                update(LayerRow)
                .where(LayerRow.id == layer.id, LayerRow.build_id == layer.build_id)
                .values(
                    state=LayerState.READY if succeeded else LayerState.FAILED,
                    image_id=build.image_id if succeeded else None,
                    error=None if succeeded else build.error,
                )
                .returning(LayerRow)
            )
        if changed is None:
            raise Waits
        if not succeeded:
            raise DoesNot(f"The dependencies could not be installed: {build.error}")
        return changed

    async def _load(
        self,
        account: AccountId,
        row: VersionRow,
        runtime: VmRow,
        settings: FunctionSettings,
        who: Sees,
    ) -> None:
        if row.vm_id is not None:
            await self._machines.end(VmId(row.vm_id))
        vm_id = new_vm_id()
        if not await self._change(row, vm_id=vm_id, made_with=None):
            # It was deleted, or another process has it.
            raise Waits
        async with self._database.writing() as session:
            note_vm(session, vm_id, row.function_id, row.number, self._clock())
        code = await self.code_of(account, row, settings)
        try:
            await self._machines.fork(runtime, vm_id, VmRole.VERSION, settings.egress)
        except ParentLost as error:
            raise Waits from error
        try:
            if settings.secrets_at_init:
                await self._secrets.give_for_import(vm_id, who)
            loaded = await self._adapter.load(vm_id, code)
        except InvalidRequest as error:
            await self._machines.end(vm_id)
            raise DoesNot(error.detail) from error
        except NoAnswer as error:
            ended = await self._machines.end(vm_id)
            why = ended.reason if ended is not None and ended.reason else error.detail
            raise DoesNot(f"The code could not be imported: {why}") from error
        except BaseException:
            await self._machines.end(vm_id)
            raise
        step(Step.SERVER_VERSION_LOADED)
        if loaded.state != "ready":
            await self._machines.end(vm_id)
            error = loaded.error
            if error is not None:
                error = await self._secrets.masks.error(vm_id, error)
            raise DoesNot(_why(error))
        kept, why = await self._kept(vm_id, settings)
        if row.state == VersionState.BUILDING:
            await self._ready(row, loaded.handlers)
        await self._made(row, kept, settings.made_with if kept else None, why)
        self._promoted()

    async def _kept(
        self, vm_id: VmId, settings: FunctionSettings
    ) -> tuple[VmId | None, str | None]:
        """Make a VM that has the code a snapshot; return it, or why there is none."""
        if not settings.has_snapshot:
            await self._machines.end(vm_id)
            return None, None
        try:
            await self._machines.keep(vm_id)
        except Unavailable:
            raise
        except CakeworkError as error:
            await self._machines.end(vm_id)
            return None, error.detail
        step(Step.SERVER_VERSION_KEPT)
        return vm_id, None

    async def code_of(
        self, account: AccountId, row: VersionRow | TrialRow, settings: FunctionSettings
    ) -> Code:
        """Return the code of a version as an instance is given it."""
        source = await self._source(account, row)
        files = await asyncio.to_thread(as_json, source)
        return Code(files, row.entry, row.signature or "", settings.concurrency, settings.env_vars)

    async def _source(self, account: AccountId, row: VersionRow | TrialRow) -> Source:
        async with self._database.reading() as session:
            sealed = await self._sources.sealed(session, account, row.source_digest)
        if sealed is None:
            raise DoesNot("The source is not kept any more.")
        return await asyncio.to_thread(self._sources.open, account, row.source_digest, sealed)

    async def _claimed(self, row: VersionRow) -> bool:
        now = self._clock()
        free = or_(VersionRow.claimed_by.is_(None), VersionRow.claimed_until_ms < now)
        async with self._database.writing() as session:
            got = await session.execute(
                update(VersionRow)
                .where(_is(row), VersionRow.state == row.state, free)
                .values(claimed_by=self._server_id, claimed_until_ms=now + CLAIM_MS)
                .returning(VersionRow.number)
            )
            return got.first() is not None

    async def _renew(self, row: VersionRow) -> None:
        async with self._database.writing() as session:
            await session.execute(
                update(VersionRow)
                .where(_is(row), VersionRow.claimed_by == self._server_id)
                .values(claimed_until_ms=self._clock() + CLAIM_MS)
            )

    async def _let_go(self, row: VersionRow) -> None:
        await self._change(row, claimed_by=None, claimed_until_ms=None)

    async def _fail(self, row: VersionRow, why: str) -> None:
        _log.info("deploy.failed", function_id=row.function_id, version=row.number)
        async with self._database.writing() as session:
            failed = await self._changed(
                session,
                row,
                state=VersionState.FAILED,
                error=storable(why[:ERROR_CHARS_MAX]),
                vm_id=None,
                claimed_by=None,
                claimed_until_ms=None,
            )
            if failed is not None:
                await self._announcements.version_ended(session, failed)

    async def _ready(self, row: VersionRow, handlers: list[str]) -> None:
        now = self._clock()
        async with self._database.writing() as session:
            ready = await session.scalar(
                update(VersionRow)
                .where(_is(row), VersionRow.state == VersionState.BUILDING)
                .values(
                    state=VersionState.READY,
                    handlers=storable(" ".join(handlers))[:1000],
                    updated_ms=not_before(VersionRow.updated_ms, now),
                )
                .returning(VersionRow)
                .execution_options(populate_existing=True)
            )
            # As it is now: it may have been promoted while it was made.
            asked = await session.scalar(
                select(VersionRow.asked_seq).where(_is(row), VersionRow.promote)
            )
            if asked is not None:
                await session.execute(
                    update(FunctionRow)
                    .where(FunctionRow.id == row.function_id, FunctionRow.live_seq < asked)
                    .values(
                        live_version=row.number,
                        live_seq=asked,
                        updated_ms=not_before(FunctionRow.updated_ms, now),
                    )
                )
            if ready is not None:
                await self._announcements.version_ended(session, ready)
        self._functions.changed(row.function_id)
        step(Step.SERVER_VERSION_PROMOTED)
        row.state = VersionState.READY
        _log.info("deploy.ready", function_id=row.function_id, version=row.number)

    async def _made(
        self, row: VersionRow, vm_id: VmId | None, made_with: str | None, error: str | None
    ) -> None:
        """Record the snapshot that a ready version has, or why it has none; let go of it."""
        await self._change(
            row,
            vm_id=vm_id,
            made_with=made_with,
            snapshot_error=storable(error)[:ERROR_CHARS_MAX] if error else None,
            claimed_by=None,
            claimed_until_ms=None,
        )

    async def _change(self, row: VersionRow, **values: object) -> bool:
        """Change a version's record while it is this process's to change; say whether it was."""
        async with self._database.writing() as session:
            return await self._changed(session, row, **values) is not None

    async def _changed(
        self, session: AsyncSession, row: VersionRow, **values: object
    ) -> VersionRow | None:
        """The same within a transaction; return the record as it is then, None if it was not."""
        return await session.scalar(
            update(VersionRow)
            .where(
                _is(row),
                VersionRow.state == row.state,
                VersionRow.claimed_by == self._server_id,
            )
            .values(updated_ms=not_before(VersionRow.updated_ms, self._clock()), **values)
            .returning(VersionRow)
            .execution_options(populate_existing=True)
        )


def _is(row: VersionRow):
    return (VersionRow.function_id == row.function_id) & (VersionRow.number == row.number)


def _why(error: HandlerError | None) -> str:
    if error is None:
        return "The code could not be imported."
    return error.stack or f"{error.type}: {error.message}"
