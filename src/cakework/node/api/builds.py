"""Calls about builds, and code that no image is made of."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cakework.domain.orders import BuildOrder, CodeOrder
from cakework.node.api.wire import check_same
from cakework.node.builds import Builds


class BuildCalls:
    """Take builds, tell which are unfinished, cancel them."""

    def __init__(self, builds: Builds) -> None:
        self._builds = builds

    def routes(self) -> list[Route]:
        """Return the routes of these calls."""
        return [
            Route("/v1/builds", self._list),
            Route("/v1/builds/{build_id}", self._start, methods=["PUT"]),
            Route("/v1/builds/{build_id}/cancel", self._cancel, methods=["POST"]),
            Route("/v1/code", self._code, methods=["POST"]),
        ]

    async def _list(self, _: Request) -> Response:
        return JSONResponse([report.model_dump() for report in self._builds.reports()])

    async def _start(self, request: Request) -> Response:
        body = await request.body()
        order = await asyncio.to_thread(BuildOrder.model_validate_json, body)
        check_same(request.path_params["build_id"], order.build_id)
        await self._builds.submit(order, body)
        return JSONResponse({"build_id": order.build_id}, 202)

    async def _cancel(self, request: Request) -> Response:
        await self._builds.cancel(request.path_params["build_id"])
        return JSONResponse({})

    async def _code(self, request: Request) -> Response:
        order = CodeOrder.model_validate_json(await request.body())
        return Response(await self._builds.code(order), media_type="application/gzip")
