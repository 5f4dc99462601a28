"""Calls about imports: importImage."""

from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import Field, SecretStr, field_validator

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    InvalidRequest,
    NoRoom,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from cakework.domain.ids import IMAGE_ID_PATTERN
from cakework.domain.image_references import whole_reference
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.wire import AnswerBody, RequestBody, Text
from cakework.server.services.imports import Imports, NewImport

ECR_USERNAME = "AWS"
SECRET_CHARS_MAX = 16_384


class ImportImage(RequestBody):
    """What importImage takes."""

    image_uri: Text = Field(
        description="The image: `registry/name:tag` or `registry/name@sha256:…`, for linux/amd64."
    )
    password: SecretStr = Field(
        max_length=SECRET_CHARS_MAX,
        description="Password or token for the registry; empty for none. It is not kept.",
    )
    username: Text | None = Field(
        default=None,
        max_length=255,
        description="User name for the registry; `AWS`, which ECR expects, if absent.",
    )

    @field_validator("image_uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        return whole_reference(uri)

    @field_validator("username")
    @classmethod
    def _check_username(cls, username: str | None) -> str | None:
        if ":" in (username or ""):
            raise ValueError("must not have a colon in it")
        return username

    def new_import(self) -> NewImport:
        """Return the import that this body asks for."""
        username = ECR_USERNAME if self.username is None else self.username
        return NewImport(self.image_uri, username, self.password.get_secret_value())


class ImportedImage(AnswerBody):
    """An image that is being imported."""

    image_id: str = Field(
        description="The image: VMs can be started from it at once, and wait until it is there.",
        pattern=IMAGE_ID_PATTERN,
    )


@dataclass(frozen=True, slots=True)
class ImportRoutes:
    """The calls about imports."""

    imports: Imports

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Images"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        refused = (NotFound, Conflict, *BODY_ERRORS, QuotaExceeded, NoRoom, Unavailable)
        router.add_api_route(
            "/v1/image/import",
            self.create,
            methods=["POST"],
            operation_id="importImage",
            summary="Import an image from a registry",
            responses=responses(*always, *refused),
        )
        return router

    async def create(self, account: Account, token: Token, body: ImportImage) -> ImportedImage:
        """Ask the registry and answer; the image is fetched in the background."""
        image_id = await self.imports.create(account, body.new_import(), token)
        return ImportedImage(image_id=image_id)
