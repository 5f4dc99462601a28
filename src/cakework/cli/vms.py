"""``cakework vms`` and ``cakework stop``."""

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


def stop(
    ids: Annotated[list[str], Parameter(name="id", negative=())], /, *, as_json: Json = False
) -> int:
    """Stop and destroy VMs. Their logs stay.

    Args:
        ids: Ids of the VMs.
    """
    output = Output(as_json=as_json)
    client = open_client()
    codes = [stop_one(client, vm_id, output) for vm_id in ids]
    return max(codes)


def stop_one(client: Client, vm_id: str, output: Output) -> int:
    """Stop one VM; return its exit code, having said what went wrong."""
    try:
        vm: Vm = client.stop_vm(vm_id)
    except CommandFailed as failure:
        if failure.exit_code != ExitCode.FAILED:
            raise
        output.failure(CommandFailed(f"{vm_id}: {failure.detail}", problem=failure.problem))
        return failure.exit_code
    output.result(vm or {"id": vm_id}, vm_id)
    return ExitCode.OK
