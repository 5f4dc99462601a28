"""``cakework build``: from a folder or a repository to an image's id, showing the build's log."""

import time
from pathlib import Path
from typing import Annotated, cast

from cyclopts import Parameter

from cakework.cli.client import Build, Client, open_client
from cakework.cli.context import Context, read_context
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.github_builds import GithubOptions, check_source, github_body
from cakework.cli.logs import build_log, follow_log
from cakework.cli.output import Json, Output, shown_on_stderr

SETTLE_S = 10.0
"""Longest wait for a build's result after its log has ended."""


def build(
    folder: Path | None = None,
    /,
    *,
    file: Annotated[Path | None, Parameter(alias="-f")] = None,
    github: str | None = None,
    branch: str | None = None,
    dockerignore: Path | None = None,
    token_env: str | None = None,
    as_json: Json = False,
) -> int:
    """Build an image from a folder, or a repository on GitHub; the last line is the image's id.

    Files named in the folder's .dockerignore are not sent. The token for a repository is
    GITHUB_TOKEN of the environment, if it is there, or is asked for at a terminal.

    Args:
        folder: Folder to build from.
        file: Dockerfile to use; the folder's own, or the current one's with --github, if absent.
        github: Repository to build from instead, org/repo, fetched by the server.
        branch: Branch of the repository (main if absent).
        dockerignore: .dockerignore to use instead of the repository's own.
        token_env: Variable that holds the token, instead of GITHUB_TOKEN.
    """
    repository = GithubOptions(github, branch, dockerignore, token_env)
    check_source(folder, repository)
    output = Output(as_json=as_json)
    client = open_client()
    began = time.monotonic()
    if folder is None:
        body = github_body(repository, file)
        created = cast("Build", client.call("POST", "/v1/image/build/github", body=body))
    else:
        context = read_context(folder, file)
        tell(context, output)
        began = time.monotonic()
        created = send(client, context)
    return finish(client, created, output, began)


def finish(client: Client, created: Build, output: Output, began: float) -> int:
    """Show a build's log until it has ended, and print its image."""
    for line in follow_log(client, build_log(created["buildId"]), {}):
        output.progress(shown_on_stderr(line["message"]))
    done = wait_for_end(client, created["buildId"])
    image_id = done.get("imageId")
    if image_id is None:
        detail = done.get("error") or "it says no more"
        raise CommandFailed(f"The build failed: {detail}", code="build_failed")
    output.progress(f"built in {time.monotonic() - began:.1f} s")
    output.result(done, image_id)
    return ExitCode.OK


def tell(context: Context, output: Output) -> None:
    """Say what is about to be sent."""
    for name in context.skipped:
        output.progress(f"left out: {name} (not a file of this folder)")
    size = f"{context.size_bytes / 1024:.0f} KiB"
    output.progress(f"sending {len(context.files)} files, {size}")


def send(client: Client, context: Context) -> Build:
    """Ask for the build and return it as created."""
    body = {"dockerfile": context.dockerfile, "files": context.files}
    return cast("Build", client.call("POST", "/v1/image/build/files", body=body))


def wait_for_end(client: Client, build_id: str) -> Build:
    """Return the build once it has ended, at most a moment after its log has."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        found = client.get_build(build_id)
        if found["status"] != "created":
            return found
        if time.monotonic() > deadline:
            raise CommandFailed(f"Build {build_id} has no result although its log has ended.")
        time.sleep(0.05)
