"""Server and router as processes of their own."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx2

from cakework.server.app import build_server
from cakework.settings import Settings
from tests.integration.ports import reserved_port

from .fake_node import FakeNode
from .rig import DEADLINE_S, KEY, Rig, eventually


@dataclass
class Process:
    """A server process that listens, and its log."""

    process: asyncio.subprocess.Process
    rig: Rig
    log: Path


@contextlib.asynccontextmanager
async def serving(settings: Settings, node: FakeNode) -> AsyncGenerator[Process]:
    """Run the server as a process until the block ends; kill it then if it still runs."""
    with reserved_port() as port:
        async with _serving(settings, node, port) as server:
            yield server


@contextlib.asynccontextmanager
async def _serving(settings: Settings, node: FakeNode, port: int) -> AsyncGenerator[Process]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CAKEWORK_DATA_DIR": str(settings.data_dir),
        "CAKEWORK_PORT": str(port),
        "CAKEWORK_API_KEY": KEY,
        "CAKEWORK_LOG_LEVEL": "debug",
        "CAKEWORK_LOG_FORMAT": "json",
        "CAKEWORK_RETAIN_LOGS_DAYS": "0",
    }
    if settings.database_url:
        environment["CAKEWORK_DATABASE_URL"] = settings.database_url
    if settings.webhook_allow:
        environment["CAKEWORK_WEBHOOK_ALLOW"] = ",".join(settings.webhook_allow)
    if settings.trusted_proxies:
        environment["CAKEWORK_TRUSTED_PROXIES"] = ",".join(settings.trusted_proxies)
    log = settings.data_dir / "server.log"
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "cakework.server"),
            env=environment,
            stderr=stderr,
        )
    base_url = f"http://127.0.0.1:{port}"
    headers = {"X-Api-Key": KEY}
    try:
        async with httpx2.AsyncClient(
            base_url=base_url, headers=headers, timeout=DEADLINE_S
        ) as client:

            async def listening() -> bool:
                assert process.returncode is None, log.read_text()
                try:
                    return (await client.get("/healthz")).status_code == 200
                except httpx2.TransportError:
                    return False

            await eventually(listening, "the server listens")
            yield Process(process, Rig(settings, node, build_server(settings), client), log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass
class RouterProcess:
    """A router process that listens, and its log."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    async def status(self, host: str, connection: httpx2.AsyncClient | None = None) -> int:
        """Return what a GET for ``host`` is answered with."""
        url, headers = f"http://127.0.0.1:{self.port}/", {"Host": host}
        async with contextlib.AsyncExitStack() as stack:
            client = connection or await stack.enter_async_context(
                httpx2.AsyncClient(timeout=DEADLINE_S, verify=False)
            )
            return (await client.get(url, headers=headers)).status_code


@contextlib.asynccontextmanager
async def routing(settings: Settings, **changes: str) -> AsyncGenerator[RouterProcess]:
    """Run a router as a process until the block ends; kill it then if it still runs."""
    log = settings.data_dir / "router.log"
    with reserved_port() as port:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CAKEWORK_DATA_DIR": str(settings.data_dir),
            "CAKEWORK_PROXY_PORT": str(port),
            "CAKEWORK_LOG_FORMAT": "json",
            **changes,
        }
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-m", "cakework.router"),
                env=environment,
                stderr=stderr,
            )
        router = RouterProcess(process, port, log)
        try:

            async def listening() -> bool:
                assert process.returncode is None, log.read_text()
                with contextlib.suppress(httpx2.TransportError):
                    await router.status("nobody.invalid")
                    return True
                return False

            await eventually(listening, "the router listens")
            yield router
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
