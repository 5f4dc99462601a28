"""A node that does what a test says, on a real unix socket, with a journal that forgets on ack.

The real node is in the acceptance tests; here faults and the order of events must be chosen.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from cakework.domain.facts import (
    AnyFact,
    AnyLine,
    BuildFailed,
    BuildLine,
    BuildSucceeded,
    ImportFailed,
    ImportSucceeded,
    SnapshotFailed,
    SnapshotMade,
    Stream,
    VmLine,
    VmStarted,
    VmStopped,
)
from cakework.domain.orders import (
    BuildOrder,
    BuildReport,
    CodeOrder,
    ImportOrder,
    ImportReport,
    LinesAck,
    NodeHealth,
    NodeProblem,
    SnapshotReport,
    StopOrder,
    VmOrder,
    VmReport,
)
from cakework.domain.vms import EndCause

from .served import Served

START_MS = 1_700_000_000_000


class Ack(BaseModel):
    """Body of an acknowledgement."""

    cursor: int


def source_of(fact: AnyFact) -> str:
    """Return the VM or build that a fact is of; nothing for none."""
    return getattr(fact, "vm_id", None) or getattr(fact, "build_id", "")


class FakeNode:
    """Records orders, keeps a journal that the test writes, refuses or stalls on demand."""

    def __init__(self, socket: Path, node_id: str = "node-1") -> None:
        self.socket = socket
        self.node_id = node_id
        self.image_bytes = 1000
        self.vm_orders: list[VmOrder] = []
        self.build_orders: list[BuildOrder] = []
        self.stops: list[str] = []
        self.snapshot_orders: list[VmOrder] = []
        self.snapshots: dict[str, SnapshotReport] = {}
        self.memories: set[str] = set()
        self.keeps: NodeProblem | None = None
        self.full_after: int | None = None
        self.acks: list[int] = []
        self.vms: dict[str, VmReport] = {}
        self.over: dict[str, VmReport] = {}
        self.volumes: set[str] = set()
        self.in_use: set[str] = set()
        self.images: set[str] = set()
        self.builds: set[str] = set()
        self.wants_order: set[str] = set()
        self.code: dict[str, bytes] = {}
        """Archives of what repositories have; those of others are refused."""
        self.code_orders: list[CodeOrder] = []
        self.import_orders: list[ImportOrder] = []
        self.imports: set[str] = set()
        self.imports_at_once = False
        self.silent: set[str] = set()
        """References whose registries do not answer until ``may_speak`` is set."""
        self.may_speak = asyncio.Event()
        self.facts: list[AnyFact] = []
        self.refusal: tuple[int, NodeProblem] | None = None
        self.ends_at_once = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.unstoppable: set[str] = set()
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.garbled = False
        self.may_ack = asyncio.Event()
        self.may_ack.set()
        self.stalled_acks = 0
        self.healthy = True
        self._cursor = itertools.count(1)
        self._lines: dict[str, int] = {}
        self._grown = asyncio.Condition()
        self._closing = False

    async def push(self, *facts: AnyFact) -> None:
        """Append facts to the journal, numbering them."""
        for fact in facts:
            self.facts.append(fact.model_copy(update={"cursor": next(self._cursor)}))
        async with self._grown:
            self._grown.notify_all()

    def line(self, vm_id: str, text: str, stream: Stream = "stdout", at_ms: int = 0) -> VmLine:
        """Return a VM's next line."""
        seq = self._next(vm_id)
        return VmLine(vm_id=vm_id, seq=seq, stream=stream, text=text, at_ms=at_ms or START_MS + seq)

    def build_line(self, build_id: str, text: str) -> BuildLine:
        """Return a build's next line."""
        seq = self._next(build_id)
        return BuildLine(build_id=build_id, seq=seq, stream="stdout", text=text, at_ms=START_MS)

    async def succeed(self, build_id: str) -> None:
        """End a build well."""
        order = next(order for order in self.build_orders if order.build_id == build_id)
        self.builds.discard(build_id)
        self.images.add(order.image_id)
        await self.push(
            BuildSucceeded(
                at_ms=START_MS,
                build_id=build_id,
                image_id=order.image_id,
                size_bytes=self.image_bytes,
            )
        )

    async def imported(self, image_id: str) -> None:
        """End an import well."""
        self.imports.discard(image_id)
        self.images.add(image_id)
        fact = ImportSucceeded(at_ms=START_MS, image_id=image_id, size_bytes=1000)
        await self.push(fact)

    async def not_imported(self, image_id: str, error: str) -> None:
        """End an import badly."""
        self.imports.discard(image_id)
        await self.push(ImportFailed(at_ms=START_MS, image_id=image_id, error=error))

    async def snapshot_made(self, vm_id: str) -> None:
        """End the making of a snapshot well."""
        self.snapshots[vm_id] = SnapshotReport(vm_id=vm_id, state="made", size_bytes=1000)
        await self.push(SnapshotMade(at_ms=START_MS, vm_id=vm_id, size_bytes=1000))

    async def snapshot_failed(self, vm_id: str, error: str) -> None:
        """End the making of a snapshot badly."""
        self.snapshots[vm_id] = SnapshotReport(vm_id=vm_id, state="failed", error=error)
        await self.push(SnapshotFailed(at_ms=START_MS, vm_id=vm_id, error=error))

    async def fail(self, build_id: str, error: str) -> None:
        """End a build badly."""
        self.builds.discard(build_id)
        await self.push(BuildFailed(at_ms=START_MS, build_id=build_id, error=error))

    async def started(self, vm_id: str, run: int = 1) -> None:
        """Say that a VM's program was started."""
        await self.push(VmStarted(at_ms=START_MS, vm_id=vm_id, run=run))

    async def stopped(
        self,
        vm_id: str,
        reason: str,
        exit_code: int | None = None,
        run: int = 1,
        cause: EndCause = EndCause.EXITED,
    ) -> None:
        """Say that a VM's run is over."""
        if vm_id in self.vms and self.vms[vm_id].run == run:
            self._end(vm_id, reason, exit_code, cause)
        fact = VmStopped(
            at_ms=START_MS, vm_id=vm_id, run=run, reason=reason, exit_code=exit_code, cause=cause
        )
        await self.push(fact)

    def forget_everything(self, node_id: str) -> None:
        """Become a node with a new data folder."""
        self.node_id = node_id
        self.facts.clear()
        self.vms.clear()
        self.over.clear()
        self._cursor = itertools.count(1)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator["FakeNode"]:
        """Listen on the socket while the block runs."""
        self._closing = False
        config = uvicorn.Config(
            self._app(), uds=str(self.socket), log_config=None, lifespan="off", access_log=False
        )
        server = Served(config)
        task = asyncio.create_task(server.serve())
        await server.is_up.wait()
        try:
            yield self
        finally:
            self._closing = True
            async with self._grown:
                self._grown.notify_all()
            server.end(at_once=True)
            await task
            self.socket.unlink(missing_ok=True)

    def _next(self, source: str) -> int:
        self._lines[source] = self._lines.get(source, 0) + 1
        return self._lines[source]

    def _app(self) -> FastAPI:
        app = FastAPI()
        add = app.add_api_route
        add("/v1/health", self._health, methods=["GET"])
        add("/v1/vms", self._vms, methods=["GET"])
        add("/v1/vms/{vm_id}", self._start, methods=["PUT"], response_model=None)
        add("/v1/vms/{vm_id}/stop", self._stop, methods=["POST"], response_model=None)
        add("/v1/volumes", self._list_volumes, methods=["GET"])
        add("/v1/images", self._list_images, methods=["GET"])
        add("/v1/images/{image_id}", self._delete_image, methods=["DELETE"])
        add("/v1/volumes/{vm_id}", self._delete_volume, methods=["DELETE"], response_model=None)
        add("/v1/snapshots", self._list_snapshots, methods=["GET"])
        add("/v1/snapshots/{vm_id}", self._make_snapshot, methods=["PUT"], response_model=None)
        add("/v1/snapshots/{vm_id}", self._find_snapshot, methods=["GET"], response_model=None)
        add("/v1/snapshots/{vm_id}", self._delete_snapshot, methods=["DELETE"])
        add("/v1/builds", self._list_builds, methods=["GET"])
        add("/v1/builds/{build_id}", self._build, methods=["PUT"], response_model=None)
        add("/v1/code", self._code, methods=["POST"])
        add("/v1/imports/{image_id}", self._import, methods=["PUT"], response_model=None)
        add("/v1/imports/{image_id}", self._find_import, methods=["GET"], response_model=None)
        add("/v1/builds/{build_id}/cancel", self._cancel, methods=["POST"], response_model=None)
        add("/v1/journal", self._journal, methods=["GET"], response_model=None)
        add("/v1/journal/ack", self._ack, methods=["POST"], response_model=None)
        add("/v1/lines", self._lines_of_all, methods=["GET"], response_model=None)
        add("/v1/lines/ack", self._ack_lines, methods=["POST"], response_model=None)
        return app

    async def _health(self) -> NodeHealth:
        return NodeHealth(
            node_id=self.node_id,
            version="0",
            accelerator="tcg",
            ready=self.healthy,
            detail="as the test says",
            vms=len(self.vms),
            builds=len(self.builds),
        )

    async def _vms(self) -> list[VmReport]:
        return list(self.vms.values())

    async def _start(self, vm_id: str, order: VmOrder) -> VmReport | Response:
        self.vm_orders.append(order)
        await self.may_answer.wait()
        if self.garbled:
            return Response(b"garbled")
        if self.refusal is not None:
            return _refuse(*self.refusal)
        if (over := self.over.get(vm_id)) is not None and over.run >= order.run:
            return over
        if order.volume_kept and order.volume_gb:
            self.volumes.add(vm_id)
        if self.full_after is not None and len(self.vms) >= self.full_after:
            return _refuse(503, NodeProblem(code="no_room", detail="The host is full."))
        if order.fork_of is not None and order.fork_of not in self.snapshots:
            return _refuse(404, NodeProblem(code="not_found", detail="no such snapshot"))
        if vm_id not in self.vms:
            began = "memory" if vm_id in self.memories else "boot"
            self.memories.discard(vm_id)
            self.vms[vm_id] = VmReport(vm_id=vm_id, run=order.run, state="started", began=began)
        if self.ends_at_once:
            return self._end(vm_id, "The program ended.", 3)
        return self.vms[vm_id]

    def _end(
        self,
        vm_id: str,
        reason: str,
        exit_code: int | None,
        cause: EndCause = EndCause.EXITED,
    ) -> VmReport:
        ending = {"state": "stopped", "reason": reason, "exit_code": exit_code, "cause": cause}
        self.over[vm_id] = self.vms.pop(vm_id).model_copy(update=ending)
        return self.over[vm_id]

    async def _stop(self, vm_id: str, order: StopOrder) -> Response:
        self.stops.append(vm_id)
        await self.may_stop.wait()
        if vm_id in self.unstoppable:
            return _refuse(500, NodeProblem(code="internal_error", detail="as the test says"))
        if order.keep_memory and vm_id in self.vms:
            return await self._suspend(vm_id)
        if vm_id in self.vms:
            self._end(vm_id, "stopped on request", 143, EndCause.STOPPED)
        if vm_id not in self.over:
            return _refuse(404, NodeProblem(code="not_found", detail="no such VM"))
        return JSONResponse(self.over[vm_id].model_dump())

    async def _suspend(self, vm_id: str) -> Response:
        if self.keeps is not None:
            return _refuse(409, self.keeps)
        self.memories.add(vm_id)
        report = self.vms.pop(vm_id)
        ending = {"state": "stopped", "reason": "Frozen.", "memory_kept": True}
        self.over[vm_id] = report.model_copy(update=ending)
        fact = VmStopped(
            at_ms=START_MS, vm_id=vm_id, run=report.run, reason="Frozen.", memory_kept=True
        )
        await self.push(fact)
        return JSONResponse(self.over[vm_id].model_dump())

    async def _list_snapshots(self) -> list[dict[str, str]]:
        return [{"vm_id": vm_id} for vm_id in {*self.snapshots, *self.memories}]

    async def _make_snapshot(self, vm_id: str, order: VmOrder) -> Response:
        self.snapshot_orders.append(order)
        if self.refusal is not None:
            return _refuse(*self.refusal)
        if vm_id in self.vms:
            return _refuse(409, NodeProblem(code="conflict", detail="the VM runs"))
        self.snapshots.setdefault(vm_id, SnapshotReport(vm_id=vm_id, state="making"))
        return JSONResponse({}, 202)

    async def _find_snapshot(self, vm_id: str) -> SnapshotReport | Response:
        if vm_id in self.snapshots:
            return self.snapshots[vm_id]
        return _refuse(404, NodeProblem(code="not_found", detail="no such snapshot"))

    async def _delete_snapshot(self, vm_id: str) -> dict[str, str]:
        self.snapshots.pop(vm_id, None)
        self.memories.discard(vm_id)
        return {}

    async def _delete_volume(self, vm_id: str) -> Response:
        if vm_id in self.vms or vm_id in self.in_use:
            return _refuse(409, NodeProblem(code="conflict", detail="the VM runs"))
        self.volumes.discard(vm_id)
        return JSONResponse({})

    async def _list_volumes(self) -> list[dict[str, str]]:
        return [{"vm_id": vm_id} for vm_id in self.volumes]

    async def _list_images(self) -> list[dict[str, str]]:
        return [{"image_id": image_id} for image_id in self.images]

    async def _delete_image(self, image_id: str) -> dict[str, str]:
        self.images.discard(image_id)
        return {}

    async def _list_builds(self) -> list[BuildReport]:
        return [
            BuildReport(build_id=build_id, wants_order=build_id in self.wants_order)
            for build_id in self.builds
        ]

    async def _build(self, build_id: str, order: BuildOrder) -> Response:
        if self.refusal is not None:
            return _refuse(*self.refusal)
        self.build_orders.append(order)
        self.builds.add(build_id)
        self.wants_order.discard(build_id)
        return JSONResponse({}, 202)

    async def _code(self, order: CodeOrder) -> Response:
        self.code_orders.append(order)
        if (archive := self.code.get(order.source.repository)) is None:
            return _refuse(400, NodeProblem(code="invalid_request", detail="It is not there."))
        return Response(archive, media_type="application/gzip")

    async def _import(self, image_id: str, order: ImportOrder) -> Response:
        self.import_orders.append(order)
        if order.image_uri in self.silent:
            await self.may_speak.wait()
        await self.may_answer.wait()
        if self.refusal is not None:
            return _refuse(*self.refusal)
        self.imports.add(image_id)
        if self.imports_at_once:
            await self.imported(image_id)
        return JSONResponse({}, 202)

    async def _find_import(self, image_id: str) -> ImportReport | Response:
        if image_id in self.imports:
            return ImportReport(image_id=image_id, state="importing")
        return _refuse(404, NodeProblem(code="not_found", detail="no such import"))

    async def _cancel(self, build_id: str) -> Response:
        if build_id in self.builds:
            await self.fail(build_id, "The build was cancelled.")
        return JSONResponse({})

    async def _journal(self, after: int) -> StreamingResponse:
        return StreamingResponse(
            self._stream(after, self._changes), media_type="application/x-ndjson"
        )

    async def _lines_of_all(self) -> StreamingResponse:
        return StreamingResponse(self._stream(0, self._printed), media_type="application/x-ndjson")

    def _printed(self) -> list[AnyFact]:
        return [fact for fact in self.facts if isinstance(fact, AnyLine)]

    def _changes(self) -> list[AnyFact]:
        """Return what is told: no change of what has lines before it that are unconfirmed."""
        told: list[AnyFact] = []
        printing: set[str] = set()
        for fact in self.facts:
            if isinstance(fact, AnyLine):
                printing.add(source_of(fact))
            elif source_of(fact) in printing:
                break
            else:
                told.append(fact)
        return told

    async def _stream(self, after: int, facts: Callable[[], list[AnyFact]]) -> AsyncIterator[bytes]:
        while not self._closing:
            fresh = [fact for fact in facts() if fact.cursor > after]
            if fresh:
                after = fresh[-1].cursor
                yield b"".join(fact.model_dump_json().encode() + b"\n" for fact in fresh)
                continue
            yield b"\n"
            async with self._grown:
                if self._closing or any(fact.cursor > after for fact in facts()):
                    continue
                await self._grown.wait()

    async def _ack(self, ack: Ack) -> Response:
        return await self._forget(
            lambda fact: not isinstance(fact, AnyLine) and fact.cursor <= ack.cursor
        )

    async def _ack_lines(self, ack: LinesAck) -> Response:
        return await self._forget(
            lambda fact: isinstance(fact, AnyLine) and fact.seq <= ack.lines.get(source_of(fact), 0)
        )

    async def _forget(self, known: Callable[[AnyFact], bool]) -> Response:
        if not self.may_ack.is_set():
            self.stalled_acks += 1
            await self.may_ack.wait()
        self.acks.append(max((fact.cursor for fact in self.facts if known(fact)), default=0))
        self.facts = [fact for fact in self.facts if not known(fact)]
        async with self._grown:
            self._grown.notify_all()
        return JSONResponse({})


def _refuse(status: int, problem: NodeProblem) -> Response:
    headers: dict[str, Any] = {"Retry-After": "7"} if status == 503 else {}
    return Response(problem.model_dump_json(), status, headers, media_type="application/json")
