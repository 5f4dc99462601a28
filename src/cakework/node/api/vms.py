"""Calls about VMs and their volumes."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cakework.domain.errors import Conflict, InvalidRequest
from cakework.domain.orders import SnapshotOrder, StopOrder, VmOrder
from cakework.node.api.wire import answer, check_same
from cakework.node.vms.registry import Vms
from cakework.node.vms.volumes import Volumes


class VmCalls:
    """Start, stop and look at VMs; tell which volumes are kept, remove them."""

    def __init__(self, vms: Vms, volumes: Volumes) -> None:
        self._vms = vms
        self._volumes = volumes

    def routes(self) -> list[Route]:
        """Return the routes of these calls."""
        return [
            Route("/v1/vms", self._list),
            Route("/v1/vms/{vm_id}", self._get),
            Route("/v1/vms/{vm_id}", self._start, methods=["PUT"]),
            Route("/v1/vms/{vm_id}/stop", self._stop, methods=["POST"]),
            Route("/v1/vms/{vm_id}/snapshot", self._snapshot, methods=["POST"]),
            Route("/v1/vms/{vm_id}/mark", self._mark, methods=["POST"]),
            Route("/v1/volumes", self._list_volumes),
            Route("/v1/volumes/{vm_id}", self._delete_volume, methods=["DELETE"]),
        ]

    async def _list(self, _: Request) -> Response:
        return JSONResponse([report.model_dump() for report in self._vms.reports()])

    async def _get(self, request: Request) -> Response:
        return answer(self._vms.report(request.path_params["vm_id"]))

    async def _start(self, request: Request) -> Response:
        order = VmOrder.model_validate_json(await request.body())
        check_same(request.path_params["vm_id"], order.vm_id)
        return answer(await self._vms.start(order))

    async def _stop(self, request: Request) -> Response:
        order = StopOrder.model_validate_json(await request.body() or b"{}")
        vm_id = request.path_params["vm_id"]
        stopped = await self._vms.stop(
            vm_id, order.grace_s, wait_s=order.wait_s, keep_memory=order.keep_memory
        )
        return answer(stopped)

    async def _snapshot(self, request: Request) -> Response:
        order = SnapshotOrder.model_validate_json(await request.body())
        return answer(await self._vms.take_snapshot(request.path_params["vm_id"], order))

    async def _mark(self, request: Request) -> Response:
        return answer(await self._vms.mark(request.path_params["vm_id"]))

    async def _list_volumes(self, _: Request) -> Response:
        ids = await asyncio.to_thread(self._volumes.ids)
        return JSONResponse([{"vm_id": vm_id} for vm_id in ids])

    async def _delete_volume(self, request: Request) -> Response:
        vm_id = request.path_params["vm_id"]
        if any(report.vm_id == vm_id for report in self._vms.reports()):
            raise Conflict(f"VM {vm_id} runs")
        try:
            self._volumes.remove(vm_id)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        return JSONResponse({})
