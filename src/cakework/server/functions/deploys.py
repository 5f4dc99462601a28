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
from sqlalchemy import or_, select, update

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
from cakework.server.functions.sources import Sources, as_json
from cakework.server.services.builds import Builds
from cakework.server.store.database import Database
from cakework.server.store.function_models import FunctionRow, LayerRow, LayerState, VersionRow
from cakework.server.store.models import BuildRow, VmRow
from cakework.server.store.values import not_before, storable

AT_ONCE = 4
ERROR_CHARS_MAX = 16_384
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
        self._clock = clock
        self._promoted = promoted
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def one_pass(self) -> None:
        """Look at each version that is not made once. One that fails holds up no other."""
        building = select(VersionRow).where(VersionRow.state == VersionState.BUILDING)
        live = (
            select(VersionRow, FunctionRow)
            .join(FunctionRow, FunctionRow.id == VersionRow.function_id)
            .where(
                FunctionRow.live_version == VersionRow.number,
                VersionRow.state == VersionState.READY,
                VersionRow.snapshot_error.is_(None),
            )
        )
        async with self._database.reading() as session:
            rows = list(await session.scalars(building.order_by(VersionRow.created_ms)))
            pairs = [(row[0], row[1]) for row in await session.execute(live)]
        rows += [version for version, function in pairs if self._is_stale(version, function)]
        await asyncio.gather(*(self._guarded(row) for row in rows))

    async def make_again(self, version: VersionRow) -> None:
        """Have a version's snapshot made again: the one it had is lost."""
        async with self._database.writing() as session:
            await session.execute(
                update(VersionRow)
                .where(_is(version), VersionRow.vm_id == version.vm_id)
                .values(vm_id=None)
            )

    def _is_stale(self, version: VersionRow, function: FunctionRow) -> bool:
        settings = self._functions.settings(function)
        if not settings.has_snapshot:
            return False
        return version.vm_id is None or version.made_with != settings.made_with

    async def _guarded(self, row: VersionRow) -> None:
        async with self._turns:
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
                await self._let_go(row)

    async def _go_on(self, row: VersionRow) -> None:
        async with self._database.reading() as session:
            function = await session.get(FunctionRow, row.function_id)
            layer = await layer_row(session, row.layer_id)
        if function is None:
            return
        account, settings = AccountId(function.account_id), self._functions.settings(function)
        if layer.state != LayerState.READY:
            layer = await self._build(account, row, layer)
        shape = Shape(settings.cpu, settings.memory).rounded()
        runtime = await self._machines.runtime(layer, shape)
        if runtime.snapshot_state == SnapshotState.FAILED:
            raise DoesNot(f"The runtime could not be started: {runtime.snapshot_error}")
        if runtime.snapshot_state != SnapshotState.MADE:
            raise Waits
        await self._load(account, row, runtime, settings, sees(function, settings, ""))

    async def _build(self, account: AccountId, row: VersionRow, layer: LayerRow) -> LayerRow:
        """Return the layer, ready; ask for its build if nobody has. Raises Waits, DoesNot."""
        async with self._database.reading() as session:
            build = await session.get(BuildRow, layer.build_id)
        if build is None:
            source = await self._source(account, row)
            made = await asyncio.to_thread(self._layers.of, Runtime(row.runtime), source)
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
            await self._machines.fork(runtime, vm_id, VmRole.VERSION)
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
        self, account: AccountId, row: VersionRow, settings: FunctionSettings
    ) -> Code:
        """Return the code of a version as an instance is given it."""
        source = await self._source(account, row)
        files = await asyncio.to_thread(as_json, source)
        return Code(files, row.entry, row.signature or "", settings.concurrency, settings.env_vars)

    async def _source(self, account: AccountId, row: VersionRow):
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
        await self._change(
            row,
            state=VersionState.FAILED,
            error=storable(why[:ERROR_CHARS_MAX]),
            vm_id=None,
            claimed_by=None,
            claimed_until_ms=None,
        )

    async def _ready(self, row: VersionRow, handlers: list[str]) -> None:
        now = self._clock()
        async with self._database.writing() as session:
            await session.execute(
                update(VersionRow)
                .where(_is(row), VersionRow.state == VersionState.BUILDING)
                .values(
                    state=VersionState.READY,
                    handlers=storable(" ".join(handlers))[:1000],
                    updated_ms=not_before(VersionRow.updated_ms, now),
                )
            )
            if row.promote:
                newer = FunctionRow.live_version.is_(None) | (FunctionRow.live_version < row.number)
                await session.execute(
                    update(FunctionRow)
                    .where(FunctionRow.id == row.function_id, newer)
                    .values(
                        live_version=row.number, updated_ms=not_before(FunctionRow.updated_ms, now)
                    )
                )
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
            changed = await session.execute(
                update(VersionRow)
                .where(
                    _is(row),
                    VersionRow.state == row.state,
                    VersionRow.claimed_by == self._server_id,
                )
                .values(updated_ms=not_before(VersionRow.updated_ms, self._clock()), **values)
                .returning(VersionRow.number)
            )
            return changed.first() is not None


def _is(row: VersionRow):
    return (VersionRow.function_id == row.function_id) & (VersionRow.number == row.number)


def _why(error: HandlerError | None) -> str:
    if error is None:
        return "The code could not be imported."
    return error.stack or f"{error.type}: {error.message}"
