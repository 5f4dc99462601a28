"""Calls about the builds of an account: listBuilds, cancelBuild."""

import base64
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.builds import BuildStatus
from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unauthenticated,
)
from cakework.domain.ids import BUILD_ID_PATTERN, BuildId
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.builds import Build, BuildIdPath, build_answer
from cakework.server.api.problems import responses
from cakework.server.api.wire import AnswerBody
from cakework.server.services.account_builds import AccountBuilds, BuildPlace

TOKEN_CHARS_MAX = 200


class BuildPage(AnswerBody):
    """A page of the list of builds."""

    builds: list[Build] = Field(description="Builds, newest first, at most 100.")
    pagination: str | SkipJsonSchema[None] = Field(
        default=None, description="Token for the next page; absent on the last one."
    )


class BuildListParameters(BaseModel):
    """What listBuilds takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    status: BuildStatus | None = Field(default=None, description="Only builds of this status.")
    pagination: str | None = Field(
        default=None, max_length=TOKEN_CHARS_MAX, description="Token that the page before gave."
    )


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
            responses=responses(*always, NotFound, Conflict, TooLarge),
            response_model_exclude_none=True,
        )
        return router

    async def list(
        self, account: Account, parameters: Annotated[BuildListParameters, Query()]
    ) -> BuildPage:
        """List the account's builds, newest first, 100 a page."""
        after = _parse_place(parameters.pagination) if parameters.pagination else None
        rows, place = await self.builds.page(account, parameters.status, after)
        token = _format_place(place) if place is not None else None
        return BuildPage(builds=[build_answer(row) for row in rows], pagination=token)

    async def cancel(self, account: Account, _token: Token, build_id: BuildIdPath) -> Build:
        """End a build: it has failed, with an error that says so. One that has succeeded is
        refused, one that has failed stays as it is."""
        return build_answer(await self.builds.cancel(account, BuildId(build_id)))


class _Place(BaseModel):
    model_config = ConfigDict(extra="forbid")

    c: int = Field(ge=0, le=2**62)
    b: str = Field(pattern=BUILD_ID_PATTERN)


def _format_place(place: BuildPlace) -> str:
    text = _Place(c=place.created_ms, b=place.build_id).model_dump_json()
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _parse_place(text: str) -> BuildPlace:
    try:
        padded = text + "=" * (-len(text) % 4)
        place = _Place.model_validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, ValidationError) as error:
        raise InvalidRequest(
            "The pagination token cannot be used.",
            [FieldError("pagination", "is not one that was given")],
        ) from error
    return BuildPlace(place.c, BuildId(place.b))
