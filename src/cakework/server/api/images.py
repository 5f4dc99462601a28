"""Calls about images: listImages, getImage, deleteImage. They are made by builds and imports."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    InvalidRequest,
    NotFound,
    Unauthenticated,
)
from cakework.domain.ids import IMAGE_ID_PATTERN, ImageId
from cakework.domain.images import ImageSource, ImageState
from cakework.server.api.account_route import Account, Door
from cakework.server.api.paging import GivenToken, Page, place_of, token_of
from cakework.server.api.problems import responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import AnswerBody
from cakework.server.services.images import Images, KnownImage

ImageIdPath = Annotated[
    str, Path(alias="imageId", pattern=IMAGE_ID_PATTERN, description="Id of the image.")
]


class Image(AnswerBody):
    """An image."""

    image_id: str = Field(description="Id of the image.", pattern=IMAGE_ID_PATTERN)
    source: ImageSource = Field(
        description="files, github: it was built of these; import: it is from a registry."
    )
    state: ImageState = Field(
        description="importing: being fetched; ready: VMs can be started from it; failed: it "
        "could not be imported; deleted: gone."
    )
    size_bytes: int | SkipJsonSchema[None] = Field(
        default=None, description="Bytes of its root file system, packed; absent until ready."
    )
    image_uri: str | SkipJsonSchema[None] = Field(
        default=None, description="Where an imported image is from."
    )
    build_id: str | SkipJsonSchema[None] = Field(
        default=None,
        description="Build that made it; absent for imports, and when its record is gone.",
    )
    error: str | SkipJsonSchema[None] = Field(
        default=None, description="Why it could not be imported."
    )
    created_at: str = Field(
        description="When it was made, or its import asked for.",
        json_schema_extra={"format": "date-time"},
    )
    updated_at: str = Field(
        description="When it last changed.", json_schema_extra={"format": "date-time"}
    )


class ImagePage(Page):
    """A page of the list of images."""

    images: list[Image] = Field(description="Images, newest first, at most 100.")


class ImageListParameters(BaseModel):
    """What listImages takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    pagination: GivenToken = None


@dataclass(frozen=True, slots=True)
class ImageRoutes:
    """The calls about images."""

    images: Images

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Images"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        one = "/v1/image/{imageId}"
        delete = "Delete an image that no VM uses; doing it again changes nothing"
        for path, method, endpoint, name, summary, errors in (
            ("/v1/images", "GET", self.list, "listImages", "List images, newest first", ()),
            (one, "GET", self.get, "getImage", "Look at an image", (NotFound,)),
            (one, "DELETE", self.delete, "deleteImage", delete, (NotFound, Conflict)),
        ):
            router.add_api_route(
                path,
                endpoint,
                methods=[method],
                operation_id=name,
                summary=summary,
                responses=responses(*always, *errors),
                response_model_exclude_none=True,
            )
        return router

    async def list(
        self, account: Account, parameters: Annotated[ImageListParameters, Query()]
    ) -> ImagePage:
        """List the account's images that are not deleted, newest first, 100 a page."""
        found, place = await self.images.page(account, place_of(parameters.pagination))
        images = [image_answer(image) for image in found]
        return ImagePage(images=images, pagination=token_of(place))

    async def get(self, account: Account, image_id: ImageIdPath) -> Image:
        """Look at an image; of an import, this says when it is ready or why it failed."""
        return image_answer(await self.images.get(account, ImageId(image_id)))

    async def delete(self, account: Account, image_id: ImageIdPath) -> Image:
        """Delete an image. Refused while a VM that is not destroyed uses it, cached ones too."""
        return image_answer(await self.images.delete(account, ImageId(image_id)))


def image_answer(image: KnownImage) -> Image:
    """Return an image as it is answered."""
    own, imported = image.own, image.imported
    return Image(
        image_id=image.first.id,
        source=ImageSource(own.source) if own is not None else ImageSource.IMPORT,
        state=image.state,
        size_bytes=own.size_bytes if own is not None else None,
        image_uri=imported.image_uri if imported is not None else None,
        build_id=own.build_id if own is not None else None,
        error=imported.error if imported is not None else None,
        created_at=rfc3339(image.first.created_ms),
        updated_at=rfc3339(image.updated_ms),
    )
