"""``cakework build``: from a folder or a repository to an image's id, showing the build's log."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cakework.cli.client import open_client
from cakework.cli.exits import ExitCode
from cakework.cli.github_builds import GithubOptions, build_from_github, check_source
from cakework.cli.interrupts import held_interrupt
from cakework.cli.output import Json, Output, files, shown_on_stderr
from cakework.cli.values import Branch, Repository
from cakework_client import ApiError, Build, CakeworkClient, Folder, LogLine, SucceededBuild


def build(
    folder: Path | None = None,
    /,
    *,
    file: Annotated[Path | None, Parameter(alias="-f")] = None,
    github: Repository = None,
    branch: Branch = None,
    dockerignore: Path | None = None,
    token_env: str | None = None,
    as_json: Json = False,
) -> int:
    """Build an image from a folder, or a repository on GitHub; the last line is the image's id.

    Files named in the folder's .dockerignore are not sent. The token for a repository is
    GITHUB_TOKEN of the environment, if it is there, or is asked for at a terminal. Ctrl-C
    cancels the build.

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
    with open_client() as client:
        if folder is None:
            built = built_by(client, build_from_github(client, repository, file), output)
        else:
            built = built_by(client, build_from_folder(client, folder, file, output), output)
    output.result(built.to_dict(), built.image_id)
    return ExitCode.OK


def build_from_folder(
    client: CakeworkClient, path: Path, dockerfile: Path | None, output: Output
) -> Callable[[], Build]:
    """Read a folder, say what is about to be sent, and return what sends it."""
    folder = Folder.read(path, dockerfile)
    for name in folder.skipped:
        output.progress(f"left out: {name} (not a file of this folder)")
    output.progress(f"sending {files(len(folder.files))}, {folder.size_bytes / 1024:.0f} KiB")
    return lambda: client.build_image_from_files(folder.dockerfile, folder.files)


def built_by(client: CakeworkClient, ask: Callable[[], Build], output: Output) -> SucceededBuild:
    """Have a build made and show its log until it has succeeded; interrupted, cancel it."""
    began = time.monotonic()

    def show(line: LogLine) -> None:
        output.progress(shown_on_stderr(line.message))

    with held_interrupt() as interrupted:
        build = ask()
    try:
        if interrupted:
            raise KeyboardInterrupt
        built = client.wait_for_build(build.build_id, on_line=show)
    except KeyboardInterrupt:
        with suppress(ApiError):
            client.cancel_build(build.build_id)
            output.progress(f"cancelled build {build.build_id}")
        raise
    output.progress(f"built in {time.monotonic() - began:.1f} s")
    return built
