"""A server that dies at steps, with a node that stands in for machines: adapters that run here.

The steps of functions are the server's alone. With machines it would take minutes to pass each of
them; that machines do their part is for the acceptance tests.
"""

import contextlib
import json
import os
import secrets
import signal
import sqlite3
from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx2
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi.responses import Response

from cakework.domain.orders import BuildOrder
from cakework.domain.steps import Step
from cakework.faults import VARIABLE
from cakework.settings import Settings
from tests.acceptance.api import Api
from tests.acceptance.waiting import until
from tests.integration.faults.parts import REPOSITORY, START_S, Part
from tests.integration.ports import reserved_port
from tests.integration.server.function_node import FunctionNode, Loaded
from tests.integration.server.rig import KEY, settings_for

Json = dict[str, Any]
Row = dict[str, Any]
REACHED_S = 120.0
SETTLED_S = 120.0


class BuildingNode(FunctionNode):
    """Every build succeeds at once; it may go away and come back, while its VMs go on."""

    _served: contextlib.AsyncExitStack

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator["BuildingNode"]:
        """Serve while the block runs, but for when it is away."""
        await self.come_back()
        try:
            yield self
        finally:
            await self.leave()

    async def leave(self) -> None:
        """Be gone, with every connection cut off."""
        await self._served.aclose()

    async def come_back(self) -> None:
        """Serve again, from the same records."""
        self._served = contextlib.AsyncExitStack()
        await self._served.enter_async_context(super().serving())

    async def _build(self, build_id: str, order: BuildOrder) -> Response:
        response = await super()._build(build_id, order)
        if build_id in self.builds:
            await self.succeed(build_id)
        return response


