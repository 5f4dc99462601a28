"""The adapter as a program: loads the function, then serves its two ports."""

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cakework_functions.context import LOG
from cakework_runtime.applications import Applications
from cakework_runtime.control import Control
from cakework_runtime.failure import show
from cakework_runtime.handlers import Handlers, load
from cakework_runtime.http1 import Server
from cakework_runtime.invocations import Invocations
from cakework_runtime.visitors import Visitors

NOTIFY = "/run/cakework/notify"
BACKLOG = 512


def main() -> None:
    """Serve the function that the command line names, until the machine goes."""
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
    control = _listening("127.0.0.1", options.control_port)
    # Before the import, which may leave room for no other thread.
    threads = _threads(options.concurrency)
    handlers, failed = Handlers(), None
    try:
        handlers = load(options.folder.resolve(), options.entry, options.signature == "rest")
    except BaseException as error:
        show(error)
        failed = error
    asyncio.run(_serve(options, control, threads, handlers, failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cakework_runtime", description=__doc__)
    parser.add_argument("--entry", required=True, help="main.py, pkg/mod.py or main.py:name")
    parser.add_argument("--folder", type=Path, default=Path(), help="where it lies (default .)")
    parser.add_argument("--port", type=int, default=8080, help="for visitors")
    parser.add_argument("--host", default="0.0.0.0", help="address for visitors")  # noqa: S104
    parser.add_argument("--control-port", type=int, default=8079, help="for pid 1")
    parser.add_argument("--concurrency", type=int, default=1, help="work at once")
    parser.add_argument("--signature", choices=["", "rest"], default="", help="the old form")
    return parser.parse_args()


async def _serve(
    options: argparse.Namespace,
    control_socket: socket.socket,
    threads: ThreadPoolExecutor,
    handlers: Handlers,
    failed: BaseException | None,
) -> None:
    secrets: dict[str, str] = {}
    applications = Applications(handlers, threads)
    if failed is None:
        try:
            await applications.start_up()
        except Exception as error:
            show(error)
            handlers, failed = Handlers(), error
            applications = Applications(handlers, threads)
    invocations = Invocations(handlers, applications, threads, options.concurrency, secrets)
    visitors = Server(Visitors(handlers, failed, applications, invocations).serve)
    control = Control(handlers, failed, invocations, visitors, threads, secrets)
    loop = asyncio.get_running_loop()
    await loop.create_server(Server(control.serve).protocol, sock=control_socket)
    # Last: that somebody listens on it says that the function is ready.
    port = _listening(options.host, options.port)
    await loop.create_server(visitors.protocol, sock=port)
    _notify()
    await asyncio.Event().wait()


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
