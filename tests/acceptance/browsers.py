"""A browser that sees one server and nothing else of the world, and no network that changes.

Chromium gives up what it is loading when an interface of its host comes or goes, as those of
VMs do all the time. So it gets a network namespace of its own, in which the server's address is
a socket of ours that passes everything on.
"""

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from cakework.node.network.namespaces import run_inside

CHROMIUM = "/usr/bin/chromium"
PIECE_BYTES = 1 << 16


@contextlib.contextmanager
def browser_for(address: tuple[str, int]) -> Generator[Browser]:
    """Give a Chromium whose network holds nothing but the server at ``address``.

    It runs as root here, and so without its own sandbox.
    """
    with (
        _namespace() as pid,
        _passing_on(pid, address),
        tempfile.TemporaryDirectory(prefix="cakework-browser-") as folder,
        sync_playwright() as playwright,
    ):
        program = Path(folder) / "chromium"
        program.write_text(f'#!/bin/sh\nexec nsenter --net=/proc/{pid}/ns/net {CHROMIUM} "$@"\n')
        program.chmod(0o755)
        launch = playwright.chromium.launch
        with launch(executable_path=program, args=["--no-sandbox"]) as browser:
            yield browser


@contextlib.contextmanager
def _namespace() -> Generator[int]:
    """Give the process that keeps a network namespace with a loopback."""
    script = "ip link set lo up && echo up && exec sleep infinity"
    with subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE) as kept:
        assert kept.stdout is not None
        assert kept.stdout.readline() == b"up\n"
        try:
            yield kept.pid
        finally:
            kept.terminate()


@contextlib.contextmanager
def _passing_on(pid: int, address: tuple[str, int]) -> Generator[None]:
    """Pass connections to ``address`` in a process's network on to ``address`` in ours."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        listener = run_inside(namespace, lambda: socket.create_server(address, backlog=128))
    finally:
        os.close(namespace)
    thread = threading.Thread(target=_accept, args=(listener, address))
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def _accept(listener: socket.socket, address: tuple[str, int]) -> None:
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_connect, args=(near, address), daemon=True).start()


def _connect(near: socket.socket, address: tuple[str, int]) -> None:
    with near, socket.create_connection(address) as far:
        back = threading.Thread(target=_pass, args=(far, near), daemon=True)
        back.start()
        _pass(near, far)
        back.join()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
