"""Calls about images, and about those fetched from registries."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cakework.domain.errors import InvalidRequest
from cakework.domain.orders import ImportOrder
from cakework.node.api.wire import answer, check_same
from cakework.node.images import ImageStore
from cakework.node.imports import Imports


class ImageCalls:
    """Import images from registries, tell which are here, remove them."""

    def __init__(self, images: ImageStore, imports: Imports) -> None:
        self._images = images
        self._imports = imports

    def routes(self) -> list[Route]:
        """Return the routes of these calls."""
        return [
            Route("/v1/imports/{image_id}", self._start_import, methods=["PUT"]),
            Route("/v1/imports/{image_id}", self._get_import),
            Route("/v1/images", self._list),
            Route("/v1/images/{image_id}", self._delete, methods=["DELETE"]),
        ]

    async def _start_import(self, request: Request) -> Response:
        order = ImportOrder.model_validate_json(await request.body())
        check_same(request.path_params["image_id"], order.image_id)
        await self._imports.take(order)
        return JSONResponse({"image_id": order.image_id}, 202)

    async def _get_import(self, request: Request) -> Response:
        return answer(self._imports.report(request.path_params["image_id"]))

    async def _list(self, _: Request) -> Response:
        ids = await asyncio.to_thread(self._images.ids)
        return JSONResponse([{"image_id": image_id} for image_id in ids])

    async def _delete(self, request: Request) -> Response:
        try:
            await self._images.remove(request.path_params["image_id"])
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        return JSONResponse({})
