"""A whole node in a process of its own, spoken to as the server does, killed as a host does."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2

from cakework.domain.facts import AnyFact
from cakework.domain.orders import VmOrder, VmReport
from cakework.node.images import ImageStore
from cakework.node.sockets import connect
from cakework.node.territory import Territory
from tests.integration.node.told import facts_in
from tests.integration.node.vm_site import ARTIFACTS, DISK_GB, Yard, processes_of, until

START_S, STOP_S = 200, 60
FAULTS = ("Traceback", "never retrieved")
"""What no node may log, whatever was done to it."""


@contextlib.asynccontextmanager
async def running_node(yard: Yard, folder: Path) -> AsyncGenerator["NodeProcess"]:
    """Run a node on ``folder``; end it with its VMs, in order, and look that all went well."""
    node = NodeProcess(yard, folder)
    try:
        await node.start()
        yield node
        for report in node.call("GET", "/v1/vms")[1]:
            node.call("POST", f"/v1/vms/{report['vm_id']}/stop", {"grace_s": 0})
        log, territory = node.stop(), node.territory
        await until(lambda: not processes_of(territory))
    finally:
        node.remove()
    assert not [fault for fault in FAULTS if fault in log], log


class NodeProcess:
    """``python -m cakework.node`` on a data folder, which has the yard's template already."""

    def __init__(self, yard: Yard, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.socket = folder / "run" / "node.sock"
        node = folder / "node"
        if not node.exists():
            node.mkdir(parents=True)
            copy = ["cp", "-a", "--sparse=always", yard.templates, node / "templates"]
            subprocess.run(copy, check=True)
        self.images = ImageStore(node / "images")
        self._settings = {
            "CAKEWORK_DATA_DIR": str(folder),
            "CAKEWORK_ARTIFACTS_DIR": str(ARTIFACTS.folder),
            "CAKEWORK_ACCELERATOR": "tcg",
            "CAKEWORK_POOL_SIZE": "0",
            "CAKEWORK_DISK_GB": str(DISK_GB),
            "CAKEWORK_MIN_FREE_DISK_MB": "64",
            "CAKEWORK_LOG_FORMAT": "json",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def territory(self) -> Territory:
        return Territory(int((self.folder / "node" / "territory").read_text()))

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    async def start(self) -> None:
        """Start the process; returns when it is ready."""
        self._process = self._spawn()
        await until(self._ready, START_S)

    def run_to_end(self) -> int:
        """Run one that is to end by itself; return its exit status."""
        with self._spawn() as process:
            return process.wait(START_S)

    def kill(self) -> None:
        """kill -9."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def stop(self) -> str:
        """SIGTERM; return what it logged."""
        assert self._process
        self._process.terminate()
        assert self._process.wait(STOP_S) == 0, self.log()
        return self.log()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def facts(self) -> list[AnyFact]:
        return facts_in(self.folder / "node" / "journal")

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Make one call; return status and answer."""
        transport = httpx2.HTTPTransport(uds=str(self.socket))
        with httpx2.Client(transport=transport, base_url="http://node", timeout=START_S) as client:
            answer = client.request(method, path, json=body)
            return answer.status_code, answer.json()

    async def order(self, order: VmOrder) -> VmReport:
        """Have a VM started."""
        status, answer = await asyncio.to_thread(
            self.call, "PUT", f"/v1/vms/{order.vm_id}", json.loads(order.model_dump_json())
        )
        assert status == 200, answer
        return VmReport.model_validate(answer)

    def remove(self) -> None:
        """End the process, however it is, and remove its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "cakework.node"]
            environment = os.environ | self._settings
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def _ready(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log()
        try:
            connect(self.socket).close()
            status, answer = self.call("GET", "/v1/health")
        except (OSError, httpx2.TransportError):
            # What a killed node was just beginning holds its socket for a moment longer.
            return False
        return status == 200 and bool(answer["ready"])
