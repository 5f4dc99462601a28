"""Calls about images."""

from typing import Unpack

from cakework_client._async.transport import AsyncTransport
from cakework_client.calls import PostOptions
from cakework_client.models import ImportedImage
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
