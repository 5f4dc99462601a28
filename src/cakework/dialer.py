"""Connections into VMs, from the node's dial socket. There is no other way into a VM.

The node runs as root in the VM's network namespace and connects there; this process gets
the connected socket and nothing else. See ``DialRequest`` in domain.orders.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from cakework.domain.orders import DialAnswer, DialRequest

ANSWER_BYTES_MAX = 4096
FDS_MAX = 4
FD_BYTES = struct.calcsize("i")


class DialFailed(Exception):
    """No connection; ``code`` is ``not_found``, ``refused``, ``timeout`` or ``unavailable``."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Dialer(Protocol):
    """Makes connections into VMs."""

    async def dial(self, vm_id: str, port: int) -> socket.socket:
        """Return a non-blocking TCP socket connected to ``port`` inside the VM.

        Raises:
            DialFailed: there is no such connection to be had.
        """
        ...


class NodeDialer:
    """The dialer of the node that listens on ``path``."""

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    async def dial(self, vm_id: str, port: int) -> socket.socket:
        """Return a non-blocking TCP socket connected to ``port`` inside the VM.

        Raises:
            DialFailed: the node says no, does not answer in time, or is not there.
        """
        request = DialRequest(vm_id=vm_id, port=port)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(request)
        except TimeoutError as error:
            raise DialFailed("timeout", "dialing the VM took too long") from error
        except (OSError, ValidationError) as error:
            raise DialFailed("unavailable", "the node does not answer") from error

    async def _ask(self, request: DialRequest) -> socket.socket:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as node:
            await loop.sock_connect(node, str(self._path))
            await loop.sock_sendall(node, request.model_dump_json().encode() + b"\n")
            line, fds = await _receive_line(node)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(_adopt(fd)) for fd in fds]
            answer = DialAnswer.model_validate_json(line)
            if not answer.ok:
                raise DialFailed(answer.code or "unavailable", answer.detail or "no connection")
            if len(sockets) != 1:
                raise DialFailed("unavailable", "the node sent no connection")
            stack.pop_all()
            return sockets[0]


def _adopt(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


async def _receive_line(node: socket.socket) -> tuple[bytes, list[int]]:
    line = bytearray()
    fds: list[int] = []
    try:
        while not line.endswith(b"\n"):
            data, more = await _receive_some(node)
            fds += more
            line += data
            if not data or len(line) > ANSWER_BYTES_MAX:
                raise ConnectionResetError("the node's answer is cut short or too long")
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return bytes(line), fds


async def _receive_some(node: socket.socket) -> tuple[bytes, list[int]]:
    while True:
        try:
            # Not socket.recv_fds, which drops the flag (CPython 3.11).
            data, ancillary, _, _ = node.recvmsg(
                ANSWER_BYTES_MAX, socket.CMSG_LEN(FDS_MAX * FD_BYTES), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            await _readable(node)
        else:
            return data, [fd for item in ancillary for fd in _fds(*item)]


def _fds(level: int, kind: int, data: bytes) -> Iterator[int]:
    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        whole = len(data) - len(data) % FD_BYTES
        yield from (fd for (fd,) in struct.iter_unpack("i", data[:whole]))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _once(ready))
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _once(ready: asyncio.Future[None]) -> Callable[[], None]:
    def fire() -> None:
        if not ready.done():
            ready.set_result(None)

    return fire
