"""The VMs that functions run in, and how one comes from another.

    layer ──▶ runtime ──fork──▶ version ──fork──▶ instance
              the adapter,      + code,           serves
              up and empty      imported          invocations

A runtime and a version are cached VMs that rest as "ready" snapshots. Where a version has none (it
is being made, or is lost), its instances are forked from the runtime and given the code themselves.

A runtime reaches nothing: it needs nothing, and what its dependencies do as it starts is part of
functions that are to reach nothing. What is forked reaches what its function's settings say.
"""

import secrets
from collections.abc import Callable

import structlog
from sqlalchemy import select

from cakework.domain.errors import CakeworkError, Conflict, NotFound, Unavailable
from cakework.domain.ids import AccountId, ImageId, VmId, new_vm_id
from cakework.domain.orders import Hooks, HttpHook, SnapshotOrder
from cakework.domain.snapshots import SnapshotKind, SnapshotState
from cakework.domain.vms import Shape, VmEgress, VmRole, VmState
from cakework.server.functions.adapter import CONTROL_PORT
from cakework.server.node.client import NodeClient
from cakework.server.services.new_vms import NewVm, VmRules, Warm
from cakework.server.services.snapshot_states import SnapshotStates
from cakework.server.services.vm_states import VmStates
from cakework.server.services.vms import Vms
from cakework.server.store.database import Database
from cakework.server.store.function_models import LayerRow, RuntimeVmRow
from cakework.server.store.models import VmRow

HOOKS = Hooks(
    before_snapshot=HttpHook(path="/before-snapshot"), after_resume=HttpHook(path="/after-resume")
)
FAILED_MS = 10_000
"""How long a runtime that could not be started is not tried again: whoever asks is told why."""
_log = structlog.stdlib.get_logger(__name__)


class ParentLost(CakeworkError):
    """The snapshot that a VM was to begin from is not there any more; it is being made anew."""


class Machines:
    """Makes and ends the VMs of functions."""

    def __init__(
        self,
        database: Database,
        node: NodeClient,
        vms: Vms,
        states: VmStates,
        snapshots: SnapshotStates,
        rules: VmRules,
        hint: Callable[[], None],
    ) -> None:
        """Keep records in ``database``; ``hint`` says that a snapshot is to be made."""
        self._database = database
        self._node = node
        self._vms = vms
        self._states = states
        self._snapshots = snapshots
        self._rules = rules
        self._hint = hint

    async def runtime(self, layer: LayerRow, shape: Shape) -> VmRow:
        """Return the runtime VM of a layer, made if there is none; its snapshot may be being made.

        One that could not be started is told of for a moment, then it is tried again.

        Raises:
            QuotaExceeded: the account has as many cached VMs as it may.
        """
        account, now = AccountId(layer.account_id), self._rules.clock()
        async with self._database.writing() as session:
            found = await session.scalar(
                select(RuntimeVmRow).where(
                    RuntimeVmRow.layer_id == layer.id,
                    RuntimeVmRow.cpu == shape.cpu,
                    RuntimeVmRow.memory_mb == shape.memory_mb,
                )
            )
            if found is not None:
                row = await session.get(VmRow, found.vm_id)
                if row is not None and _is_usable(row, now):
                    found.used_ms = now
                    return row
                await session.delete(found)
                await session.flush()
            new = NewVm(
                ImageId(layer.image_id or ""),
                shape,
                CONTROL_PORT,
                warm=Warm(SnapshotKind.READY, HOOKS),
            )
            row = self._rules.new_cached_row(account, new_vm_id(), new)
            row.role, row.egress = VmRole.RUNTIME, "none"
            session.add(row)
            session.add(
                RuntimeVmRow(
                    vm_id=row.id,
                    node_id="",
                    layer_id=layer.id,
                    cpu=shape.cpu,
                    memory_mb=shape.memory_mb,
                    used_ms=now,
                )
            )
        self._states.tell([row])
        self._hint()
        return row

    async def fork(self, parent: VmRow, vm_id: VmId, role: VmRole, egress: VmEgress) -> VmRow:
        """Start a VM from the snapshot of another; returns its record, started.

        It reaches what ``egress`` says, whatever the other one did.

        Raises:
            ParentLost: that snapshot is not there.
            QuotaExceeded, NoRoom, Unavailable: not now.
            CakeworkError: the node could not start it. Nothing is left of it then.
        """
        async with self._vms.claims.hold(vm_id):
            row = self._rules.fork_row(parent, vm_id, secrets.token_hex(16))
            row.role, row.egress = role, egress
            if role is VmRole.VERSION:
                # It is to rest as a snapshot, and to be forked from in its turn.
                row.cached, row.snapshot = True, SnapshotKind.READY
                row.snapshot_state = SnapshotState.MAKING
            async with self._database.writing() as session:
                account = AccountId(parent.account_id)
                await self._rules.admission.check_started(session, account)
                session.add(row)
            self._states.tell([row])
            try:
                return (await self._vms.give_order(row)).row
            except CakeworkError as error:
                if role is VmRole.VERSION:
                    await self._end_held(vm_id, 0.0)
                if isinstance(error.__cause__, NotFound | Conflict):
                    await self._make_anew(VmId(parent.id))
                    raise ParentLost("The snapshot is being made anew.") from error
                raise

    async def keep(self, vm_id: VmId) -> None:
        """Make a running VM rest as its own "ready" snapshot. Raises CakeworkError."""
        await self._node.snapshot_vm(vm_id, SnapshotOrder(snapshot_id=vm_id, then="end"))
        async with self._database.writing() as session:
            row = await self._snapshots.made(session, vm_id)
        self._states.tell([row])

    async def end(self, vm_id: VmId, wait_s: float = 0.0) -> VmRow | None:
        """End a VM for good; returns its record when all it held is released, None for none.

        One that seems to have ended by itself is given ``wait_s`` seconds to say how.

        Raises:
            Unavailable: the node does not answer; it is ended once it does.
        """
        async with self._vms.claims.hold(vm_id):
            return await self._end_held(vm_id, wait_s)

    async def find(self, vm_id: str) -> VmRow | None:
        """Return the record of a VM."""
        async with self._database.reading() as session:
            return await session.get(VmRow, vm_id)

    async def _end_held(self, vm_id: VmId, wait_s: float) -> VmRow | None:
        row = await self.find(vm_id)
        if row is None or row.state == VmState.DESTROYED:
            return row
        await self._vms.want(vm_id, VmState.DESTROYED)
        try:
            return await self._vms.destroy(row, wait_s)
        except Unavailable:
            self._vms.hint()
            raise

    async def _make_anew(self, parent: VmId) -> None:
        async with self._database.writing() as session:
            row = await self._snapshots.lost(session, parent)
        self._states.tell([row])
        _log.warning("function.snapshot_lost", vm_id=parent)
        self._hint()


def _is_usable(row: VmRow, now: int) -> bool:
    """One of an earlier version's, which had egress, is not."""
    return row.state != VmState.DESTROYED and row.egress == "none" and not _is_over(row, now)


def _is_over(row: VmRow, now: int) -> bool:
    return row.snapshot_state == SnapshotState.FAILED and row.updated_ms <= now - FAILED_MS
