"""Calls about images."""

from collections.abc import AsyncGenerator
from typing import Unpack

from cakework_client._async.transport import AsyncTransport
from cakework_client.calls import Options, PostOptions, segment
from cakework_client.models import Image, ImagePage, ImportedImage
from cakework_client.wire import given


class AsyncImages(AsyncTransport):
    """Calls about images."""

    async def import_image(
        self,
        image_uri: str,
        password: str = "",
        *,
        username: str | None = None,
        **options: Unpack[PostOptions],
    ) -> ImportedImage:
        """Have an image fetched from a registry; a start from it waits until it is there.

        Args:
            image_uri: ``registry/name:tag`` or ``registry/name@sha256:…``.
            password: Password or token for the registry; empty for none.
            username: User name for the registry; ``AWS``, which ECR expects, if absent.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(image_uri=image_uri, password=password, username=username)
        return await self._call(ImportedImage, "POST", "/v1/image/import", options, body=body)

    async def get_image(self, image_id: str, **options: Unpack[Options]) -> Image:
        """Return an image."""
        return await self._call(Image, "GET", f"/v1/image/{segment(image_id)}", options)

    async def list_images(
        self, *, pagination: str | None = None, **options: Unpack[Options]
    ) -> ImagePage:
        """Return a page of images, newest first; see :meth:`iter_images` for all of them."""
        params = given(pagination=pagination)
        return await self._call(ImagePage, "GET", "/v1/images", options, params=params)

    async def iter_images(self, **options: Unpack[Options]) -> AsyncGenerator[Image]:
        """Yield all images, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = await self.list_images(pagination=pagination, **options)
            for image in page.images:
                yield image
            pagination = page.pagination
            if pagination is None:
                return

    async def delete_image(self, image_id: str, **options: Unpack[Options]) -> Image:
        """Delete an image that no VM uses."""
        return await self._call(Image, "DELETE", f"/v1/image/{segment(image_id)}", options)
