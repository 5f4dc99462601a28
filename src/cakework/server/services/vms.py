"""VMs: start, stop, get, list.

A start writes the row first (``created``), then orders the node, then writes what became of
it; a crash in between leaves a row that the reconciling loop carries on with. While a request
is at work on a VM it holds that VM's claim, and the loop leaves the VM alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import (
    CakeworkError,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from cakework.domain.ids import AccountId, ImageId, VmId, new_host_label, new_vm_id
from cakework.domain.orders import StopOrder, VmReport
from cakework.domain.vms import Ignore, Shape, VmState, decide_stop
from cakework.server.clock import Clock
from cakework.server.node.client import NodeClient
from cakework.server.services.claims import Claims
from cakework.server.services.vm_orders import RETRY_AFTER_S, order_of, refusal
from cakework.server.services.vm_states import VmStates
from cakework.server.store.accounts import lock_account
from cakework.server.store.database import Database
from cakework.server.store.models import ImageRow, VmRow
from cakework.server.store.values import not_before

PAGE = 100
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewVm:
    """What is asked for: sizes in MB and GB, 0 GB for no volume."""

    image_id: ImageId
    shape: Shape
    port: int | None = None
    env: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    volume_gb: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the list of VMs: behind the VM made at this time with this id."""

    created_ms: int
    vm_id: VmId


@dataclass(frozen=True, slots=True)
class VmFilter:
    """Which VMs to list; None takes all."""

    image_id: ImageId | None = None
    state: VmState | None = None


@dataclass(frozen=True, slots=True)
class VmLimits:
    """Bounds of what one account may have, and the domain that hostnames end in."""

    per_account: int
    base_domain: str


@dataclass(frozen=True, slots=True)
class Started:
    """A VM that was started, and how many milliseconds each phase of that took on the node."""

    row: VmRow
    phases_ms: dict[str, float]