class FunctionParts:
    """A server as a process of its own, in which faults are laid, and its node in this one."""

    def __init__(self, folder: Path, node: BuildingNode, portal: BlockingPortal, port: int) -> None:
        self.folder = folder
        self.node = node
        self.portal = portal
        self.settings = settings_for(folder, None)
        self.url = f"http://127.0.0.1:{port}"
        self.faults = folder / "faults"
        self.faults.mkdir()
        others = {k: v for k, v in os.environ.items() if not k.startswith("CAKEWORK_")}
        environment = {
            **others,
            "CAKEWORK_DATA_DIR": str(folder),
            "CAKEWORK_API_KEY": KEY,
            "CAKEWORK_PORT": str(port),
            "CAKEWORK_LOG_FORMAT": "json",
            "CAKEWORK_RETAIN_LOGS_DAYS": "0",
            "CAKEWORK_MIN_FREE_STORE_MB": "1",
            "CAKEWORK_WEBHOOK_ALLOW": "127.0.0.1",
            VARIABLE: str(self.faults),
        }
        assert Path.cwd().samefile(REPOSITORY)
        self.server = Part("server", folder, environment)

    def start(self) -> None:
        """Start the server; return when it serves."""
        self.server.start()
        until(lambda: self._answers("/readyz"), START_S, self.tail)

    def kill(self, *, ready: bool = True) -> None:
        """End the server, at once, and start it again; wait until it is ``ready``, or serves."""
        os.kill(self.server.pid, signal.SIGKILL)
        until(lambda: self.server.ended is not None, START_S, "the server has ended")
        self.server.start()
        path = "/readyz" if ready else "/healthz"
        until(lambda: self._answers(path), START_S, self.tail)

    def lay(self, step: Step) -> None:
        """Have the server end when it passes ``step`` next."""
        (self.faults / step).touch()

    def revive(self, step: Step) -> None:
        """Wait until the server has died at ``step``, and start it again."""
        until(lambda: self.server.ended is not None, REACHED_S, lambda: f"{step}: {self.tail()}")
        assert self.server.ended == -signal.SIGKILL, self.tail()
        assert list(self.faults.iterdir()) == []
        self.start()

    def tail(self) -> str:
        return self.server.log.read_text()[-8000:]

    def rows(self, table: str) -> list[Row]:
        """Return the records of a table."""
        path = f"file:{self.settings.server_dir}/cakework.db?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True, timeout=30)) as store:
            store.row_factory = sqlite3.Row
            return [dict(row) for row in store.execute(f"SELECT * FROM {table}")]

    def settle(self) -> None:
        """Wait until nothing is under way, and node and records agree."""

        def told() -> str:
            return "\n".join(["all agrees; but", *self.disagreements(), self.tail()])

        until(lambda: not self.disagreements(), SETTLED_S, told)

    def disagreements(self) -> list[str]:
        """Name what is under way, claimed by nobody who lives, or left over."""
        return list(self._disagreements())

    def _disagreements(self) -> Iterator[str]:
        for row in self.rows("invocations"):
            if row["state"] in ("queued", "running", "waiting"):
                yield f"invocation {row['id']} is {row['state']}"
            if row["claimed_by"] is not None:
                yield f"invocation {row['id']} is claimed"
        for row in self.rows("attempts"):
            if row["outcome"] is None:
                yield f"attempt {row['attempt']} of {row['invocation_id']} goes on"
        versions = self.rows("function_versions")
        for row in versions:
            if row["state"] == "building" or row["claimed_by"] is not None:
                yield f"version {row['number']} of {row['function_id']} is {row['state']}"
        instances = self.rows("function_instances")
        for row in instances:
            if row["state"] != "idle" or row["running"]:
                yield f"instance {row['vm_id']} is {row['state']}, {row['running']} run"
        vms = {row["id"]: row for row in self.rows("vms")}
        started = {vm_id for vm_id, vm in vms.items() if vm["state"] in ("created", "started")}
        running = {
            vm_id for vm_id, hosted in self.node.hosted.items() if hosted.process.returncode is None
        }
        if not started == running == set(self.node.vms):
            yield f"VMs {sorted(started)}, on the node {sorted(self.node.vms)}, run {running}"
        if started != {row["vm_id"] for row in instances}:
            yield f"VMs {sorted(started)}, instances {instances}"
        kept = {row["vm_id"] for row in versions if row["vm_id"]}
        kept |= {row["vm_id"] for row in self.rows("function_runtime_vms")}
        if kept != set(self.node.snapshots):
            yield f"snapshots {sorted(self.node.snapshots)}, on record {sorted(kept)}"

    def _answers(self, path: str) -> bool:
        assert self.server.ended is None, self.tail()
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}{path}", verify=False).is_success
        return False


@contextlib.contextmanager
def serving(folder: Path, machines: Path) -> Generator[tuple[FunctionParts, Api]]:
    """Serve while the block runs; what ran is gone after."""
    settings: Settings = settings_for(folder, None)
    with contextlib.ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        node = BuildingNode(settings, machines)

        async def loaded(_: str) -> Loaded:
            return Loaded("main.py", "", 1)

        node.loaded = loaded
        stack.enter_context(portal.wrap_async_context_manager(node.hosting()))
        parts = FunctionParts(folder, node, portal, stack.enter_context(reserved_port()))
        stack.callback(parts.server.close)
        parts.start()
        yield parts, stack.enter_context(Api(parts.url, parts.url, KEY))
        assert parts.server.stop() == 0, parts.tail()


def answered(parts: FunctionParts, path: str, body: Json, method: str = "POST") -> Json:
    """Repeat a request under one key until it is answered, as a client does."""
    headers = {"X-Api-Key": KEY, "Idempotency-Key": secrets.token_hex(8)}

    def final() -> httpx2.Response | None:
        try:
            answer = httpx2.request(
                *(method, f"{parts.url}{path}"),
                json=body,
                headers=headers,
                timeout=SETTLED_S,
                # Certificates would be read for each.
                verify=False,
            )
        except httpx2.TransportError:
            return None
        waits = answer.status_code >= 500 and answer.json()["code"] != "no_room"
        return None if waits else answer

    answer = until(final, SETTLED_S, f"{path} is answered")
    assert answer.is_success, answer.text
    return json.loads(answer.content)
