"""``cakework build --github``: asks for a build of a repository."""

from dataclasses import dataclass
from pathlib import Path

from cakework.cli.context import read_dockerfile
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.passwords import read_password

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


def github_body(github: GithubOptions, dockerfile: Path | None) -> dict[str, object]:
    """Return what buildImageFromGithub takes; the token is read, or asked for, here."""
    token = read_password(TOKEN_VARIABLE, github.token_variable, "Token (empty for none): ")
    body: dict[str, object] = {
        "repository": github.repository,
        "branch": github.branch or "main",
        "dockerfile": read_dockerfile(dockerfile or Path("Dockerfile")),
        "token": token,
    }
    if github.dockerignore is not None:
        body["dockerignore"] = read_dockerfile(github.dockerignore)
    return body
