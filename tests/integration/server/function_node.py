"""A node whose VMs of functions are adapters that run on this machine.

The real node forks machines; here a fork of a runtime is an adapter without a function, and a fork
of a version one that was started with what that has been given. Connections go through a dial
socket, as to a real node. What an adapter prints are the lines of its VM, as they come from two
pipes; a mark reads what is in them by then, as the guest does, and makes lines of it.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import termios
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from cakework.domain.facts import SnapshotMade, Stream, VmStopped
from cakework.domain.orders import (
    DialAnswer,
    DialRequest,
    SnapshotOrder,
    SnapshotReport,
    StopOrder,
    VmOrder,
    VmReport,
)
from cakework.domain.vms import EndCause
from cakework.settings import Settings
from tests.integration.ports import reserved_port
from tests.integration.server.adapter_nursery import Forked, start
from tests.integration.server.fake_node import START_MS, FakeNode

LISTENS_S = 60


@dataclass(slots=True)
class Loaded:
    """What an adapter is started with, in the place of a memory that has it."""

    entry: str
    signature: str
    concurrency: int


@dataclass(slots=True)
class Hosted:
    """A VM of a function's: its adapter, the ports that it has, the folder of its code."""

    process: Forked
    ports: dict[int, int]
    folder: Path
    kept: contextlib.ExitStack
    outputs: list["Output"]


@dataclass(slots=True)
class Output:
    """The reading end of what a program prints, and what it has not ended with a newline yet."""

    fd: int
    stream: Stream
    begun: bytes = b""

    def read(self) -> tuple[list[str], bool]:
        """Return the lines that can be read now, and whether that was the end."""
        lines: list[str] = []
        count = int.from_bytes(fcntl.ioctl(self.fd, termios.FIONREAD, b"\0" * 4), sys.byteorder)
        try:
            self.begun += (read := os.read(self.fd, max(count, 1)))
        except BlockingIOError:
            return lines, False
        *whole, self.begun = self.begun.split(b"\n")
        return [line.decode(errors="replace") for line in whole], not read

    def cut(self) -> list[str]:
        """Return what was not ended as a line."""
        begun, self.begun = self.begun, b""
        return [begun.decode(errors="replace")] if begun else []


