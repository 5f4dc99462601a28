"""The adapter as a program: loads the function, and serves its two ports."""

import argparse
import asyncio
import base64
import contextlib
import logging
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cakework_functions.context import LOG
from cakework_runtime.applications import Applications
from cakework_runtime.control import Control, Function
from cakework_runtime.failure import show
from cakework_runtime.handlers import Handlers, load
from cakework_runtime.http1 import Server
from cakework_runtime.invocations import Invocations
from cakework_runtime.visitors import Visitors

NOTIFY = "/run/cakework/notify"
BACKLOG = 512


@dataclass(frozen=True, slots=True)
class Loading:
    """What is to be served: ``entry`` of ``folder``, so many at once."""

    folder: Path
    entry: str
    signature: str = ""
    concurrency: int = 1


def main() -> None:
    """Serve the function that the command line names, or ``/load``, until the machine goes."""
    options = _options()
    for stream in (sys.stdout, sys.stderr):
        # What is printed is of the invocation that printed it, and an instance may go at any time.
        stream.reconfigure(line_buffering=True)  # pyright: ignore
    log = logging.StreamHandler(sys.stdout)
    log.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    LOG.addHandler(log)
    LOG.setLevel(logging.DEBUG)
    LOG.propagate = False
    # Connections wait here while the function is imported.
    control = _listening(options.control_host, options.control_port)
    folder = options.folder.resolve()
    if options.entry is None:
        asyncio.run(_serve(options, control, None))
        return
    imported = _imported(Loading(folder, options.entry, options.signature, options.concurrency))
    asyncio.run(_serve(options, control, imported))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cakework_runtime", description=__doc__)
    parser.add_argument("--entry", help="main.py, pkg/mod.py or main.py:name; without it, /load")
    parser.add_argument("--folder", type=Path, default=Path(), help="where it lies (default .)")
    parser.add_argument("--port", type=int, default=8080, help="for visitors")
    parser.add_argument("--host", default="0.0.0.0", help="address for visitors")  # noqa: S104
    parser.add_argument("--control-port", type=int, default=8079, help="for orders")
    parser.add_argument("--control-host", default="127.0.0.1", help="address for orders")
    parser.add_argument("--concurrency", type=int, default=1, help="work at once")
    parser.add_argument("--signature", choices=["", "rest"], default="", help="the old form")
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class _Imported:
    handlers: Handlers
    failed: BaseException | None
    threads: ThreadPoolExecutor
    concurrency: int


def _imported(loading: Loading) -> _Imported:
    """Import a function; whatever that raises is kept."""
    # Before the import, which may leave room for no other thread.
    threads = _threads(loading.concurrency)
    handlers, failed = Handlers(), None
    try:
        handlers = load(loading.folder, loading.entry, loading.signature == "rest")
    except BaseException as error:
        show(error)
        failed = error
    return _Imported(handlers, failed, threads, loading.concurrency)


async def _started(imported: _Imported, secrets: dict[str, str]) -> Function:
    """Return a function that was imported, its application started."""
    handlers, failed, threads = imported.handlers, imported.failed, imported.threads
    applications = Applications(handlers, threads)
    if failed is None:
        try:
            await applications.start_up()
        except Exception as error:
            show(error)
            handlers, failed = Handlers(), error
            applications = Applications(handlers, threads)
    invocations = Invocations(handlers, applications, threads, imported.concurrency, secrets)
    visitors = Visitors(handlers, failed, applications, invocations)
    state = "ready" if failed is None else "failed"
    return Function(state, handlers, failed, invocations, visitors, threads)


async def _serve(
    options: argparse.Namespace, control_socket: socket.socket, imported: _Imported | None
) -> None:
    secrets: dict[str, str] = {}
    if imported is not None:
        function = await _started(imported, secrets)
    else:
        empty = _Imported(Handlers(), None, _threads(1), 1)
        function = replace(await _started(empty, secrets), state="empty")

    async def loaded(order: dict[str, Any]) -> Function:
        folder = options.folder.resolve()
        loading = Loading(
            folder, str(order["entry"]), str(order["signature"]), int(order["concurrency"])
        )
        lay(folder, order["files"])
        os.environ.update(order["env"])
        os.chdir(folder)
        # In the main thread, as when the program is started with it.
        return await _started(_imported(loading), secrets)

    control = Control(function, secrets, loaded)
    visitors = Server(lambda exchange: control.function.visitors.serve(exchange))
    control.visitors = visitors
    loop = asyncio.get_running_loop()
    await loop.create_server(Server(control.serve).protocol, sock=control_socket)
    # Last: that somebody listens on it says that the function is ready.
    port = _listening(options.host, options.port)
    await loop.create_server(visitors.protocol, sock=port)
    _notify()
    await asyncio.Event().wait()


def lay(folder: Path, files: list[dict[str, str]]) -> None:
    """Write files into ``folder``: ``{path, content}``, content in base64."""
    for each in files:
        path = (folder / each["path"]).resolve()
        if not path.is_relative_to(folder):
            raise ValueError(f"{each['path']} leads out of the function's folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(each["content"], validate=True))


def _threads(count: int) -> ThreadPoolExecutor:
    """Return a pool whose threads all run: a function may leave room for no other later."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="handler")
    together = threading.Barrier(count)
    for each in [pool.submit(together.wait) for _ in range(count)]:
        each.result()
    return pool


def _listening(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), backlog=BACKLOG)


def _notify() -> None:
    """Tell pid 1 that the function is ready, as sd_notify does."""
    path = os.environ.get("NOTIFY_SOCKET", NOTIFY)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1\n", path)
