"""The retention loop: forgets what is kept for a time only.

VMs that were started once and whose program ended are destroyed after a while, as stopVM does it.
Records go when nothing can need them any more: VMs that are destroyed, builds and imports that
ended, images that are deleted; where an account has very many, its oldest go before their time.
Images that are not deleted stay, whatever becomes of the build that made them. A record by which
the leftover loop knows that a file is nobody's stays as long as the node has the file. Everything
goes in small parts, so that nobody waits long to write.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVarTuple

import structlog
from sqlalchemy import ColumnElement, Row, Select, delete, exists, func, select, update
from sqlalchemy.orm import InstrumentedAttribute

from cakework.domain.builds import BuildStatus
from cakework.domain.ids import AccountId, VmId
from cakework.domain.imports import ImportStatus
from cakework.domain.vms import VmRequest, VmState
from cakework.server.clock import Clock
from cakework.server.logs.lines import build_source, function_source, vm_source
from cakework.server.logs.store import LogStore
from cakework.server.node.client import NodeClient
from cakework.server.services.idempotency import KEPT_MS
from cakework.server.services.vms import Vms
from cakework.server.store.database import Database
from cakework.server.store.function_models import FunctionRow, FunctionVmRow
from cakework.server.store.models import Base, BuildRow, IdempotencyRow, ImageRow, ImportRow, VmRow
from cakework.server.store.webhook_models import (
    DeliveryStatus,
    WebhookDeliveryRow,
    WebhookEventRow,
)

DAY_MS = 24 * 3600 * 1000
INSTANCE_MS = DAY_MS
"""More than an instance is there, so that its last line is older than this before its log goes."""
BATCH = 200
ANSWERS_MAX = 10_000
"""Kept for the Idempotency-Keys of one account: beyond that the oldest go before their time."""
DELIVERIES_MAX = 10_000
"""Kept, of those that ended, for one endpoint."""
UNDELIVERED_MS = 3600 * 1000
"""Kept, of an event that no delivery is left of: no more than what is to be written first takes."""
RECORDS_MAX = 10_000
"""Kept for one account, of each kind that ended: VMs, builds, imports, images."""
FUNCTION_VMS_MAX = 50_000
"""Of one function whose logs are kept; each is a record, though it may have printed nothing."""
Columns = TypeVarTuple("Columns")
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeptDays:
    """Days that things are kept after their end, lines after they were printed; 0: for ever.

    ``stopped`` is for VMs whose program ended and that are not destroyed, ``vms`` for records.
    """

    logs: int
    stopped: int
    vms: int
    builds: int
    deliveries: int


class RetentionLoop:
    """Ends and removes what is over: VMs, answers, deliveries, lines, and all that is on record."""

    def __init__(
        self,
        database: Database,
        logs: LogStore,
        node: NodeClient,
        vms: Vms,
        days: KeptDays,
        clock: Clock,
    ) -> None:
        """Remove from ``database`` and ``logs`` what is older than ``days``; look at ``node``.

        VMs that stopped so long ago are ended through ``vms``.
        """
        self._database = database
        self._logs = logs
        self._node = node
        self._vms = vms
        self._days = days
        self._clock = clock

    async def one_pass(self) -> None:
        """Remove what is over. What takes a look at the node comes last, for it may be away."""
        await self._remove_answers()
        await self._remove_deliveries(self._before(self._days.deliveries))
        if before := self._before(self._days.logs):
            await self._logs.remove_before(before)
        await self._logs.drop_beyond()
        await self._logs.give_back()
        await self._destroy_vms()
        await self._remove_vms()
        await self._remove_function_logs()
        await self._remove_builds()
        await self._remove_images()

    def _before(self, days: int) -> int | None:
        return self._clock() - days * DAY_MS if days else None

    async def _remove_answers(self) -> None:
        over = IdempotencyRow.created_ms < self._clock() - KEPT_MS
        await self._remove(IdempotencyRow, IdempotencyRow.token, over)
        answered = IdempotencyRow.status.is_not(None)
        of, age = IdempotencyRow.account_id, IdempotencyRow.created_ms
        over = IdempotencyRow.token.in_(
            _beyond(IdempotencyRow.token, answered, of, age, ANSWERS_MAX)
        )
        await self._remove(IdempotencyRow, IdempotencyRow.token, over)

    async def _remove_deliveries(self, before: int | None) -> None:
        """Remove deliveries that ended long ago, or that are very many, and events that no
        delivery is left of."""
        row = WebhookDeliveryRow
        ended = row.status != DeliveryStatus.PENDING
        beyond = _beyond(row.id, ended, row.endpoint_id, row.created_ms, DELIVERIES_MAX)
        over = row.id.in_(beyond)
        if before is not None:
            over |= row.created_ms < before
        await self._remove(row, row.id, ended & over)
        undelivered = ~exists().where(row.event_id == WebhookEventRow.id)
        settled = WebhookEventRow.created_ms < self._clock() - UNDELIVERED_MS
        over = undelivered & settled
        await self._remove(WebhookEventRow, WebhookEventRow.id, over)

    async def _remove(
        self, table: type[Base], key: InstrumentedAttribute[str], over: ColumnElement[bool]
    ) -> None:
        """Remove the rows that are over, in parts; nothing else is kept of them."""
        for some in _parts([one for (one,) in await self._found(select(key).where(over))]):
            async with self._database.writing() as session:
                await session.execute(delete(table).where(key.in_(some), over))

    def _over(
        self,
        ended: ColumnElement[bool],
        key: InstrumentedAttribute[str],
        of: InstrumentedAttribute[str],
        age: InstrumentedAttribute[int] | InstrumentedAttribute[int | None],
        days: int,
    ) -> ColumnElement[bool]:
        """Say of which rows that ended nothing is kept: those of so many days ago, and of each
        account those beyond the newest."""
        over = key.in_(_beyond(key, ended, of, age, RECORDS_MAX))
        if before := self._before(days):
            over |= age < before
        return ended & over

    async def _destroy_vms(self) -> None:
        """End VMs that nobody can start again and that nobody ended."""
        stopped = (VmRow.state == VmState.STOPPED) & ~VmRow.cached
        row = VmRow
        over = self._over(stopped, row.id, row.account_id, row.updated_ms, self._days.stopped)
        found = await self._found(select(VmRow.account_id, VmRow.id).where(over))
        for account_id, vm_id in found:
            await self._vms.end(AccountId(account_id), VmId(vm_id), VmRequest.STOP)
        if found:
            _log.info("retention.destroyed", count=len(found))

    async def _remove_vms(self) -> None:
        held = {*await self._node.volumes(), *await self._node.snapshots()}
        row, ended = VmRow, VmRow.state == VmState.DESTROYED
        over = self._over(ended, row.id, row.account_id, row.updated_ms, self._days.vms)
        found = await self._found(select(VmRow.id).where(over))
        for some in _parts([vm_id for (vm_id,) in found if vm_id not in held]):
            kept = select(FunctionVmRow.vm_id).where(FunctionVmRow.vm_id.in_(some))
            of_functions = {vm_id for (vm_id,) in await self._found(kept)}
            for vm_id in some:
                if vm_id not in of_functions:
                    await self._logs.remove(vm_source(vm_id))
            async with self._database.writing() as session:
                await session.execute(delete(row).where(row.id.in_(some), ended))
            _log.info("retention.removed", kind="vm", count=len(some))

    async def _remove_function_logs(self) -> None:
        """Remove the logs of functions' VMs that are not on record any more: as soon as their lines
        are too old, or with their functions; and the oldest of very many. So a log is there longer
        than its instance, however many instances the account had."""
        vm = FunctionVmRow
        gone = ~exists().where(VmRow.id == vm.vm_id)
        over = ~exists().where(FunctionRow.id == vm.function_id)
        if before := self._before(self._days.logs):
            over |= vm.created_ms < before - INSTANCE_MS
        beyond = _beyond(vm.vm_id, gone, vm.function_id, vm.created_ms, FUNCTION_VMS_MAX)
        over |= vm.vm_id.in_(beyond)
        found = await self._found(select(vm.vm_id, vm.function_id).where(gone & over))
        functions = {row.vm_id: row.function_id for row in found}
        for some in _parts(list(functions)):
            for vm_id in some:
                await self._logs.remove(vm_source(vm_id))
            async with self._database.writing() as session:
                await session.execute(delete(vm).where(vm.vm_id.in_(some)))
        for some in _parts(list(set(functions.values()))):
            left = select(vm.function_id).where(vm.function_id.in_(some))
            there = select(FunctionRow.id).where(FunctionRow.id.in_(some))
            kept = {each for (each,) in [*await self._found(left), *await self._found(there)]}
            for function_id in set(some) - kept:
                await self._logs.remove(function_source(function_id))

    async def _remove_builds(self) -> None:
        running = {report.build_id for report in await self._node.builds()}
        files = set(await self._node.images())
        row, done = BuildRow, BuildRow.status != BuildStatus.CREATED
        over = self._over(done, row.id, row.account_id, row.updated_ms, self._days.builds)
        found = await self._found(
            select(BuildRow.id, BuildRow.image_id, BuildRow.status).where(over)
        )
        ended = [
            build_id
            for build_id, image_id, status in found
            if build_id not in running
            and (status == BuildStatus.SUCCEEDED or image_id not in files)
        ]
        for some in _parts(ended):
            for build_id in some:
                await self._logs.remove(build_source(build_id))
            async with self._database.writing() as session:
                made = ImageRow.build_id.in_(some)
                await session.execute(update(ImageRow).where(made).values(build_id=None))
                await session.execute(delete(row).where(row.id.in_(some), done))
            _log.info("retention.removed", kind="build", count=len(some))

    async def _remove_images(self) -> None:
        """Remove what is on record of images that are deleted, and of imports that failed."""
        files, days = set(await self._node.images()), self._days.builds
        row, failed = ImportRow, ImportRow.status == ImportStatus.FAILED
        imports = self._over(failed, row.id, row.account_id, row.updated_ms, days)
        image, unused = ImageRow, ~exists().where(VmRow.image_id == ImageRow.id)
        deleted = image.deleted_ms.is_not(None) & unused
        images = self._over(deleted, image.id, image.account_id, image.deleted_ms, days)
        found = [
            *await self._found(select(ImportRow.id).where(imports)),
            *await self._found(select(ImageRow.id).where(images)),
        ]
        for some in _parts([image_id for (image_id,) in found if image_id not in files]):
            async with self._database.writing() as session:
                await session.execute(delete(ImageRow).where(ImageRow.id.in_(some), deleted))
                there = exists().where(ImageRow.id == ImportRow.id)
                await session.execute(delete(ImportRow).where(ImportRow.id.in_(some), ~there))
            _log.info("retention.removed", kind="image", count=len(some))

    async def _found(self, query: Select[*Columns]) -> Sequence[Row[*Columns]]:
        async with self._database.reading() as session:
            return (await session.execute(query)).all()


def _beyond(
    key: InstrumentedAttribute[str],
    counted: ColumnElement[bool],
    of: InstrumentedAttribute[str],
    age: InstrumentedAttribute[int] | InstrumentedAttribute[int | None],
    most: int,
) -> Select[str]:
    """Return the keys of the rows that are counted, but for the ``most`` newest of each owner."""
    place = func.row_number().over(partition_by=of, order_by=(age.desc(), key.desc()))
    ranked = select(key.label("key"), place.label("place")).where(counted).subquery()
    return select(ranked.c.key).where(ranked.c.place > most)


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]
