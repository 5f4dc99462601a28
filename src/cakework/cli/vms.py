"""``cakework vms``, ``cakework stop`` and ``cakework destroy``."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, cast

from cyclopts import Parameter

from cakework.cli.client import Client, open_client
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


Act = Callable[[Client, str], Mapping[str, object]]
"""Does something to the thing with an id, and returns it as the API answers."""


def for_each(ids: list[str], act: Act, *, as_json: bool) -> int:
    """Do to each thing what ``act`` does, going on after one that fails; return the worst code."""
    output = Output(as_json=as_json)
    client = open_client()
    return max(for_one(client, each, act, output) for each in ids)


def for_one(client: Client, one: str, act: Act, output: Output) -> int:
    """Do it to one thing; return its exit code, having said what went wrong."""
    try:
        done = act(client, one)
    except CommandFailed as failure:
        if failure.exit_code != ExitCode.FAILED:
            raise
        output.failure(CommandFailed(f"{one}: {failure.detail}", problem=failure.problem))
        return failure.exit_code
    output.result(done or {"id": one}, one)
    return ExitCode.OK
