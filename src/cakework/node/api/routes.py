"""Every call of the node's API, as domain.orders and domain.facts describe them."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cakework.domain.errors import Conflict, InvalidRequest
from cakework.domain.orders import BuildOrder, ImportOrder, StopOrder, VmOrder

if TYPE_CHECKING:
    from cakework.node.app import Node


def routes(node: "Node") -> list[Route]:
    """Return the routes of ``node``'s API."""

    async def health(_: Request) -> Response:
        return _json(node.health())

    async def list_vms(_: Request) -> Response:
        return JSONResponse([report.model_dump() for report in node.vms.reports()])

    async def get_vm(request: Request) -> Response:
        return _json(node.vms.report(request.path_params["vm_id"]))

    async def start_vm(request: Request) -> Response:
        order = VmOrder.model_validate_json(await request.body())
        _same(request.path_params["vm_id"], order.vm_id)
        return _json(await node.vms.start(order))

    async def stop_vm(request: Request) -> Response:
        order = StopOrder.model_validate_json(await request.body() or b"{}")
        return _json(await node.vms.stop(request.path_params["vm_id"], order.grace_s))

    async def list_builds(_: Request) -> Response:
        return JSONResponse([{"build_id": build_id} for build_id in node.builds.known()])

    async def start_build(request: Request) -> Response:
        body = await request.body()
        order = await asyncio.to_thread(BuildOrder.model_validate_json, body)
        _same(request.path_params["build_id"], order.build_id)
        node.builds.submit(order)
        return JSONResponse({"build_id": order.build_id}, 202)

    async def cancel_build(request: Request) -> Response:
        await node.builds.cancel(request.path_params["build_id"])
        return JSONResponse({})

    async def start_import(request: Request) -> Response:
        order = ImportOrder.model_validate_json(await request.body())
        _same(request.path_params["image_id"], order.image_id)
        await node.imports.take(order)
        return JSONResponse({"image_id": order.image_id}, 202)

    async def get_import(request: Request) -> Response:
        return _json(node.imports.report(request.path_params["image_id"]))

    async def delete_image(request: Request) -> Response:
        try:
            await node.images.remove(request.path_params["image_id"])
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        return JSONResponse({})

    async def delete_volume(request: Request) -> Response:
        vm_id = request.path_params["vm_id"]
        if any(report.vm_id == vm_id for report in node.vms.reports()):
            raise Conflict(f"VM {vm_id} runs")
        try:
            node.volumes.remove(vm_id)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        return JSONResponse({})

    async def journal(request: Request) -> Response:
        after = _cursor(request.query_params.get("after", "0"))
        return StreamingResponse(_until_closing(after), media_type="application/x-ndjson")

    async def _until_closing(after: int) -> AsyncIterator[bytes]:
        async for chunk in node.journal.stream(after):
            if chunk:
                yield chunk
            if node.closing:
                return

    async def acknowledge(request: Request) -> Response:
        cursor = _Cursor.model_validate_json(await request.body()).cursor
        node.journal.confirm(cursor)
        return JSONResponse({})

    return [
        Route("/v1/health", health),
        Route("/v1/vms", list_vms),
        Route("/v1/vms/{vm_id}", get_vm),
        Route("/v1/vms/{vm_id}", start_vm, methods=["PUT"]),
        Route("/v1/vms/{vm_id}/stop", stop_vm, methods=["POST"]),
        Route("/v1/builds", list_builds),
        Route("/v1/builds/{build_id}", start_build, methods=["PUT"]),
        Route("/v1/builds/{build_id}/cancel", cancel_build, methods=["POST"]),
        Route("/v1/imports/{image_id}", start_import, methods=["PUT"]),
        Route("/v1/imports/{image_id}", get_import),
        Route("/v1/images/{image_id}", delete_image, methods=["DELETE"]),
        Route("/v1/volumes/{vm_id}", delete_volume, methods=["DELETE"]),
        Route("/v1/journal", journal),
        Route("/v1/journal/ack", acknowledge, methods=["POST"]),
    ]


class _Cursor(BaseModel):
    cursor: int


def _json(model: BaseModel) -> Response:
    return Response(model.model_dump_json(), media_type="application/json")


def _same(path: str, body: str) -> None:
    if path != body:
        raise InvalidRequest(f"the order is for {body}, not for {path}")


def _cursor(text: str) -> int:
    if not text.isdecimal():
        raise InvalidRequest(f"after={text} is not a cursor")
    return int(text)
