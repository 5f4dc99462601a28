"""A whole server with a node that does what the test says, reached through HTTP."""

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from pydantic import SecretStr

from cakework.domain.ids import AccountId
from cakework.server.api.connection import CONNECTIONS, UNTAKEN_BYTES_MAX, api_config
from cakework.server.app import Server, build_server, create_app
from cakework.server.clock import Clock, now_ms
from cakework.server.loops.retention import KeptDays, RetentionLoop
from cakework.server.store.database import Database
from cakework.settings import Settings

from .fake_node import FakeNode
from .served import Served

DEADLINE_S = 60.0
LOOKS_S = (0.005, 0.2)
"""How long is waited between looks, at first and at most: a look takes time of what is awaited."""
KEY = "cw_" + "k" * 43
DOCKERFILE = "FROM cakework/busybox\nCMD echo hello\n"
Json = dict[str, Any]
T = TypeVar("T")
STORE = "cakework.db"
_STORES = tempfile.TemporaryDirectory(prefix="cakework-stores-")


async def eventually(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Return what ``look`` returns as soon as that is true.

    Raises:
        AssertionError: it was not so in time.
    """
    deadline = time.monotonic() + DEADLINE_S
    wait_s, most_s = LOOKS_S
    while not (found := await look()):
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, most_s)
    return found


async def until(true: Callable[[], object], what: str) -> None:
    """Return as soon as ``true`` says so; it costs nothing to ask."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(LOOKS_S[0])


@dataclass
class Rig:
    """The server, the node, and a client with the key of account "default"."""

    settings: Settings
    node: FakeNode
    server: Server
    client: httpx2.AsyncClient

    async def ok(self, method: str, path: str, **request: Any) -> Json:
        """Make a call that must succeed; returns its body."""
        response = await self.client.request(method, path, **request)
        assert response.status_code == 200, response.text
        return response.json()

    async def refused(self, status: int, method: str, path: str, **request: Any) -> Json:
        """Make a call that must be refused with ``status``; returns the problem."""
        response = await self.client.request(method, path, **request)
        assert response.status_code == status, response.text
        return as_problem(response)

    async def build(self, **fields: Any) -> Json:
        """Ask for a build; returns it as answered."""
        body: Json = {"dockerfile": DOCKERFILE, "files": [], **fields}
        return await self.ok("POST", "/v1/image/build/files", json=body)

    async def image(self) -> str:
        """Have an image built; returns its id."""
        build_id = (await self.build())["buildId"]
        await until(lambda: build_id in self.node.builds, "the node has the build")
        await self.node.succeed(build_id)
        build = await self.eventually(f"/v1/image/build/{build_id}", status="succeeded")
        return build["imageId"]

    async def vm(self, image_id: str | None = None, **fields: Any) -> Json:
        """Start a VM; returns it as answered."""
        body = {"imageId": image_id or await self.image(), **fields}
        return await self.ok("POST", "/v1/vm/start", json=body)

    async def eventually(self, path: str, **fields: object) -> Json:
        """Get ``path`` until the answer has these fields; returns it."""

        async def look() -> Json | None:
            found = await self.ok("GET", path)
            return found if fields.items() <= found.items() else None

        return await eventually(look, f"{path} has {fields}")

    async def messages(self, path: str, count: int) -> list[str]:
        """Return the messages of a log as soon as there are ``count``."""

        async def look() -> list[str] | None:
            lines = (await self.ok("GET", path, params={"batch": 1000}))["lines"]
            return [line["message"] for line in lines] if len(lines) >= count else None

        return await eventually(look, f"{count} lines in {path}")

    async def retain(self, days: KeptDays, at_ms: int) -> None:
        """Have a pass of the retention loop, as if it were ``at_ms``."""
        parts = self.server
        loop = RetentionLoop(
            parts.database, parts.log_store, parts.node, parts.vms, days, lambda: at_ms
        )
        await loop.one_pass()

    async def other_account(self) -> httpx2.AsyncClient:
        """Return a client with the key of another account."""
        created = await self.server.keys.create("theirs", AccountId("other"))
        headers = {"X-Api-Key": created.key}
        return httpx2.AsyncClient(
            base_url=self.client.base_url, headers=headers, timeout=DEADLINE_S
        )


def as_problem(response: httpx2.Response) -> Json:
    """Return a response's problem, having checked that it is one."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["type"] == f"urn:cakework:problem:{problem['code']}"
    assert problem["requestId"] == response.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]
    if response.status_code in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    return problem


def settings_for(folder: Path, database_url: str | None, **changes: Any) -> Settings:
    """Return the settings of a server of the test's own."""
    values: Json = {
        "data_dir": folder,
        "port": 0,
        "proxy_port": 8082,
        "api_key": SecretStr(KEY),
        "database_url": database_url,
        "log_level": "debug",
        "log_format": "json",
        # What the node of these tests prints is years old.
        "retain_logs_days": 0,
        # However little there is where tests run.
        "min_free_store_mb": 1,
        **changes,
    }
    settings = Settings(**values)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    return settings


@contextlib.asynccontextmanager
async def running(settings: Settings, node: FakeNode, clock: Clock = now_ms) -> AsyncGenerator[Rig]:
    """Serve on a free port while the block runs. The node is the caller's to serve."""
    if not settings.server_dir.exists():
        await lay_tables(settings)
    server = build_server(settings, clock)
    app = create_app(settings, server)
    async with listening(app, settings.api_connections) as base_url:
        client = httpx2.AsyncClient(
            base_url=base_url, headers={"X-Api-Key": KEY}, timeout=DEADLINE_S, verify=False
        )
        async with client:
            yield Rig(settings, node, server, client)
            server.followers.close()


async def lay_tables(settings: Settings) -> None:
    """Make the server's folder and, for SQLite, a store in it that has all tables already."""
    settings.server_dir.mkdir(mode=0o700)
    if settings.database_url is not None:
        return
    made = Path(_STORES.name) / STORE
    if not made.exists():
        database = Database(f"sqlite+aiosqlite:///{made}")
        await database.open()
        await database.close()
    shutil.copyfile(made, settings.server_dir / STORE)


@contextlib.asynccontextmanager
async def listening(
    app: Any, connections: int = CONNECTIONS, untaken_bytes_max: int = UNTAKEN_BYTES_MAX
) -> AsyncGenerator[str]:
    """Serve an app on a free port of the loopback; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # As where the loop listens by itself; what is accepted has it, too.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        api = Served(api_config(app, connections, untaken_bytes_max))
        task = asyncio.create_task(api.serve([listener]))
        await until(lambda: api.started or task.done(), "the server has started")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            api.end()
            await task


@dataclass(frozen=True)
class Event:
    """A server-sent event; a heartbeat has the name ``comment``."""

    name: str
    id: str | None
    data: str

    @property
    def message(self) -> str:
        """The message of the line in it."""
        return json.loads(self.data)["message"]


async def events(response: httpx2.Response) -> AsyncIterator[Event]:
    """Yield the events of a stream as they come."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name or "comment"] = value.removeprefix(" ")
        elif "comment" in fields:
            yield Event("comment", None, fields["comment"])
            fields = {}
        elif fields:
            yield Event(fields.get("event", "message"), fields.get("id"), fields.get("data", ""))
            fields = {}
