"""The dial socket: hands connections into VMs to the server, the one way in.

See :class:`cakework.domain.orders.DialRequest` for what is said on it. The socket that is
handed over was made inside the VM's network namespace, so it reaches the guest and nothing of
the host; the bytes then pass between server and guest without the node.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from typing import Literal

import structlog
from pydantic import ValidationError

from cakework.domain.errors import NotFound
from cakework.domain.orders import DialAnswer, DialRequest
from cakework.node.network.namespaces import GUEST_ADDRESS, run_inside

CONNECT_TIMEOUT_S = 5.0
REQUEST_BYTES = 4096
BACKLOG = 256
ACCEPT_RETRY_S = 0.1

log = structlog.get_logger("cakework.node.dial")

Problem = Literal["not_found", "refused", "timeout"]


class DialServer:
    """Serves the dial socket. ``namespace_of`` gives a VM's namespace or raises NotFound."""

    def __init__(self, listener: socket.socket, namespace_of: Callable[[str], int]) -> None:
        self._listener = listener
        self._namespace_of = namespace_of
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer requests until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        try:
            while True:
                try:
                    client, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    log.warning("dial.not_accepted", reason=str(error))
                    await asyncio.sleep(ACCEPT_RETRY_S)
                    continue
                task = loop.create_task(self._attend(client))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _attend(self, client: socket.socket) -> None:
        with client, contextlib.suppress(ConnectionError):
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            while data := await _line(client):
                answer, connection = await self._answer(data)
                message = answer.model_dump_json().encode() + b"\n"
                if connection is None:
                    await loop.sock_sendall(client, message)
                    continue
                with connection:
                    socket.send_fds(client, [message], [connection.fileno()])

    async def _answer(self, data: bytes) -> tuple[DialAnswer, socket.socket | None]:
        try:
            request = DialRequest.model_validate_json(data)
            namespace = self._namespace_of(request.vm_id)
        except ValidationError as error:
            return _no("not_found", f"not a dial request: {error.error_count()} errors"), None
        except NotFound as error:
            return _no("not_found", error.detail), None
        try:
            return DialAnswer(ok=True), await connect(namespace, request.port)
        except TimeoutError:
            return _no("timeout", "the VM did not answer in time"), None
        except OSError as error:
            return _no("refused", f"port {request.port}: {_words(error)}"), None


async def connect(namespace: int, port: int) -> socket.socket:
    """Return a connection, from inside a VM's namespace, to ``port`` of its guest.

    Raises:
        OSError: nothing listens there, or it does not answer in time (TimeoutError).
    """
    connection = run_inside(namespace, _tcp_socket)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(connection, (GUEST_ADDRESS, port))
    except BaseException:
        connection.close()
        raise
    return connection


def _tcp_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _no(code: Problem, detail: str) -> DialAnswer:
    return DialAnswer(ok=False, code=code, detail=detail)


def _words(error: OSError) -> str:
    return "nothing listens" if error.errno == errno.ECONNREFUSED else str(error)


async def _line(client: socket.socket) -> bytes:
    """Return the next line, empty at the end or when it is too long."""
    data = b""
    while not data.endswith(b"\n"):
        try:
            chunk = await asyncio.get_running_loop().sock_recv(client, REQUEST_BYTES)
        except ConnectionError:
            return b""
        data += chunk
        if not chunk or len(data) > REQUEST_BYTES:
            return b""
    return data
