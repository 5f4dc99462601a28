"""Made of _async/images.py by generate_sync.py; edit that.

Calls about images."""

from collections.abc import Generator
from typing import Unpack

from cakework_client._sync.transport import Transport
from cakework_client.calls import Options, PostOptions, segment
from cakework_client.models import Image, ImagePage, ImportedImage
from cakework_client.wire import given


class Images(Transport):
    """Calls about images."""

    def import_image(
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
        return self._call(ImportedImage, "POST", "/v1/image/import", options, body=body)

    def get_image(self, image_id: str, **options: Unpack[Options]) -> Image:
        """Return an image."""
        return self._call(Image, "GET", f"/v1/image/{segment(image_id)}", options)

    def list_images(
        self, *, pagination: str | None = None, **options: Unpack[Options]
    ) -> ImagePage:
        """Return a page of images, newest first; see :meth:`iter_images` for all of them."""
        params = given(pagination=pagination)
        return self._call(ImagePage, "GET", "/v1/images", options, params=params)

    def iter_images(self, **options: Unpack[Options]) -> Generator[Image]:
        """Yield all images, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = self.list_images(pagination=pagination, **options)
            yield from page.images
            pagination = page.pagination
            if pagination is None:
                return

    def delete_image(self, image_id: str, **options: Unpack[Options]) -> Image:
        """Delete an image that no VM uses."""
        return self._call(Image, "DELETE", f"/v1/image/{segment(image_id)}", options)
