"""Orders for VMs: from a record to what the node is told, and from its refusal to the caller's."""

from cakework.domain.errors import CakeworkError, Conflict, InvalidRequest, NoRoom, NotFound
from cakework.domain.orders import VmOrder
from cakework.domain.vms import Shape
from cakework.server.store.models import VmRow

RETRY_AFTER_S = 5


def order_of(row: VmRow) -> VmOrder:
    """Return the order by which the node starts a VM."""
    return VmOrder(
        vm_id=row.id,
        image_id=row.image_id,
        shape=Shape(cpu=row.cpu, memory_mb=row.memory_mb),
        hostname=row.hostname,
        port=row.port,
        env=row.env,
        volume_gb=row.volume_gb,
    )


def refusal(error: CakeworkError) -> CakeworkError:
    """Return what the caller is told of the node's refusal."""
    match error:
        case NoRoom():
            return NoRoom(error.detail, retry_after_s=error.retry_after_s or RETRY_AFTER_S)
        case InvalidRequest() | Conflict():
            return error
        case NotFound():
            return Conflict("The image is not on the host any more; build it again.")
        case _:
            return CakeworkError(f"The node could not start the VM: {error.detail}")