class FunctionNode(FakeNode):
    """Starts adapters for VMs. ``loaded`` tells what the code of a version's VM is."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        super().__init__(settings.node_socket)
        self.hosted: dict[str, Hosted] = {}
        self.folder = folder
        self.dial_socket = settings.dial_socket
        self.loaded: Callable[[str], Awaitable[Loaded]] | None = None
        self.no_fork_of: set[str] = set()
        self.no_runtime: str | None = None
        """Why runtimes cannot be started."""
        self.refusals = 0
        """How many connections are refused from now on."""
        self.ends_with = EndCause.EXITED
        """What is told to have ended a VM whose adapter ends."""
        self.marks: list[str] = []
        self.may_mark = True
        self.marks_at_once = 1 << 30
        """So many marks are answered, the others when ``may_mark_more`` is set."""
        self.may_mark_more = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()
        self._ended: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def hosting(self) -> AsyncGenerator["FunctionNode"]:
        """Serve node and dial socket while the block runs."""
        async with self.serving():
            dialing = await asyncio.start_unix_server(self._dial, self.dial_socket)
            try:
                yield self
            finally:
                dialing.close()
                for vm_id in list(self.hosted):
                    await self._kill(vm_id)
                self.dial_socket.unlink(missing_ok=True)

    def _app(self) -> FastAPI:
        app = super()._app()
        app.add_api_route(
            "/v1/vms/{vm_id}/snapshot", self._take_snapshot, methods=["POST"], response_model=None
        )
        app.add_api_route("/v1/vms/{vm_id}/mark", self._mark, methods=["POST"], response_model=None)
        return app

    async def _mark(self, vm_id: str) -> Response:
        self.marks.append(vm_id)
        if len(self.marks) > self.marks_at_once:
            await self.may_mark_more.wait()
        hosted = self.hosted.get(vm_id)
        if hosted is None or not self.may_mark:
            return JSONResponse({"code": "conflict", "detail": "it does not run"}, 409)
        for output in hosted.outputs:
            self._read(vm_id, output)
            self._print(vm_id, output, output.cut())
        return JSONResponse({"seq": self._lines.get(vm_id, 0)})

    def _read(self, vm_id: str, output: Output) -> None:
        lines, ended = output.read()
        self._print(vm_id, output, [*lines, *(output.cut() if ended else [])])
        if ended:
            asyncio.get_running_loop().remove_reader(output.fd)

    def _print(self, vm_id: str, output: Output, texts: list[str]) -> None:
        now = time.time_ns() // 1_000_000
        for text in texts:
            line = self.line(vm_id, text, output.stream, now)
            # At once, before whatever else comes to be known of this VM.
            self.facts.append(line.model_copy(update={"cursor": next(self._cursor)}))
        telling = asyncio.create_task(self.push())
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _make_snapshot(self, vm_id: str, order: VmOrder) -> Response:
        response = await super()._make_snapshot(vm_id, order)
        if self.no_runtime is None:
            await self.snapshot_made(vm_id)
        else:
            await self.snapshot_failed(vm_id, self.no_runtime)
        return response

    async def _start(self, vm_id: str, order: VmOrder) -> VmReport | Response:
        if order.fork_of in self.no_fork_of:
            self.snapshots.pop(order.fork_of, None)
        report = await super()._start(vm_id, order)
        started = isinstance(report, VmReport) and report.state == "started"
        if started and order.fork_of and vm_id not in self.hosted:
            await self._host(vm_id, order.fork_of)
        return report

    async def _stop(self, vm_id: str, order: StopOrder) -> Response:
        status = await self._kill(vm_id)
        if status not in (None, -signal.SIGKILL):
            # It had ended by itself, and nobody had heard of it.
            await self._has_ended(vm_id, status)
        ran = vm_id in self.vms
        response = await super()._stop(vm_id, order)
        if ran and vm_id in self.over:
            await self.push(VmStopped(at_ms=START_MS, vm_id=vm_id, reason="stopped on request"))
        return response

    async def _take_snapshot(self, vm_id: str, order: SnapshotOrder) -> Response:
        if vm_id not in self.vms:
            return JSONResponse({"code": "conflict", "detail": "it does not run"}, 409)
        report = SnapshotReport(vm_id=vm_id, state="made", size_bytes=1000)
        self.snapshots[vm_id] = report
        await self._kill(vm_id)
        self._end(vm_id, "became a snapshot", None)
        await self.push(SnapshotMade(at_ms=START_MS, vm_id=vm_id, size_bytes=1000, vm_runs=True))
        await self.push(VmStopped(at_ms=START_MS, vm_id=vm_id, reason="became a snapshot"))
        return JSONResponse(report.model_dump())

    async def _host(self, vm_id: str, parent: str) -> None:
        folder = self.folder / vm_id
        loaded = None
        if (self.folder / parent).exists() and self.loaded is not None:
            shutil.copytree(self.folder / parent, folder)
            loaded = await self.loaded(parent)
        else:
            folder.mkdir()
        kept = contextlib.ExitStack()
        port, control = kept.enter_context(reserved_port()), kept.enter_context(reserved_port())
        given = ["--host", "127.0.0.1", "--port", str(port), "--control-port", str(control)]
        if loaded is not None:
            given += ["--entry", loaded.entry, "--concurrency", str(loaded.concurrency)]
            given += ["--signature", loaded.signature] if loaded.signature else []
        (out, stdout), (err, stderr) = os.pipe(), os.pipe()
        process = start(["--folder", str(folder), *given], folder, stdout, stderr)
        os.close(stdout)
        os.close(stderr)
        outputs = [Output(out, "stdout"), Output(err, "stderr")]
        for output in outputs:
            os.set_blocking(output.fd, False)
        self.hosted[vm_id] = Hosted(process, {8080: port, 8079: control}, folder, kept, outputs)
        async with asyncio.timeout(LISTENS_S):
            while process.returncode is None and not await _listens(port):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        for output in outputs:
            if loaded is not None:
                # What is forked had printed this before.
                output.read()
            asyncio.get_running_loop().add_reader(output.fd, self._read, vm_id, output)
        watching = asyncio.create_task(self._watch(vm_id, process))
        self._ended.add(watching)
        watching.add_done_callback(self._ended.discard)

    async def _watch(self, vm_id: str, process: Forked) -> None:
        status = await process.wait()
        for output in hosted.outputs if (hosted := self.hosted.get(vm_id)) else ():
            self._read(vm_id, output)
        if vm_id in self.hosted:
            await self._has_ended(vm_id, status)

    async def _has_ended(self, vm_id: str, status: int | None) -> None:
        if vm_id in self.vms:
            why = f"the program ended with exit code {status}, of {self.ends_with}"
            await self.stopped(vm_id, why, status, cause=self.ends_with)

    async def kill(self, vm_id: str) -> None:
        """End a VM's program, as somebody from outside would."""
        process = self.hosted[vm_id].process
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def fall_silent(self, vm_id: str, cause: EndCause) -> None:
        """End a VM whose kernel has no time to close its program's connections."""
        os.kill(self.hosted[vm_id].process.pid, signal.SIGSTOP)
        await self.stopped(vm_id, f"it ended without a word, of {cause}", cause=cause)

    async def _kill(self, vm_id: str) -> int | None:
        """End a VM's program; return how it ended, None if there was none."""
        hosted = self.hosted.pop(vm_id, None)
        if hosted is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            hosted.process.kill()
        status = await hosted.process.wait()
        for output in hosted.outputs:
            self._read(vm_id, output)
        for output in hosted.outputs:
            asyncio.get_running_loop().remove_reader(output.fd)
            os.close(output.fd)
        hosted.kept.close()
        return status

    async def _dial(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Who asked may be killed before it has asked, or is answered.
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            if line := await reader.readline():
                self._answer(DialRequest.model_validate_json(line), writer)

    def _answer(self, request: DialRequest, writer: asyncio.StreamWriter) -> None:
        hosted = self.hosted.get(request.vm_id)
        dialed = None
        try:
            if hosted is None:
                raise ConnectionRefusedError
            if self.refusals:
                self.refusals -= 1
                raise ConnectionRefusedError
            dialed = socket.create_connection(("127.0.0.1", hosted.ports[request.port]))
            answer = DialAnswer(ok=True)
        except OSError:
            answer = DialAnswer(ok=False, code="refused", detail="nothing listens")
        line = answer.model_dump_json().encode() + b"\n"
        raw = writer.get_extra_info("socket")
        with (
            socket.socket(fileno=socket.dup(raw.fileno())) as sock,
            dialed or contextlib.nullcontext(),
        ):
            sock.setblocking(True)
            fds = [dialed.fileno()] if dialed is not None else []
            socket.send_fds(sock, [line], fds)


async def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


def source(code: str, **more: str) -> dict[str, object]:
    """Return a source as the API takes it."""
    files = [{"dir": ".", "name": "main.py", "content": code}]
    files += [{"dir": ".", "name": name, "content": text} for name, text in more.items()]
    return json.loads(json.dumps({"files": files}))
