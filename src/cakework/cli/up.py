"""``cakework up``: node, server and router on this machine, kept running until Ctrl-C.

The node runs as root; server and router, which read what strangers send, as ``server_user``.
Stopping leaves VMs running, so that an upgrade does not end them: the next start takes them
over. ``--stop-vms`` ends them too.
"""

import os
import signal
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import anyio
from cyclopts import Parameter

from cakework.cli.configuration import load_settings
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.folders import only_one, prepare_folders
from cakework.cli.output import Json, Output
from cakework.cli.serving import Serving
from cakework.settings import Settings


def up(
    *,
    data_dir: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    proxy_port: int | None = None,
    stop_vms: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    as_json: Json = False,
) -> int:
    """Serve on this machine until Ctrl-C: the API, the router to the VMs, and the node.

    Needs root. VMs keep running when it stops, and the next start takes them over. On a first
    start an API key is made and shown once. With --json one object is printed when all is up.

    Args:
        data_dir: Folder that holds everything (CAKEWORK_DATA_DIR).
        host: Address the API listens on (CAKEWORK_HOST).
        port: Port of the API; 0 picks a free one (CAKEWORK_PORT).
        proxy_port: Port of the router; 0 picks a free one (CAKEWORK_PROXY_PORT).
        stop_vms: Stop all VMs when stopping.
    """
    settings = load_settings(data_dir=data_dir, host=host, port=port, proxy_port=proxy_port)
    if os.geteuid() != 0:
        raise CommandFailed(
            "`cakework up` must be root: VMs need network namespaces and mounts. Use sudo; "
            "the part that faces the network then runs as the user "
            f"{settings.server_user!r}."
        )
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    prepare_folders(settings)
    with only_one(settings):
        settings = choose_ports(settings)
        try:
            anyio.run(partial(serve, settings, Output(as_json=as_json), stop_vms=stop_vms))
        except BaseExceptionGroup as group:
            raise first_failure(group) from group
    return ExitCode.OK


async def serve(settings: Settings, output: Output, *, stop_vms: bool) -> None:
    """Run the platform until SIGINT or SIGTERM; a second one cuts the stopping short."""
    platform = Serving(settings, output, stop_vms=stop_vms)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(end_with, platform.run, group.cancel_scope)
            await anext(signals)
            group.start_soon(end_with, platform.stop, group.cancel_scope)
            await anext(signals)
            platform.kill()


async def end_with(work: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
    """Do some work, and then end everything else in the scope."""
    await work()
    scope.cancel()


def first_failure(error: BaseException) -> BaseException:
    """Return what failed, however deep groups nest it."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def choose_ports(settings: Settings) -> Settings:
    """Return the settings with each port 0 replaced by a free one.

    Raises:
        CommandFailed: A port is taken.
    """
    port = bindable(settings.host, settings.port, "CAKEWORK_PORT or --port")
    proxy_port = bindable(
        settings.proxy_host, settings.proxy_port, "CAKEWORK_PROXY_PORT or --proxy-port"
    )
    return settings.model_copy(update={"port": port, "proxy_port": proxy_port})


def bindable(host: str, port: int, setting: str) -> int:
    """Return the port, or a free one for 0, having seen that it can be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandFailed(
                f"Cannot listen on {host}:{port} ({error.strerror}): another program may use it. "
                f"{setting} chooses another port.",
                code="port_in_use",
            ) from error
        return int(probe.getsockname()[1])
