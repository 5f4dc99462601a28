"""A part that takes more memory than it may, under the supervisor that keeps it."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import anyio
import httpx2
import pytest

from cakework.cli.supervisor import Program
from tests.integration.ports import reserved_port

from .fake_node import FakeNode
from .rig import DEADLINE_S, KEY, eventually, settings_for, until

pytestmark = pytest.mark.anyio
GREEDY = """
import asyncio, signal, cakework.server.__main__ as server
eaten = []
def eat(*_):
    while True:
        eaten.append(b'x' * (8 << 20))
build = server.build_server
def built(settings):
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, eat)
    return build(settings)
server.build_server = built
server.main()
"""
"""A server in whose loop memory is taken without end, once it is told to."""


class Parts:
    """Server and router, kept as ``cakework up`` keeps them."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.said: list[str] = []
        commands = {"server": ["-c", GREEDY], "router": ["-m", "cakework.router"]}
        self.programs = {
            name: Program(name, [sys.executable, *words], environment, self.said.append, 300, True)
            for name, words in commands.items()
        }

    def pid(self, name: str) -> int | None:
        return self.programs[name].pid


async def test_a_server_that_takes_all_memory_dies_alone(folder: Path, node: FakeNode) -> None:
    """It is ended and started again; the router goes on, and answers
    as soon as the new server has told it what there is."""
    settings = settings_for(folder, None)
    with reserved_port() as port, reserved_port() as proxy_port:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CAKEWORK_DATA_DIR": str(settings.data_dir),
            "CAKEWORK_PORT": str(port),
            "CAKEWORK_PROXY_PORT": str(proxy_port),
            "CAKEWORK_API_KEY": KEY,
            "CAKEWORK_SERVER_MEMORY_MB": "300",
        }
        parts = Parts(environment)
        async with (
            httpx2.AsyncClient(timeout=DEADLINE_S, verify=False) as client,
            anyio.create_task_group() as group,
        ):
            for program in parts.programs.values():
                group.start_soon(program.keep)

            async def whole() -> bool:
                try:
                    health = await client.get(f"http://127.0.0.1:{port}/healthz")
                    nobody = await client.get(f"http://127.0.0.1:{proxy_port}/")
                except httpx2.TransportError:
                    return False
                return (health.status_code, nobody.status_code) == (200, 404)

            await eventually(whole, "both serve")
            server, router = parts.pid("server"), parts.pid("router")
            assert server is not None
            os.kill(server, signal.SIGUSR1)
            await until(lambda: parts.pid("server") not in (None, server), "another server runs")
            await eventually(whole, "both serve again")
            assert parts.pid("router") == router
            assert "the server takes more than 300 MiB of memory" in parts.said
            async with asyncio.timeout(DEADLINE_S):
                for program in parts.programs.values():
                    await program.stop()
