"""VMs: start, end, get, list; what is particular to cached ones is in cached_vms.py.

A start writes the row first (``created``), then orders the node, then writes what became of
it; a crash in between leaves a row that the reconciling loop carries on with. While a request
is at work on a VM it holds that VM's claim, and the loop leaves the VM alone.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import delete, select, update

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    NoRoom,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from cakework.domain.ids import AccountId, ImageId, VmId, new_vm_id
from cakework.domain.orders import StopOrder, VmReport
from cakework.domain.snapshots import SnapshotKind
from cakework.domain.steps import Step
from cakework.domain.vms import Ending, Ignore, Refuse, VmRequest, VmRole, VmState, decide
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.node.client import NodeClient
from cakework.server.services.claims import Claims
from cakework.server.services.forked import condemn, forked_from
from cakework.server.services.new_vms import NewVm, VmRules
from cakework.server.services.vm_orders import refusal
from cakework.server.services.vm_states import VmStates, life_of
from cakework.server.store.database import Database
from cakework.server.store.models import VmRow
from cakework.server.store.pages import Place, cut, newest_first
from cakework.server.store.values import not_before

GIVES_WAY_MOST = 8
"""How many VMs may go for one that is to be started."""
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class VmFilter:
    """Which VMs to list; None takes all."""

    image_id: ImageId | None = None
    state: VmState | None = None


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
        rules: VmRules,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """Keep records in ``database`` and have ``node`` run the VMs.

        ``hint`` says that a VM was left to the reconciling loop.
        """
        self._database = database
        self._node = node
        self._states = states
        self._rules = rules
        self._clock = clock
        self.hint = hint
        self.claims: Claims[VmId] = Claims()
        self.make_room: Callable[[VmRow, CakeworkError], Awaitable[bool]] = _nothing_gives_way
        """Asked when the host has no room for a VM, or its account no more: says whether there is
        some now."""

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
        vm_id = await self.made_by(token) or new_vm_id()
        async with self.claims.hold(vm_id):
            row = await self._record(account, vm_id, new, token)
            step(Step.VM_RECORDED)
            if row.state != VmState.CREATED:
                return Started(row, {})
            return await self.give_order(row)

    async def give_order(self, row: VmRow) -> Started:
        """Have the node start a recorded VM and record what became of it."""
        try:
            report = await self._start_on_node(row)
        except Unavailable:
            await self._give_up(row)
            self.hint()
            raise
        except CakeworkError as error:
            step(Step.VM_REFUSED)
            await self._take_back(row)
            raise refusal(error) from error
        step(Step.VM_ORDERED)
        if report.state == "starting":
            raise CakeworkError(f"The node left VM {row.id} starting.")
        return Started(await self.record_report(report), report.phases_ms)

    async def _start_on_node(self, row: VmRow) -> VmReport:
        order = await self._rules.orders.order_of(row)
        for _ in range(GIVES_WAY_MOST):
            try:
                return await self._node.start_vm(order)
            except (NoRoom, QuotaExceeded) as error:
                if not await self.make_room(row, error):
                    raise
        return await self._node.start_vm(order)

    async def record_report(self, report: VmReport) -> VmRow:
        """Record how the node says a VM is; returns its row."""
        vm_id = VmId(report.vm_id)
        async with self._database.writing() as session:
            row = await self._states.started(session, vm_id, report.run)
            if report.state == "stopped":
                row = await self._states.stopped(session, vm_id, report.run, ending_of(report))
            if row is None:
                raise NotFound(f"There is no VM {vm_id}.")
        self._states.tell([row])
        return row

    async def end(self, account: AccountId, vm_id: VmId, request: VmRequest) -> VmRow:
        """End a VM for good; returns its record, ``destroyed``. Ending it again changes nothing.

        Raises:
            NotFound: the account has no such VM.
            Conflict: it is a cached VM and ``request`` is for others.
            Unavailable: the node did not answer; the VM is ended once it does.
        """
        async with self.claims.hold(vm_id):
            row = await self.get(account, vm_id)
            match decide(life_of(row), request):
                case Ignore():
                    return row
                case Refuse(reason):
                    raise Conflict(reason)
                case _:
                    await self.want(vm_id, VmState.DESTROYED)
            try:
                return await self.destroy(row)
            except Unavailable:
                self.hint()
                raise

    async def destroy(self, row: VmRow, wait_s: float = 0.0) -> VmRow:
        """Have the node end a VM and free its volume, and record it destroyed.

        One that seems to have ended by itself is given ``wait_s`` seconds to say how.
        """
        vm_id, report = VmId(row.id), None
        if row.state != VmState.STOPPED or (row.cached and row.run):
            report = await self.end_on_node(vm_id, wait_s)
        await self._free(row)
        async with self._database.writing() as session:
            gone = await self._states.destroyed(session, vm_id, report)
        if gone is None:
            raise NotFound(f"There is no VM {row.id}.")
        self._states.tell([gone])
        return gone

    async def end_on_node(self, vm_id: VmId, wait_s: float = 0.0) -> VmReport | None:
        """Have the node end a VM; returns how it ended, None if the node does not know it."""
        try:
            report = await self._node.stop_vm(vm_id, StopOrder(wait_s=wait_s))
        except NotFound:
            _log.info("vm.unknown_to_node", vm_id=vm_id)
            return None
        step(Step.VM_ENDED)
        return report

    async def suspend_on_node(self, vm_id: VmId) -> VmReport:
        """Have the node end a VM and keep its memory.

        Raises:
            Conflict: that cannot be done with it; it goes on.
            NoRoom, Unavailable: not now.
        """
        try:
            report = await self._node.stop_vm(vm_id, StopOrder(keep_memory=True))
        except NotFound as error:
            raise Conflict("The host does not run this VM; look at its state.") from error
        except (Conflict, NoRoom, Unavailable):
            raise
        except CakeworkError as error:
            raise Conflict(f"The VM goes on: its memory cannot be kept. {error.detail}") from error
        step(Step.VM_ENDED)
        return report

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
        query = select(VmRow).where(VmRow.account_id == account, VmRow.role == VmRole.OWN)
        if wanted.image_id is not None:
            query = query.where(VmRow.image_id == wanted.image_id)
        if wanted.state is not None:
            query = query.where(VmRow.state == wanted.state)
        query = newest_first(query, VmRow.created_ms, VmRow.id, after)
        async with self._database.reading() as session:
            rows = list(await session.scalars(query))
        return cut(rows, lambda row: Place(row.created_ms, row.id))

    async def want(self, vm_id: VmId, state: VmState, **more: None) -> None:
        """Note what a VM is to become, so that it will, whatever happens next.

        ``more`` names what is to be forgotten of it.
        """
        async with self._database.writing() as session:
            await session.execute(
                update(VmRow)
                .where(VmRow.id == vm_id)
                .values(
                    wanted=state, updated_ms=not_before(VmRow.updated_ms, self._clock()), **more
                )
            )
        step(Step.VM_WANTED)

    async def made_by(self, token: str | None) -> VmId | None:
        """Return the VM that an idempotent request made before; None if it made none."""
        if token is None:
            return None
        async with self._database.reading() as session:
            found = await session.scalar(select(VmRow.id).where(VmRow.request_token == token))
        return VmId(found) if found is not None else None

    async def _free(self, row: VmRow) -> None:
        """Free what the node may keep of a cached VM; a snapshot that forks are being started from
        is left to the leftover loop.

        Memory may be kept of whatever has run: the answer that says so may have been lost.
        """
        vm_id = VmId(row.id)
        has_run = row.cached and row.run > 0
        if has_run and row.volume_gb:
            await self._node.delete_volume(vm_id)
            step(Step.VM_VOLUME_FREED)
        may_keep = has_run or row.snapshot == SnapshotKind.READY
        if may_keep and not await self._forking(row):
            await self._node.delete_snapshot(vm_id)

    async def _forking(self, row: VmRow) -> bool:
        async with self._database.reading() as session:
            return bool(await forked_from(session, [row.id]))

    async def _record(
        self, account: AccountId, vm_id: VmId, new: NewVm, token: str | None
    ) -> VmRow:
        async with self._database.writing() as session:
            if token is not None and (row := await session.get(VmRow, vm_id)) is not None:
                return row
            await self._rules.admission.check_image(session, account, new.image_id)
            await self._rules.admission.check_started(session, account)
            await self._rules.admission.check_volume(session, account, new.volume_gb)
            row = self._rules.new_row(account, vm_id, new)
            row.request_token = token
            session.add(row)
        self._states.tell([row])
        return row

    async def _give_up(self, row: VmRow) -> None:
        """End what the node may have begun, together with a fork those made with it.

        The request, when it is repeated, asks for another.
        """
        if row.cached:
            await self.want(VmId(row.id), VmState.STOPPED, start_token=None)
        else:
            await self.want(VmId(row.id), VmState.DESTROYED, request_token=None)
        if row.fork_batch is not None:
            async with self._database.writing() as session:
                await condemn(session, row.fork_batch)

    async def _take_back(self, row: VmRow) -> None:
        """Undo the start that the node refused: a cached VM is stopped, another never was."""
        vm_id = VmId(row.id)
        async with self._database.writing() as session:
            if row.cached:
                taken_back = await self._states.not_started(session, vm_id, row.run)
            else:
                await session.execute(
                    delete(VmRow).where(VmRow.id == vm_id, VmRow.state == VmState.CREATED)
                )
                await condemn(session, row.fork_batch)
                row.state = VmState.DESTROYED
                taken_back = row
        self._states.tell([taken_back])


async def _nothing_gives_way(_row: VmRow, _error: CakeworkError) -> bool:
    return False


def ending_of(report: VmReport) -> Ending:
    """Return how a run ended by a node's report."""
    why = report.reason or "The VM ended."
    return Ending(why, report.exit_code, report.memory_kept, report.cause)
