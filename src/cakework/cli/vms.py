"""``cakework vms``, ``cakework stop`` and ``cakework destroy``."""

from collections.abc import Callable
from typing import Annotated, Literal, cast

from cyclopts import Parameter

from cakework.cli.client import Client, Vm, open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.output import Json, Output

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
    given = {"status": status, "imageId": image}
    params = {name: value for name, value in given.items() if value is not None}
    Output(as_json=as_json).table(list_vms(open_client(), params), COLUMNS, empty="No VMs.")
    return ExitCode.OK


def list_vms(client: Client, params: dict[str, str]) -> list[dict[str, object]]:
    """Return all VMs that match, page after page."""
    found: list[dict[str, object]] = []
    while True:
        page = client.call("GET", "/v1/vms", params=params)
        found += cast("list[dict[str, object]]", page["vms"])
        if not page.get("pagination"):
            return found
        params = {**params, "pagination": str(page["pagination"])}


Ids = Annotated[list[str], Parameter(name="id", negative=())]


def stop(ids: Ids, /, *, as_json: Json = False) -> int:
    """Stop VMs. Cached ones can be started again; others are destroyed. Logs stay.

    Args:
        ids: Ids of the VMs.
    """
    return for_each(ids, Client.stop_vm, as_json=as_json)


def destroy(ids: Ids, /, *, as_json: Json = False) -> int:
    """End VMs of either kind for good, their volumes too. Logs stay.

    Args:
        ids: Ids of the VMs.
    """
    return for_each(ids, Client.destroy_vm, as_json=as_json)


def for_each(ids: list[str], act: Callable[[Client, str], Vm], *, as_json: bool) -> int:
    """Do to each VM what ``act`` does, going on after one that fails; return the worst code."""
    output = Output(as_json=as_json)
    client = open_client()
    return max(for_one(client, vm_id, act, output) for vm_id in ids)


def for_one(client: Client, vm_id: str, act: Callable[[Client, str], Vm], output: Output) -> int:
    """Do it to one VM; return its exit code, having said what went wrong."""
    try:
        vm = act(client, vm_id)
    except CommandFailed as failure:
        if failure.exit_code != ExitCode.FAILED:
            raise
        output.failure(CommandFailed(f"{vm_id}: {failure.detail}", problem=failure.problem))
        return failure.exit_code
    output.result(vm or {"id": vm_id}, vm_id)
    return ExitCode.OK
