"""An adapter that has everything imported, and forks to start: most of a start is importing.

A node of the tests has one such process for all adapters that it ever starts. An order comes with
the ends that the adapter prints to, and one to which its exit status is written when it has ended.
"""

import array
import asyncio
import atexit
import contextlib
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cakework.runtimes import PYTHON

ORDER_BYTES_MAX = 256 * 1024


class Forked:
    """An adapter that was started, as ``asyncio.subprocess.Process`` has it."""

    def __init__(self, pid: int, told: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._told = told
        self._ended = asyncio.Event()
        told.setblocking(False)
        asyncio.get_running_loop().add_reader(told, self._hear)

    def kill(self) -> None:
        """End it at once, if it runs. Raises ProcessLookupError."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Return its exit status when it has ended."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def _hear(self) -> None:
        status = self._told.recv(100)
        asyncio.get_running_loop().remove_reader(self._told)
        self._told.close()
        # Without a word: whoever started it is gone, and it as well.
        self.returncode = int(status) if status else -signal.SIGKILL
        self._ended.set()


def start(arguments: Sequence[str], cwd: Path, stdout: int, stderr: int) -> Forked:
    """Start ``python <the runtime> <arguments>``, in this environment."""
    order = {"argv": [str(PYTHON), *arguments], "cwd": str(cwd), "env": dict(os.environ)}
    ours, theirs = socket.socketpair()
    orders = _nursery()
    with theirs:
        data = json.dumps(order).encode()
        assert len(data) < ORDER_BYTES_MAX
        socket.send_fds(orders, [data], [stdout, stderr, theirs.fileno()])
    return Forked(int(orders.recv(100)), ours)


@functools.cache
def _nursery() -> socket.socket:
    """Return what orders are sent to; the process ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=theirs.fileno(), start_new_session=True
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def main() -> None:
    """Take orders from a socket that is the standard input."""
    sys.path[0] = str(PYTHON)
    # What an adapter has imported when it serves, but for what is the function's.
    from cakework_runtime import program  # pyright: ignore # noqa: F401

    order = _order_for_a_child()
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.argv = order["argv"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _order_for_a_child() -> dict[str, Any]:
    """Fork for each order, and return it in the child."""
    orders = socket.socket(fileno=os.dup(0))
    woken, wakes = socket.socketpair()
    for end in (woken, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, _nothing)
    signal.set_wakeup_fd(wakes.fileno())
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([orders, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
            _tell_who_ended(children)
        if orders not in ready:
            continue
        data, fds = _received(orders)
        if not data:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            sys.exit()
        stdout, stderr, told = fds
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            for each in (orders, woken, wakes):
                each.detach()
            os.closerange(3, max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 1)
            return json.loads(data)
        os.close(stdout)
        os.close(stderr)
        children[pid] = told
        orders.send(str(pid).encode())


def _nothing(_signal: int, _frame: object) -> None:
    """Have system calls broken off; a byte is in the socket that wakes."""


def _received(orders: socket.socket) -> tuple[bytes, list[int]]:
    """Return an order and its three ends; nothing when there will be none."""
    fds = array.array("i")
    space = socket.CMSG_SPACE(3 * fds.itemsize)
    data, ancillary, _, _ = orders.recvmsg(ORDER_BYTES_MAX, space)
    for _, _, told in ancillary:
        fds.frombytes(told)
    return data, list(fds)


def _tell_who_ended(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        told = children.pop(pid)
        with contextlib.suppress(BrokenPipeError), socket.socket(fileno=told) as end:
            end.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main()
