"""Calls about builds from GitHub: buildImageFromGithub."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import Field, SecretStr

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    InvalidRequest,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.orders import GithubSource
from cakework.domain.repositories import (
    RepositoryError,
    checked_branch,
    checked_repository,
    checked_token,
)
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.builds import Build, build_answer, dockerfile_faults, refuse
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.wire import RequestBody, Text
from cakework.server.services.builds import Builds, NewBuild


class BuildFromGithub(RequestBody):
    """What buildImageFromGithub takes."""

    dockerfile: Text = Field(
        description="The Dockerfile, as text. It counts, whatever the repository has."
    )
    dockerignore: Text | None = Field(
        default=None,
        description="The .dockerignore, as text; the repository's own counts if absent.",
    )
    token: SecretStr = Field(
        description="Token that may read the repository; empty for a public one. It is kept, "
        "encrypted, until the build has ended."
    )
    repository: Text = Field(description="The repository: `org/repo`.")
    branch: Text = Field(description="The branch; its newest commit is built.")

    def new_build(self) -> NewBuild:
        """Return the build that this body asks for.

        Raises:
            InvalidRequest: naming every field at fault.
        """
        repository, branch = self.repository, self.branch
        token = self.token.get_secret_value()
        faults = dockerfile_faults(self.dockerfile)
        faults += _faults("token", checked_token, token)
        faults += _faults("repository", checked_repository, repository)
        faults += _faults("branch", checked_branch, branch)
        refuse(faults)
        source = GithubSource(repository=repository, branch=branch, token=token)
        return NewBuild(self.dockerfile, source, self.dockerignore)


@dataclass(frozen=True, slots=True)
class GithubBuildRoutes:
    """The calls about builds from GitHub."""

    builds: Builds

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Builds"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        router.add_api_route(
            "/v1/image/build/github",
            self.create,
            methods=["POST"],
            operation_id="buildImageFromGithub",
            summary="Build an image from a Dockerfile and a repository on GitHub",
            response_model_exclude_none=True,
            responses=responses(*always, Conflict, *BODY_ERRORS, QuotaExceeded),
        )
        return router

    async def create(self, account: Account, token: Token, body: BuildFromGithub) -> Build:
        """Take a build and answer at once; the repository is fetched in the background."""
        new = await asyncio.to_thread(body.new_build)
        return build_answer(await self.builds.create(account, new, token))


def _faults(field: str, check: Callable[[str], str], value: str) -> list[FieldError]:
    try:
        check(value)
    except RepositoryError as error:
        return [FieldError(field, str(error))]
    return []
