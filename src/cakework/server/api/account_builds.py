"""Calls about the builds of an account: listBuilds, cancelBuild."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from cakework.domain.builds import BuildStatus
from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    InvalidRequest,
    NotFound,
    Unauthenticated,
)
from cakework.domain.ids import BuildId
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.builds import Build, BuildIdPath, build_answer
from cakework.server.api.paging import GivenToken, Page, place_of, token_of
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.services.account_builds import AccountBuilds


class BuildPage(Page):
    """A page of the list of builds."""

    builds: list[Build] = Field(description="Builds, newest first, at most 100.")


class BuildListParameters(BaseModel):
    """What listBuilds takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    status: BuildStatus | None = Field(default=None, description="Only builds of this status.")
    pagination: GivenToken = None


@dataclass(frozen=True, slots=True)
class AccountBuildRoutes:
    """The calls about the builds of an account."""

    builds: AccountBuilds

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Builds"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        router.add_api_route(
            "/v1/image/builds",
            self.list,
            methods=["GET"],
            operation_id="listBuilds",
            summary="List builds, newest first",
            responses=responses(*always),
            response_model_exclude_none=True,
        )
        router.add_api_route(
            "/v1/image/build/{buildId}/cancel",
            self.cancel,
            methods=["POST"],
            operation_id="cancelBuild",
            summary="Cancel a build; doing it again changes nothing",
            responses=responses(*always, NotFound, Conflict, *BODY_ERRORS),
            response_model_exclude_none=True,
        )
        return router

    async def list(
        self, account: Account, parameters: Annotated[BuildListParameters, Query()]
    ) -> BuildPage:
        """List the account's builds, newest first, 100 a page."""
        after = place_of(parameters.pagination)
        rows, place = await self.builds.page(account, parameters.status, after)
        return BuildPage(builds=[build_answer(row) for row in rows], pagination=token_of(place))

    async def cancel(self, account: Account, _token: Token, build_id: BuildIdPath) -> Build:
        """End a build: it has failed, with an error that says so. One that has succeeded is
        refused, one that has failed stays as it is."""
        return build_answer(await self.builds.cancel(account, BuildId(build_id)))
