"""``cakework build --github``: asks for a build of a repository."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.passwords import read_password
from cakework_client import Build, CakeworkClient
from cakework_client.folders import read_dockerfile

TOKEN_VARIABLE = "GITHUB_TOKEN"  # noqa: S105 - the name of a variable


@dataclass(frozen=True)
class GithubOptions:
    """The options of ``cakework build`` that are about repositories, as given."""

    repository: str | None
    branch: str | None
    dockerignore: Path | None
    token_variable: str | None

    @property
    def given(self) -> bool:
        """Whether any is given."""
        return any((self.repository, self.branch, self.dockerignore, self.token_variable))


def check_source(folder: Path | None, github: GithubOptions) -> None:
    """Raise CommandFailed unless a folder is to be built, or a repository, and not both."""
    if github.given and github.repository is None:
        raise CommandFailed(
            "--branch, --dockerignore and --token-env go with --github org/repo.", ExitCode.USAGE
        )
    if (folder is None) == (github.repository is None):
        raise CommandFailed("Name a folder, or --github org/repo.", ExitCode.USAGE)


def build_from_github(
    client: CakeworkClient, github: GithubOptions, dockerfile: Path | None
) -> Callable[[], Build]:
    """Read what is needed, ask for the token, and return what asks for the build."""
    token = read_password(TOKEN_VARIABLE, github.token_variable, "Token (empty for none): ")
    text = read_dockerfile(dockerfile or Path("Dockerfile"))
    ignore = github.dockerignore and read_dockerfile(github.dockerignore)
    return lambda: client.build_image_from_github(
        text, github.repository or "", github.branch or "main", token=token, dockerignore=ignore
    )
