"""``cakework vms``, ``cakework stop`` and ``cakework destroy``."""

from collections.abc import Callable
from typing import Annotated, Literal

from cyclopts import Parameter

from cakework.cli.client import failure_of, open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.output import Json, Output
from cakework_client import Answer, ApiError, CakeworkClient, Conflict, Vm

COLUMNS = {
    "id": "ID",
    "state": "STATE",
    "imageId": "IMAGE",
    "cpu": "CPU",
    "memory": "MB",
    "createdAt": "CREATED",
    "url": "URL",
}


def vms(
    *,
    status: Literal["created", "started", "stopped", "destroyed"] | None = None,
    image: str | None = None,
    as_json: Json = False,
) -> int:
    """List VMs, newest first.

    Args:
        status: Only those in this state.
        image: Only those made from this image.
    """
    with open_client() as client:
        found = [vm.to_dict() for vm in client.iter_vms(status=status, image_id=image)]
    Output(as_json=as_json).table(found, COLUMNS, empty="No VMs.")
    return ExitCode.OK


Ids = Annotated[list[str], Parameter(name="id", negative=())]


def stop(
    ids: Ids,
    /,
    *,
    keep_memory: Annotated[bool, Parameter(negative=())] = False,
    as_json: Json = False,
) -> int:
    """Stop VMs. Cached ones can be started again; others are destroyed. Logs stay.

    Args:
        ids: Ids of the VMs.
        keep_memory: Freeze cached VMs, to go on at their next start where they were.
    """
    return for_each(ids, suspend_vm if keep_memory else stop_vm, as_json=as_json)


def destroy(ids: Ids, /, *, as_json: Json = False) -> int:
    """End VMs of either kind for good, their volumes too. Logs stay.

    Args:
        ids: Ids of the VMs.
    """
    return for_each(ids, CakeworkClient.destroy_vm, as_json=as_json)


def stop_vm(client: CakeworkClient, vm_id: str) -> Vm:
    """Stop a VM of either kind."""
    try:
        return client.stop_vm(vm_id)
    except Conflict:
        return client.stop_cached_vm(vm_id)


def suspend_vm(client: CakeworkClient, vm_id: str) -> Vm:
    """Stop a cached VM and keep its memory."""
    return client.stop_cached_vm(vm_id, keep="memory")


Act = Callable[[CakeworkClient, str], Answer]


def for_each(ids: list[str], act: Act, *, as_json: bool) -> int:
    """Do to each thing what ``act`` does, going on after one that fails; return the worst code."""
    output = Output(as_json=as_json)
    with open_client() as client:
        return max(for_one(client, id_, act, output) for id_ in ids)


def for_one(client: CakeworkClient, id_: str, act: Act, output: Output) -> int:
    """Do it to one thing; return its exit code, having said what went wrong."""
    try:
        done = act(client, id_)
    except ApiError as error:
        failure = failure_of(error)
        if failure.exit_code != ExitCode.FAILED:
            raise
        output.failure(CommandFailed(f"{id_}: {failure.detail}", problem=failure.problem))
        return failure.exit_code
    output.result(done.to_dict(), id_)
    return ExitCode.OK
