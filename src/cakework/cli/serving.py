"""The platform on one machine: starts node, server and router in order, and stops them in order."""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from shlex import quote
from shutil import which

import anyio
import httpx2

import cakework
from cakework.cli.configuration import environment
from cakework.cli.exits import CommandFailed
from cakework.cli.output import Output
from cakework.cli.privileges import as_server_user
from cakework.cli.supervisor import Program
from cakework.domain.orders import NodeHealth
from cakework.settings import PREFIX, Settings
from cakework_client import ApiError, AsyncCakeworkClient, CakeworkError

START_S = 180.0
"""Longest wait for a part to be ready: a first start boots a VM to find out what works."""
POLL_S = 0.05
ANSWER_S = 2.0
SAY_EVERY_S = 5.0
NO_VM = "ready.invalid"
"""A hostname that no VM has (RFC 6761, 6.4)."""
SECRETS = frozenset({"CAKEWORK_API_KEY", "CAKEWORK_DATABASE_URL"})
"""Settings that the router has no use for."""
GIVEN = frozenset({"HOME", "LANG", "LD_LIBRARY_PATH", "NO_COLOR", "PATH", "TMPDIR", "TZ"})
GIVEN_KINDS = ("LC_", "PYTHON")
"""Variables that the router, to which strangers speak, is given beside settings, and how others
begin that it is given too: no more of root's."""
DEFAULT_URL = "http://127.0.0.1:8081"


class Serving:
    """Node, server and router of one data folder."""

    def __init__(self, settings: Settings, output: Output, *, stop_vms: bool) -> None:
        self._settings = settings
        self._output = output
        self._stop_vms = stop_vms
        self._env = environment(settings)
        node = ["setpriv", "--pdeathsig=TERM", "--", sys.executable, "-m", "cakework.node"]
        server = as_server_user([sys.executable, "-m", "cakework.server"], settings)
        self._node = Program("node", node, self._env, output.progress, settings.node_memory_mb)
        self._server = Program(
            "server", server, self._env, output.progress, settings.server_memory_mb
        )
        router = as_server_user([sys.executable, "-m", "cakework.router"], settings)
        self._router = Program(
            "router", router, of_router(self._env), output.progress, settings.router_memory_mb
        )

    async def run(self) -> None:
        """Start all, say so when all is ready, and keep them running.

        Raises:
            CommandFailed: One does not start.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self._node.keep)
            await self._wait("node", self._node_answers)
            self._node.proven = True
            group.start_soon(self._server.keep)
            group.start_soon(self._router.keep)
            await self._wait("node", self._node_is_ready)
            await self._wait("server", self._server_is_ready)
            self._server.proven = True
            await self._wait("router", self._router_is_ready)
            self._router.proven = True
            self._announce(await self._first_key())

    async def stop(self) -> None:
        """Stop router and server, then the VMs if they are to be stopped, then the node.

        Raises:
            CommandFailed: The node does not answer, so that VMs cannot be stopped.
        """
        self._output.progress(
            "stopping, and all VMs too" if self._stop_vms else "stopping; VMs keep running"
        )
        async with anyio.create_task_group() as group:
            group.start_soon(self._router.stop)
            group.start_soon(self._server.stop)
        try:
            if self._stop_vms:
                await self._stop_all_vms()
        finally:
            await self._node.stop()

    def kill(self) -> None:
        """End all at once. What they were doing is picked up at the next start."""
        self._router.kill()
        self._server.kill()
        self._node.kill()

    async def _wait(self, name: str, state: Callable[[], Awaitable[str | None]]) -> None:
        """Wait until ``state`` returns None; until then say now and then what it returns."""
        began = said = anyio.current_time()
        while waiting_for := await state():
            now = anyio.current_time()
            if now - began > START_S:
                raise CommandFailed(f"The {name} is not ready after {START_S:g} s: {waiting_for}")
            if now - said > SAY_EVERY_S:
                self._output.progress(f"waiting for the {name}: {waiting_for}")
                said = now
            await anyio.sleep(POLL_S)

    async def _node_answers(self) -> str | None:
        return "no answer yet" if await self._node_health() is None else None

    async def _node_is_ready(self) -> str | None:
        health = await self._node_health()
        if health is None:
            return "no answer"
        return None if health.ready else health.detail

    async def _node_health(self) -> NodeHealth | None:
        try:
            async with self._node_client() as client:
                answer = await client.get("/v1/health", timeout=ANSWER_S)
            return NodeHealth.model_validate_json(answer.content)
        except (httpx2.HTTPError, ValueError):
            return None

    async def _server_is_ready(self) -> str | None:
        url = api_url(self._settings)
        try:
            async with AsyncCakeworkClient(
                url=url, api_key="none", timeout=ANSWER_S, retries=0
            ) as client:
                await client.readyz()
        except ApiError as error:
            return error.detail
        except CakeworkError:
            return "no answer yet"
        return None

    async def _router_is_ready(self) -> str | None:
        """Ask for a VM that is not there: the router says so once the server told it of all."""
        url = f"http://{connectable(self._settings.proxy_host)}:{self._settings.proxy_port}"
        try:
            async with httpx2.AsyncClient(timeout=ANSWER_S, trust_env=False) as client:
                answer = await client.get(url, headers={"Host": NO_VM})
        except httpx2.HTTPError:
            return "no answer yet"
        return None if answer.status_code == 404 else "it waits for the server"

    async def _first_key(self) -> str | None:
        """Make a key when there is none yet, and return it."""
        if self._settings.api_key is not None:
            return None
        create = ["-m", "cakework.cli", "keys", "create", "--if-none", "--name=first", "--json"]
        argv = as_server_user([sys.executable, *create], self._settings)
        done = await anyio.run_process(
            argv, env=self._env, cwd="/", stderr=sys.stderr, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            raise CommandFailed("The first API key could not be made; it says why above.")
        created = json.loads(done.stdout)
        return created["key"] if created else None

    def _announce(self, key: str | None) -> None:
        settings = self._settings
        router = f"http://*.{settings.base_domain}:{settings.proxy_port}"
        found = {
            "url": api_url(settings),
            "router": f"http://{connectable(settings.proxy_host)}:{settings.proxy_port}",
            "dataDir": str(settings.data_dir),
            "apiKey": key,
        }
        if self._output.as_json:
            self._output.result(found, "")
            return
        lines = [
            "",
            "  Cakework is up.",
            f"  API      {found['url']}",
            f"  VMs      {router}",
            f"  Data     {settings.data_dir}",
            *(first_steps(self._settings, key) if key else []),
            "",
            "  Ctrl-C stops; VMs keep running until stopped.",
            "",
        ]
        self._output.result(found, "\n".join(lines))

    async def _stop_all_vms(self) -> None:
        try:
            async with self._node_client() as client:
                vms = (await client.get("/v1/vms")).raise_for_status().json()
                async with anyio.create_task_group() as group:
                    for vm in vms:
                        group.start_soon(self._stop_vm, client, vm["vm_id"])
        except httpx2.HTTPError as error:
            raise CommandFailed(f"The VMs were not stopped, they keep running: {error}") from error

    async def _stop_vm(self, client: httpx2.AsyncClient, vm_id: str) -> None:
        try:
            (await client.post(f"/v1/vms/{vm_id}/stop", json={})).raise_for_status()
        except httpx2.HTTPError as error:
            self._output.progress(f"VM {vm_id} was not stopped, it may keep running: {error}")

    def _node_client(self) -> httpx2.AsyncClient:
        transport = httpx2.AsyncHTTPTransport(uds=str(self._settings.node_socket))
        return httpx2.AsyncClient(transport=transport, base_url="http://node", timeout=60)


def of_router(env: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment the router is given; a setting's name may be in any case."""

    def is_given(name: str) -> bool:
        setting = name.upper()
        if setting.startswith(PREFIX):
            return setting not in SECRETS
        return name in GIVEN or name.startswith(GIVEN_KINDS)

    return {name: text for name, text in env.items() if is_given(name)}


