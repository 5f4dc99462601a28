"""Orders for VMs: from a record to what the node is told, and from its refusal to the caller's."""

import json
from collections.abc import Awaitable, Callable
from typing import Literal

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    InvalidRequest,
    NoRoom,
    NotFound,
    QuotaExceeded,
)
from cakework.domain.ids import VmId
from cakework.domain.orders import Hooks, VmOrder
from cakework.domain.snapshots import SnapshotState
from cakework.domain.vms import Shape, VmEgress, VmRole
from cakework.server.logs.lines import Source, vm_source
from cakework.server.store.models import VmRow
from cakework.server.store.sealing import Sealer

RETRY_AFTER_S = 5


class VmOrders:
    """Makes orders; the environment in a record is sealed, and opened for its order alone."""

    def __init__(self, sealer: Sealer, last_seq: Callable[[Source], Awaitable[int]]) -> None:
        """Seal with ``sealer``; ``last_seq`` tells the number of a log's last line."""
        self._sealer = sealer
        self._last_seq = last_seq

    def seal_env(self, vm_id: VmId, env: dict[str, str]) -> bytes:
        """Return an environment as the record of ``vm_id`` keeps it."""
        return self._sealer.seal(json.dumps(env).encode(), vm_id)

    async def order_of(self, row: VmRow) -> VmOrder:
        """Return the order by which the node starts a VM.

        Raises:
            CakeworkError: its environment cannot be read with this server's key.
        """
        return VmOrder(
            vm_id=row.id,
            run=row.run,
            account_id=row.account_id,
            image_id=row.image_id,
            shape=Shape(cpu=row.cpu, memory_mb=row.memory_mb),
            hostname=row.hostname,
            port=row.port,
            env=self.env_of(row),
            volume_gb=row.volume_gb,
            volume_kept=row.cached,
            lines_before=await self._lines_before(row),
            snapshot=_begins_with(row),
            hooks=Hooks.model_validate_json(row.hooks) if row.hooks else Hooks(),
            fork_of=row.fork_of,
            forkable=row.role == VmRole.VERSION,
            egress=_egress(row),
        )

    async def snapshot_order_of(self, row: VmRow) -> VmOrder:
        """Return the order by which the node makes a VM's snapshot.

        Raises:
            CakeworkError: its environment cannot be read with this server's key.
        """
        return (await self.order_of(row)).model_copy(update={"run": 0})

    def env_of(self, row: VmRow) -> dict[str, str]:
        """Return the environment in a record.

        Raises:
            CakeworkError: it cannot be read with this server's key.
        """
        if row.env_sealed is None:
            raise CakeworkError(f"The record of VM {row.id} has no environment any more.")
        return json.loads(self._sealer.unseal(row.env_sealed, row.id))

    async def _lines_before(self, row: VmRow) -> int:
        if row.run <= 1 and row.snapshot_state is None:
            return 0
        return await self._last_seq(vm_source(row.id))


def refusal(error: CakeworkError) -> CakeworkError:
    """Return what the caller is told of the node's refusal."""
    match error:
        case NoRoom():
            return NoRoom(error.detail, retry_after_s=error.retry_after_s or RETRY_AFTER_S)
        case QuotaExceeded():
            return QuotaExceeded(error.detail, retry_after_s=error.retry_after_s or RETRY_AFTER_S)
        case InvalidRequest() | Conflict():
            return error
        case NotFound():
            return Conflict("The image is not on the host any more; build it again.")
        case _:
            return CakeworkError(f"The node could not start the VM: {error.detail}")


def _egress(row: VmRow) -> VmEgress:
    return "internet" if row.egress == "internet" else "none"


def _begins_with(row: VmRow) -> Literal["boot", "ready"]:
    """A snapshot that could not be made is not tried again at every start."""
    usable = row.snapshot_state in (SnapshotState.MAKING, SnapshotState.MADE)
    return "ready" if usable else "boot"
