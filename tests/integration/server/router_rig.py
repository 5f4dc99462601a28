"""A router with what it needs around it: routes, a stand-in for the node's dial socket that
connects to servers of the test, and plain sockets as clients. Faults are made here."""

import asyncio
import contextlib
import json
import socket
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cakework.dialer import NodeDialer
from cakework.domain.orders import DialAnswer, DialRequest
from cakework.domain.vms import VmState
from cakework.router.activity import Activity
from cakework.router.link import ServerLink
from cakework.router.patience import Sleepers
from cakework.router.router import Router
from cakework.router.routes import Limits
from cakework.settings import Settings

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HOST = "01arz3ndektsv4rrffq69g5fav.localhost"
VM = "0123456789abcd"
DEADLINE_S = 60.0


async def eventually(condition: Callable[[], object]) -> None:
    """Return when ``condition`` holds, which must be soon."""
    async with asyncio.timeout(DEADLINE_S):
        # What is looked at (files, sockets) tells nobody when it changes.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@dataclass
class KnownRoute:
    vm_id: str
    port: int | None
    state: VmState = VmState.STARTED
    run: int = 1
    auto_start: bool = False
    account_id: str = "account"


@dataclass
class Alarm:
    """Wakes VMs as the test says; ``asked`` counts."""

    rings: Callable[[str], Awaitable[None]] | None = None
    asked: int = 0

    async def wake(self, vm_id: str) -> None:
        self.asked += 1
        assert self.rings is not None, "nobody said how to wake a VM"
        await self.rings(vm_id)


@dataclass
class KnownRoutes:
    by_host: dict[str, KnownRoute] = field(default_factory=dict[str, KnownRoute])

    def find(self, host: str) -> KnownRoute | None:
        return self.by_host.get(host)

    async def confirm(self) -> None:
        return


@dataclass
class DialNode:
    """Answers dials. ``answers`` sends other bytes than it should, ``fds`` as many sockets."""

    ports: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    answer: bytes | None = None
    fds: int = 1
    silent: bool = False
    dials: int = 0

    def serve(self, node: socket.socket) -> None:
        with node, node.makefile("rb") as lines:
            request = DialRequest.model_validate_json(lines.readline())
            self.dials += 1
            if self.silent:
                lines.read()
                return
            with contextlib.ExitStack() as stack:
                answer, fds = self._connect(request, stack)
                data = self.answer or (answer.model_dump_json().encode() + b"\n")
                socket.send_fds(node, [data[:1]], fds)
                node.sendall(data[1:])

    def _connect(
        self, request: DialRequest, stack: contextlib.ExitStack
    ) -> tuple[DialAnswer, list[int]]:
        port = self.ports.get((request.vm_id, request.port))
        if port is None:
            return DialAnswer(ok=False, code="not_found", detail="no such VM"), []
        try:
            socks = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                for _ in range(self.fds)
            ]
        except ConnectionRefusedError:
            return DialAnswer(ok=False, code="refused", detail="refused"), []
        return DialAnswer(ok=True), [sock.fileno() for sock in socks]


@contextlib.asynccontextmanager
async def dial_socket(node: DialNode, path: Path) -> AsyncGenerator[None]:
    """Serve ``node`` on ``path`` with one thread for each dial."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(128)

        async def accept() -> None:
            async with asyncio.TaskGroup() as dials:
                while True:
                    connection, _ = await loop.sock_accept(listener)
                    connection.setblocking(True)
                    dials.create_task(asyncio.to_thread(node.serve, connection))

        task = asyncio.create_task(accept())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (ln.split(": ", 1) for ln in lines)}
        return int(first.split(" ")[1]), headers

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, b"".join([chunk async for chunk in self.chunks()])
        if "content-length" in headers:
            length = int(headers["content-length"])
            return status, headers, await self.exactly(length)
        return status, headers, await self.rest()

    async def chunks(self) -> AsyncGenerator[bytes]:
        while True:
            size = int(await asyncio.wait_for(self.reader.readuntil(b"\n"), DEADLINE_S), 16)
            chunk = await self.exactly(size + 2)
            if not size:
                return
            yield chunk[:-2]

    async def exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), DEADLINE_S)

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), DEADLINE_S)

    async def problem(self) -> tuple[int, str]:
        status, headers, body = await self.answer()
        assert headers["content-type"] == "application/problem+json"
        problem = json.loads(body)
        assert problem["status"] == status
        assert problem["requestId"] == headers["x-request-id"]
        return status, problem["code"]

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


@dataclass
class Rig:
    router: Router
    routes: KnownRoutes
    node: DialNode
    stack: contextlib.AsyncExitStack
    activity: Activity
    alarm: Alarm

    async def vm(
        self, handler: Handler, host: str = HOST, vm_id: str = VM, account_id: str = "account"
    ) -> None:
        """Have ``handler`` be what listens on port 80 of a VM."""

        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await handler(reader, writer)
            finally:
                await _close(writer)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.create_task(serve(reader, writer)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.stack.push_async_callback(_close_server, server, tasks)
        self.route(server.sockets[0].getsockname()[1], host, vm_id)
        self.routes.by_host[host].account_id = account_id

    def route(self, port: int, host: str = HOST, vm_id: str = VM) -> None:
        self.node.ports[vm_id, 80] = port
        self.routes.by_host[host] = KnownRoute(vm_id, 80)

    async def client(self, address: str = "127.0.0.1") -> Client:
        """Connect from an address of the loopback."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.router.port, local_addr=(address, 0)
        )
        self.stack.push_async_callback(_close, writer)
        return Client(reader, writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _close_server(server: asyncio.Server, tasks: set[asyncio.Task[None]]) -> None:
    server.close()
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


@contextlib.asynccontextmanager
async def router_rig(
    limits: Limits | None = None, dial_timeout_s: float = DEADLINE_S
) -> AsyncGenerator[Rig]:
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        routes, node = KnownRoutes(), DialNode()
        await stack.enter_async_context(dial_socket(node, folder / "dial.sock"))
        dialer = NodeDialer(folder / "dial.sock", timeout_s=dial_timeout_s)
        alarm = Alarm()
        sleepers = Sleepers(Activity(), alarm)
        router = Router(routes=routes, dialer=dialer, sleepers=sleepers, limits=limits)
        await router.start("127.0.0.1", 0)
        stack.push_async_callback(router.close)
        yield Rig(router, routes, node, stack, sleepers.activity, alarm)


@contextlib.asynccontextmanager
async def linked(settings: Settings, activity: Activity) -> AsyncGenerator[ServerLink]:
    """Have a router's link to the server of ``settings``, which told everything."""
    link = ServerLink(settings.routes_socket, activity)
    task = asyncio.create_task(link.run())
    try:
        await eventually(lambda: link.is_whole)
        yield link
    finally:
        task.cancel()
        await asyncio.wait([task])


def get(path: str = "/", host: str = HOST, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


def post(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", f"Host: {HOST}", *lines, "", ""]).encode() + body


async def request_head(reader: asyncio.StreamReader) -> dict[str, str]:
    """Read a request's head as a server in a VM does; ``""`` has the request line."""
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
    pairs = (line.split(": ", 1) for line in lines)
    return {"": first} | {name.lower(): value for name, value in pairs}


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request on a connection with its head in JSON, and its body's length."""
    while True:
        head = await request_head(reader)
        body = await reader.readexactly(int(head.get("content-length", "0")))
        writer.write(ok(json.dumps({**head, "body": len(body)}).encode()))
        await writer.drain()