def first_steps(settings: Settings, key: str) -> list[str]:
    """Return what to do with a first key."""
    elsewhere = api_url(settings) != DEFAULT_URL
    return [
        "",
        f"  API key  {key}",
        "  It is shown only this once: keep it. In another shell:",
        "",
        *([f"    export CAKEWORK_URL={api_url(settings)}"] if elsewhere else []),
        f"    export CAKEWORK_API_KEY={key}",
        *(f"    {each}" for each in first_commands(Path(sys.executable).parent)),
    ]


def first_commands(folder: Path) -> list[str]:
    """Return what can be copied into another shell: ``folder`` has the command."""
    on_path = which("cakework") == str(folder / "cakework")
    example = Path(cakework.__file__).parents[2] / "examples" / "hello"
    there = example.is_dir()
    return [
        *([] if on_path else [f"export PATH={quote(str(folder))}:$PATH"]),
        f"cakework run $(cakework build {quote(str(example))})"
        if there
        else "cakework init hello && cakework deploy hello",
    ]


def api_url(settings: Settings) -> str:
    """Return the API's address as seen from this machine."""
    return f"http://{connectable(settings.host)}:{settings.port}"


def connectable(host: str) -> str:
    """Return an address to connect to for one that is listened on."""
    return {
        "0.0.0.0": "127.0.0.1",  # noqa: S104
        "::": "[::1]",
    }.get(host, f"[{host}]" if ":" in host else host)
