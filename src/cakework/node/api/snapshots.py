"""Calls about snapshots of programs, and memory that stops kept."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cakework.domain.orders import VmOrder
from cakework.node.api.wire import answer, check_same
from cakework.node.vms.registry import Vms
from cakework.node.vms.snapshots import Snapshots


class SnapshotCalls:
    """Have snapshots made, look at them, remove them."""

    def __init__(self, vms: Vms, snapshots: Snapshots) -> None:
        self._vms = vms
        self._snapshots = snapshots

    def routes(self) -> list[Route]:
        """Return the routes of these calls."""
        return [
            Route("/v1/snapshots", self._list),
            Route("/v1/snapshots/{vm_id}", self._get),
            Route("/v1/snapshots/{vm_id}", self._make, methods=["PUT"]),
            Route("/v1/snapshots/{vm_id}", self._delete, methods=["DELETE"]),
        ]

    async def _list(self, _: Request) -> Response:
        return JSONResponse([{"vm_id": vm_id} for vm_id in self._snapshots.ids()])

    async def _get(self, request: Request) -> Response:
        return answer(await self._snapshots.report(request.path_params["vm_id"]))

    async def _make(self, request: Request) -> Response:
        order = VmOrder.model_validate_json(await request.body())
        check_same(request.path_params["vm_id"], order.vm_id)
        self._vms.snapshot(order)
        return JSONResponse({"vm_id": order.vm_id}, 202)

    async def _delete(self, request: Request) -> Response:
        await self._snapshots.remove(request.path_params["vm_id"])
        return JSONResponse({})
