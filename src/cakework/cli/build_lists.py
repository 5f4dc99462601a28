"""``cakework builds``: the account's builds."""

from typing import Literal

from cyclopts import App

from cakework.cli.client import open_client
from cakework.cli.exits import ExitCode
from cakework.cli.output import Json, Output

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
    with open_client() as client:
        found = [build.to_dict() for build in client.iter_builds(status=status)]
    Output(as_json=as_json).table(found, COLUMNS, empty="No builds.")
    return ExitCode.OK


@app.command
def cancel(build_id: str, /, *, as_json: Json = False) -> int:
    """Cancel a build that has not ended.

    Args:
        build_id: Id of the build.
    """
    with open_client() as client:
        cancelled = client.cancel_build(build_id)
    Output(as_json=as_json).result(cancelled.to_dict(), build_id)
    return ExitCode.OK
