"""The node's internal API over its unix socket, with connections kept open.

Every method raises :class:`~cakework.domain.errors.Unavailable` when the node does not answer,
and the error that the node names when it refuses.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from cakework.domain.errors import ERRORS_BY_CODE, CakeworkError, NotFound, Unavailable
from cakework.domain.ids import BuildId, ImageId, VmId
from cakework.domain.orders import (
    BuildReport,
    CodeOrder,
    ImportOrder,
    ImportReport,
    LinesAck,
    MarkReport,
    NodeHealth,
    NodeProblem,
    SnapshotOrder,
    SnapshotReport,
    StopOrder,
    VmOrder,
    VmReport,
)
from cakework.server.node.connections import UnixSocketTransport

ANSWER_S = 10.0
START_S = 50.0
STOP_S = 30.0
CODE_S = 50.0
"""Longer than the node takes for it."""
KEEP_S = 120.0
"""Memory is written to the disk: as much as a VM may have, on a slow disk."""
SILENCE_S = 60.0
"""The longest the journal may be silent: the node sends heartbeats."""

_CONNECTIONS = 64


class ImageReport(BaseModel):
    """An image whose file the node has."""

    image_id: str


class KeptReport(BaseModel):
    """A VM of which the node keeps a snapshot, or memory."""

    vm_id: str


class VolumeReport(BaseModel):
    """A VM whose volume the node keeps."""

    vm_id: str


_IMAGES = TypeAdapter(list[ImageReport])
_SNAPSHOTS = TypeAdapter(list[KeptReport])
_VOLUMES = TypeAdapter(list[VolumeReport])
_VMS = TypeAdapter(list[VmReport])
_BUILDS = TypeAdapter(list[BuildReport])


class NodeClient:
    """Gives orders to one node and reads its journal. ``close()`` when done."""

    def __init__(self, socket: Path) -> None:
        """Prepare to talk to the node that listens on ``socket``."""
        self._client = httpx2.AsyncClient(
            transport=UnixSocketTransport(str(socket), kept=_CONNECTIONS),
            base_url="http://node",
            timeout=ANSWER_S,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def health(self) -> NodeHealth:
        """Return who the node is and how it is."""
        return NodeHealth.model_validate_json(await self._call("GET", "/v1/health"))

    async def start_vm(self, order: VmOrder) -> VmReport:
        """Have a VM started; returns when the user's program was started or has ended."""
        body = await self._call("PUT", f"/v1/vms/{order.vm_id}", order, timeout_s=START_S)
        return VmReport.model_validate_json(body)

    async def stop_vm(self, vm_id: VmId, order: StopOrder) -> VmReport:
        """End a VM; returns how it ended when all it held is released.

        Raises NotFound for unknown ids.
        """
        timeout_s = KEEP_S if order.keep_memory else STOP_S
        body = await self._call("POST", f"/v1/vms/{vm_id}/stop", order, timeout_s=timeout_s)
        return VmReport.model_validate_json(body)

    async def make_snapshot(self, order: VmOrder) -> None:
        """Have a VM's snapshot made; returns once the node has the order."""
        await self._call("PUT", f"/v1/snapshots/{order.vm_id}", order, timeout_s=START_S)

    async def snapshot_vm(self, vm_id: VmId, order: SnapshotOrder) -> SnapshotReport:
        """Take a "ready" snapshot of a VM as it runs; returns when it is there.

        Raises Conflict: it cannot be done with it, and it goes on.
        """
        path = f"/v1/vms/{vm_id}/snapshot"
        body = await self._call("POST", path, order, timeout_s=KEEP_S)
        return SnapshotReport.model_validate_json(body)

    async def mark_lines(self, vm_id: VmId, timeout_s: float = ANSWER_S) -> int:
        """Return the number of the last line that a VM has printed until now.

        Raises:
            NotFound, Conflict: it does not run.
        """
        body = await self._call("POST", f"/v1/vms/{vm_id}/mark", timeout_s=timeout_s)
        return MarkReport.model_validate_json(body).seq

    async def find_snapshot(self, vm_id: VmId) -> SnapshotReport:
        """Return where a snapshot is. Raises NotFound for one that the node does not know."""
        body = await self._call("GET", f"/v1/snapshots/{vm_id}")
        return SnapshotReport.model_validate_json(body)

    async def delete_snapshot(self, vm_id: VmId) -> None:
        """Remove a VM's snapshot and kept memory; what is not there is no error."""
        with contextlib.suppress(NotFound):
            await self._call("DELETE", f"/v1/snapshots/{vm_id}", timeout_s=STOP_S)

    async def snapshots(self) -> list[VmId]:
        """Return the VMs of which the node keeps a snapshot, or memory."""
        reports = _SNAPSHOTS.validate_json(await self._call("GET", "/v1/snapshots"))
        return [VmId(report.vm_id) for report in reports]

    async def delete_volume(self, vm_id: VmId) -> None:
        """Free the volume of a VM that does not run; one that is not there is no error."""
        await self._call("DELETE", f"/v1/volumes/{vm_id}")

    async def volumes(self) -> list[VmId]:
        """Return the VMs whose volumes the node keeps."""
        reports = _VOLUMES.validate_json(await self._call("GET", "/v1/volumes"))
        return [VmId(report.vm_id) for report in reports]

    async def images(self) -> list[ImageId]:
        """Return the images whose files the node has."""
        reports = _IMAGES.validate_json(await self._call("GET", "/v1/images"))
        return [ImageId(report.image_id) for report in reports]

    async def delete_image(self, image_id: ImageId) -> None:
        """Remove the file of an image; one that is not there is no error."""
        await self._call("DELETE", f"/v1/images/{image_id}", timeout_s=STOP_S)

    async def vms(self) -> list[VmReport]:
        """Return every VM the node knows."""
        return _VMS.validate_json(await self._call("GET", "/v1/vms"))

    async def build(self, build_id: BuildId, order: bytes) -> None:
        """Hand a build over, a ``BuildOrder`` as JSON; returns once the node has it for good."""
        await self._call("PUT", f"/v1/builds/{build_id}", order, timeout_s=START_S)

    async def builds(self) -> list[BuildReport]:
        """Return the builds that the node has queued or running."""
        return _BUILDS.validate_json(await self._call("GET", "/v1/builds"))

    async def cancel_build(self, build_id: BuildId) -> None:
        """End a build as failed; one that has ended, or is not known, is no error."""
        await self._call("POST", f"/v1/builds/{build_id}/cancel", timeout_s=STOP_S)

    async def code(self, order: CodeOrder) -> bytes:
        """Return code of a repository, as tar.gz.

        Raises InvalidRequest: it cannot be fetched; QuotaExceeded: too much is being fetched.
        """
        return await self._call("POST", "/v1/code", order, timeout_s=CODE_S)

    async def import_image(self, order: ImportOrder) -> None:
        """Have an image imported; returns once its registry agreed and the node has it."""
        await self._call("PUT", f"/v1/imports/{order.image_id}", order, timeout_s=START_S)

    async def find_import(self, image_id: ImageId) -> ImportReport:
        """Return where an import is. Raises NotFound for one that the node does not know."""
        body = await self._call("GET", f"/v1/imports/{image_id}")
        return ImportReport.model_validate_json(body)

    @asynccontextmanager
    async def journal(self, after: int) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open the journal behind cursor ``after``: chunks of bytes, as they come."""
        async with self._reading(f"/v1/journal?after={after}") as chunks:
            yield chunks

    async def acknowledge(self, cursor: int) -> None:
        """Tell the node that facts up to ``cursor`` are stored and may be forgotten."""
        await self._call("POST", "/v1/journal/ack", {"cursor": cursor})

    @asynccontextmanager
    async def lines(self) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open the lines that were not acknowledged: chunks of bytes, as they come."""
        async with self._reading("/v1/lines") as chunks:
            yield chunks

    async def acknowledge_lines(self, seqs: Mapping[str, int]) -> None:
        """Tell the node that lines of these VMs and builds are stored up to these numbers."""
        await self._call("POST", "/v1/lines/ack", LinesAck(lines=dict(seqs)))

    @asynccontextmanager
    async def _reading(self, path: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        try:
            async with self._client.stream(
                "GET",
                path,
                timeout=httpx2.Timeout(ANSWER_S, read=SILENCE_S),
            ) as response:
                if response.status_code != 200:
                    raise _refusal(response, await response.aread())
                yield response.aiter_raw()
        except httpx2.TransportError as error:
            raise Unavailable("The node's journal broke off.") from error

    async def _call(
        self,
        method: str,
        path: str,
        body: BaseModel | bytes | dict[str, int] | None = None,
        *,
        timeout_s: float = ANSWER_S,
    ) -> bytes:
        content = body.model_dump_json() if isinstance(body, BaseModel) else body
        content = None if isinstance(content, dict) else content
        try:
            response = await self._client.request(
                method,
                path,
                content=content,
                json=body if isinstance(body, dict) else None,
                headers={"content-type": "application/json"} if content else None,
                timeout=timeout_s,
            )
        except httpx2.TransportError as error:
            raise Unavailable("The node does not answer.", retry_after_s=1) from error
        if response.is_success:
            return response.content
        raise _refusal(response, response.content)


def _refusal(response: httpx2.Response, content: bytes) -> CakeworkError:
    try:
        problem = NodeProblem.model_validate_json(content)
    except ValidationError:
        return CakeworkError(f"The node answered {response.status_code} and not why.")
    error = ERRORS_BY_CODE.get(problem.code, CakeworkError)(problem.detail)
    wait = response.headers.get("retry-after", "")
    error.retry_after_s = int(wait) if wait.isdecimal() else None
    return error
