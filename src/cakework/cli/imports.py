"""``cakework import``: fetch an image from a registry, and wait until it can be used."""

import sys
import time
from typing import Annotated

from cyclopts import Parameter

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.output import Json, Output
from cakework.cli.passwords import read_password
from cakework.cli.values import Reference
from cakework_client import CakeworkClient, Image

PASSWORD_VARIABLE = "REGISTRY_PASSWORD"  # noqa: S105 - the name of a variable
POLL_S = (0.1, 0.2, 0.5, 1.0)
PROGRESS_S = 10.0


def import_image(
    uri: Reference,
    /,
    *,
    username: str | None = None,
    password_env: str | None = None,
    password_stdin: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    as_json: Json = False,
) -> int:
    """Import an image from a registry; the last line is the image's id.

    The password is REGISTRY_PASSWORD of the environment, if it is there; with --username it is
    asked for at a terminal. Without one the image is fetched as anybody could.

    Args:
        uri: The image, registry/name:tag or registry/name@sha256:…, for linux/amd64.
        username: User name for the registry (the server's default is AWS, for ECR).
        password_env: Variable that holds the password, instead of REGISTRY_PASSWORD.
        password_stdin: Read the password from standard input, one line.
    """
    output = Output(as_json=as_json)
    if password_stdin:
        password = sys.stdin.readline().strip()
    else:
        prompt = None if username is None else "Password: "
        password = read_password(PASSWORD_VARIABLE, password_env, prompt)
    began = time.monotonic()
    with open_client() as client:
        output.progress(f"importing {uri}")
        image_id = client.import_image(uri, password, username=username).image_id
        image = wait_until_ready(client, image_id, output, began)
    size = (image.size_bytes or 0) / 2**20
    output.progress(f"imported in {time.monotonic() - began:.1f} s, {size:.0f} MiB")
    output.result(image.to_dict(), image_id)
    return ExitCode.OK


def wait_until_ready(client: CakeworkClient, image_id: str, output: Output, began: float) -> Image:
    """Return the image once VMs can be started from it, saying now and then that it is not."""
    told = tries = 0
    while True:
        image = client.get_image(image_id)
        if image.state == "ready":
            return image
        if image.state != "importing":
            why = image.error or f"it is {image.state}"
            raise CommandFailed(f"The import failed: {why}", code="import_failed")
        if time.monotonic() - began > (told + 1) * PROGRESS_S:
            told += 1
            output.progress(f"still importing after {time.monotonic() - began:.0f} s")
        time.sleep(POLL_S[min(tries, len(POLL_S) - 1)])
        tries += 1
