"""``cakework builds``: the account's builds."""

from typing import Literal
from urllib.parse import quote

from cyclopts import App

from cakework.cli.client import open_client
from cakework.cli.exits import ExitCode
from cakework.cli.output import Json, Output
from cakework.cli.webhooks import pages

COLUMNS = {
    "buildId": "ID",
    "status": "STATUS",
    "imageId": "IMAGE",
    "createdAt": "CREATED",
    "error": "ERROR",
}

app = App(name="builds", help="List builds, or cancel one.")


@app.default
def builds(
    *, status: Literal["created", "succeeded", "failed"] | None = None, as_json: Json = False
) -> int:
    """List builds, newest first.

    Args:
        status: Only those of this status.
    """
    params = {} if status is None else {"status": status}
    found = pages(open_client(), "/v1/image/builds", "builds", params)
    Output(as_json=as_json).table(found, COLUMNS, empty="No builds.")
    return ExitCode.OK


@app.command
def cancel(build_id: str, /, *, as_json: Json = False) -> int:
    """Cancel a build that has not ended.

    Args:
        build_id: Id of the build.
    """
    path = f"/v1/image/build/{quote(build_id, safe='')}/cancel"
    cancelled = open_client().call("POST", path)
    Output(as_json=as_json).result(cancelled, build_id)
    return ExitCode.OK