class Vms:
    """Starts, stops and finds the VMs of accounts."""

    def __init__(
        self,
        database: Database,
        node: NodeClient,
        states: VmStates,
        limits: VmLimits,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """Keep records in ``database`` and have ``node`` run the VMs.

        ``hint`` says that a VM was left to the reconciling loop.
        """
        self._database = database
        self._node = node
        self._states = states
        self._limits = limits
        self._clock = clock
        self._hint = hint
        self.claims: Claims[VmId] = Claims()

    async def start(self, account: AccountId, new: NewVm, token: str | None = None) -> Started:
        """Start a VM; its record is never ``created``.

        ``token`` names an idempotent request: what it made before is taken up again.

        Raises:
            NotFound: the account has no such image.
            QuotaExceeded: the account has as many VMs as it may.
            NoRoom: the host cannot fit it; nothing is left of it.
            Unavailable: the node did not answer; what it may have begun is ended by itself.
            InvalidRequest, Conflict: the node refused it.
        """
        vm_id = new_vm_id()
        if token is not None:
            vm_id = await self._made_by(token) or vm_id
        async with self.claims.hold(vm_id):
            row = await self._record(account, vm_id, new, token)
            if row.state != VmState.CREATED:
                return Started(row, {})
            return await self.give_order(row)

    async def give_order(self, row: VmRow) -> Started:
        """Have the node start a recorded VM and record what became of it."""
        try:
            report = await self._node.start_vm(order_of(row))
        except Unavailable:
            await self.want_destroyed(VmId(row.id))
            self._hint()
            raise
        except CakeworkError as error:
            await self._forget(row)
            raise refusal(error) from error
        if report.state == "starting":
            raise CakeworkError(f"The node left VM {row.id} starting.")
        return Started(await self.record_report(report), report.phases_ms)

    async def record_report(self, report: VmReport) -> VmRow:
        """Record how the node says a VM is; returns its row."""
        vm_id = VmId(report.vm_id)
        async with self._database.writing() as session:
            row = await self._states.started(session, vm_id)
            if report.state == "stopped":
                row = await self._states.stopped(
                    session,
                    vm_id,
                    reason=report.reason or "The VM ended.",
                    exit_code=report.exit_code,
                )
            if row is None:
                raise NotFound(f"There is no VM {vm_id}.")
        self._states.tell([row])
        return row

    async def stop(self, account: AccountId, vm_id: VmId) -> VmRow:
        """End a VM for good; returns its record, ``destroyed``. Ending it again changes nothing.

        Raises:
            NotFound: the account has no such VM.
            Unavailable: the node did not answer; the VM is ended once it does.
        """
        async with self.claims.hold(vm_id):
            row = await self.get(account, vm_id)
            if isinstance(decide_stop(VmState(row.state)), Ignore):
                return row
            if row.state != VmState.STOPPED:
                await self.want_destroyed(vm_id)
            try:
                return await self.destroy(row)
            except Unavailable:
                self._hint()
                raise

    async def destroy(self, row: VmRow) -> VmRow:
        """Have the node end a VM that runs, if it does, and record it destroyed."""
        if row.state != VmState.STOPPED:
            await self.end_on_node(VmId(row.id))
        async with self._database.writing() as session:
            gone = await self._states.destroyed(session, VmId(row.id))
        if gone is None:
            raise NotFound(f"There is no VM {row.id}.")
        self._states.tell([gone])
        return gone

    async def end_on_node(self, vm_id: VmId) -> None:
        """Have the node end a VM; one that the node does not know has ended."""
        try:
            await self._node.stop_vm(vm_id, StopOrder())
        except NotFound:
            _log.info("vm.unknown_to_node", vm_id=vm_id)

    async def get(self, account: AccountId, vm_id: VmId) -> VmRow:
        """Return a VM of the account.

        Raises:
            NotFound: there is none with this id.
        """
        async with self._database.reading() as session:
            row = await session.get(VmRow, vm_id)
        if row is None or row.account_id != account:
            raise NotFound(f"There is no VM {vm_id}.")
        return row

    async def page(
        self, account: AccountId, wanted: VmFilter, after: Place | None
    ) -> tuple[list[VmRow], Place | None]:
        """Return up to 100 VMs, newest first, and the place where the next page goes on."""
        query = select(VmRow).where(VmRow.account_id == account)
        if wanted.image_id is not None:
            query = query.where(VmRow.image_id == wanted.image_id)
        if wanted.state is not None:
            query = query.where(VmRow.state == wanted.state)
        if after is not None:
            key = tuple_(VmRow.created_ms, VmRow.id)
            query = query.where(key < (after.created_ms, after.vm_id))
        query = query.order_by(VmRow.created_ms.desc(), VmRow.id.desc()).limit(PAGE + 1)
        async with self._database.reading() as session:
            rows = list(await session.scalars(query))
        if len(rows) <= PAGE:
            return rows, None
        last = rows[PAGE - 1]
        return rows[:PAGE], Place(last.created_ms, VmId(last.id))

    async def want_destroyed(self, vm_id: VmId) -> None:
        """Note that a VM is to be ended, so that it will be whatever happens next."""
        async with self._database.writing() as session:
            await session.execute(
                update(VmRow)
                .where(VmRow.id == vm_id)
                .values(
                    wanted=VmState.DESTROYED,
                    updated_ms=not_before(VmRow.updated_ms, self._clock()),
                )
            )

    async def _made_by(self, token: str) -> VmId | None:
        async with self._database.reading() as session:
            found = await session.scalar(select(VmRow.id).where(VmRow.request_token == token))
        return VmId(found) if found is not None else None

    async def _record(
        self, account: AccountId, vm_id: VmId, new: NewVm, token: str | None
    ) -> VmRow:
        now = self._clock()
        async with self._database.writing() as session:
            if token is not None and (row := await session.get(VmRow, vm_id)) is not None:
                return row
            await self._check(session, account, new.image_id)
            row = VmRow(
                id=vm_id,
                account_id=account,
                image_id=new.image_id,
                hostname=f"{new_host_label()}.{self._limits.base_domain}",
                cpu=new.shape.cpu,
                memory_mb=new.shape.memory_mb,
                port=new.port,
                volume_gb=new.volume_gb,
                env=new.env,
                state=VmState.CREATED,
                wanted=VmState.STARTED,
                log_complete=False,
                request_token=token,
                created_ms=now,
                updated_ms=now,
            )
            session.add(row)
        self._states.tell([row])
        return row

    async def _check(self, session: AsyncSession, account: AccountId, image: ImageId) -> None:
        await lock_account(session, account)
        running = (
            select(func.count())
            .select_from(VmRow)
            .where(VmRow.account_id == account, VmRow.state.in_(("created", "started")))
            .scalar_subquery()
        )
        found = await session.execute(
            select(ImageRow.id, running).where(ImageRow.id == image, ImageRow.account_id == account)
        )
        row = found.one_or_none()
        if row is None:
            raise NotFound(f"There is no image {image}.")
        if row[1] >= self._limits.per_account:
            raise QuotaExceeded(
                f"The account has {row[1]} VMs running, which is as many as it may.",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _forget(self, row: VmRow) -> None:
        """Remove the record of a VM that the node refused."""
        async with self._database.writing() as session:
            await session.execute(
                delete(VmRow).where(VmRow.id == row.id, VmRow.state == VmState.CREATED)
            )
        row.state = VmState.DESTROYED
        self._states.tell([row])
