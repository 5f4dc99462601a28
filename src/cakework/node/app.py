"""The node put together: everything it consists of, made in order and released in reverse."""

import asyncio
import contextlib
import os
import secrets
import socket
import stat
from collections.abc import Generator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cakework import __version__
from cakework.domain.errors import CakeworkError, Unavailable
from cakework.domain.orders import NodeHealth
from cakework.domain.vms import CPU_MAX, CPU_MIN, MEMORY_MB_MAX, MEMORY_MB_MIN, Shape
from cakework.node.api.builds import BuildCalls
from cakework.node.api.images import ImageCalls
from cakework.node.api.journal import JournalCalls
from cakework.node.api.problems import on_error, on_fault, on_invalid
from cakework.node.api.snapshots import SnapshotCalls
from cakework.node.api.vms import VmCalls
from cakework.node.api.wire import answer
from cakework.node.builds import Builds
from cakework.node.builds.builder.yard import builder_yard
from cakework.node.builds.registries import Registries
from cakework.node.cleanup import cleanup
from cakework.node.images import ImageStore
from cakework.node.imports import Imports
from cakework.node.journal import Journal
from cakework.node.network.builds import BuildNetworks, Reach
from cakework.node.network.dial import BACKLOG, DialServer
from cakework.node.network.namespaces import enable_forwarding, set_host_rules, unplug_left
from cakework.node.network.rules import Egress, outer_rules
from cakework.node.network.spares import Spares
from cakework.node.sockets import listen
from cakework.node.territory import Territory, lease_territory
from cakework.node.vms.accelerator import choose_accelerator
from cakework.node.vms.artifacts import Artifacts
from cakework.node.vms.host import Host
from cakework.node.vms.making import Patience
from cakework.node.vms.pool import Pool
from cakework.node.vms.registry import Vms
from cakework.node.vms.room import Room
from cakework.node.vms.snapshots import Snapshots
from cakework.node.vms.volumes import Volumes
from cakework.node.vms.workshop import Workshop
from cakework.settings import Settings

SHUTDOWN_TIMEOUT_S = 5
KEEP_ALIVE_S = 60
"""Longer than the server keeps a connection unused: so it never sends on one just closed."""
PREPARE_RETRY_S = 5.0
log = structlog.get_logger("cakework.node")


@dataclass(slots=True)
class Node:
    """The parts of a running node."""

    node_id: str
    territory: Territory
    journal: Journal
    images: ImageStore
    volumes: Volumes
    builds: Builds
    imports: Imports
    vms: Vms
    snapshots: Snapshots
    spares: Spares
    pool: Pool
    workshop: Workshop
    ready: bool = False
    closing: bool = False
    detail: str = "making templates"

    def health(self) -> NodeHealth:
        """Say how the node is."""
        known = ("kvm", "tcg")
        accelerator = self.workshop.accelerator
        return NodeHealth(
            node_id=self.node_id,
            version=__version__,
            accelerator=accelerator if accelerator in known else "unknown",
            ready=self.ready,
            detail=self.detail,
            vms=len(self.vms.reports()),
            builds=len(self.builds.known()),
            build_isolation=self.builds.isolation,
        )

    async def prepare(self, shapes: list[Shape]) -> None:
        """Make the templates wanted at start, then keep the pool full.

        A template that cannot be made, as when the host is too busy to boot one in time, is tried
        again for as long as it takes; the node says meanwhile why it is not ready.
        """
        # Nobody tells when the host has become less busy.
        while not await self._make_templates(shapes):  # noqa: ASYNC110
            await asyncio.sleep(PREPARE_RETRY_S)
        self.ready, self.detail = True, "ready"
        log.info("node.ready", accelerator=self.workshop.accelerator)
        await self.pool.fill()

    async def _make_templates(self, shapes: list[Shape]) -> bool:
        try:
            for shape in shapes:
                await self.workshop.template(shape)
        except Exception as error:
            why = error.detail if isinstance(error, CakeworkError) else "a fault of the node"
            self.detail = f"no template could be made, which is tried again: {why}"
            log.error("node.not_ready", reason=why, exc_info=error)
            return False
        return True


async def run_node(settings: Settings, artifacts: Artifacts, stop: asyncio.Event) -> None:
    """Run a node until ``stop`` is set. Its VMs go on after it.

    Raises:
        CakeworkError: it cannot be started here.
    """
    if os.geteuid() != 0:
        raise Unavailable("the node must run as root: it makes VMs and networks")
    artifacts.check()
    folder = settings.node_dir
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Before all else: a second node on this folder must not take the sockets of the first.
    territory = lease_territory(folder)
    async with AsyncExitStack() as stack:
        api = stack.enter_context(_listen(settings.node_socket))
        dial = stack.enter_context(_listen(settings.dial_socket, BACKLOG))
        node = await _assemble(settings, artifacts, territory, stack)
        await _serve(node, settings, api, dial, stop)
        node.closing = True


async def _assemble(
    settings: Settings, artifacts: Artifacts, territory: Territory, stack: AsyncExitStack
) -> Node:
    folder = settings.node_dir
    egress = Egress(
        settings.egress,
        tuple(settings.egress_allow),
        settings.vm_connections,
        settings.vm_connections_per_s,
    )
    reach = _reach(settings)
    _set_up_network(outer_rules(egress, territory, reach.ranges))
    journal = Journal.open(folder / "journal")
    stack.callback(journal.close)
    images = ImageStore(folder / "images")
    machines = folder / "machines"
    machines.mkdir(exist_ok=True, mode=0o711)
    host = Host.assemble(
        machines, artifacts, territory, egress, tuple(settings.dns), settings.pool_networks
    )
    stack.callback(host.spares.close)
    workshop = Workshop(
        folder / "templates",
        host,
        "unknown",
        disk_gb=settings.disk_gb,
        most=settings.max_templates,
    )
    pool = Pool(host, workshop, {Shape(): settings.pool_size}, settings.pool_snapshots)
    stack.push_async_callback(pool.close)
    volumes = Volumes(folder / "volumes")
    room = Room(
        folder,
        _memory_mb(settings),
        settings.min_free_disk_mb,
        _cpus(settings),
        host.footprint,
        settings.account_share,
    )
    patience = Patience(settings.ready_timeout_s, settings.hook_timeout_s)
    kept = folder / "snapshots"
    most_bytes = settings.max_kept_memory_mb_per_account << 20
    snapshots = Snapshots(
        kept, host, workshop, pool, images, volumes, journal, room, patience, most_bytes
    )
    vms = Vms(host, workshop, pool, images, volumes, journal, room, snapshots)
    stack.push_async_callback(snapshots.close)
    stack.push_async_callback(vms.close)
    await vms.adopt()
    with cleanup("links"):
        await asyncio.to_thread(unplug_left, territory, host.slots.is_held)
    # Only now: finding it out may start a machine, which must not get what VMs have already.
    workshop.accelerator = await choose_accelerator(settings.accelerator, folder, host)
    host.footprint.accelerator = workshop.accelerator
    networks = BuildNetworks(territory, host.slots, egress, reach)
    stack.callback(networks.close)
    yard = builder_yard(settings, host, workshop.accelerator, room, networks)
    builds = await stack.enter_async_context(Builds(settings, images, networks, journal, yard))
    imports = await stack.enter_async_context(Imports(settings, images, networks, journal))
    node_id = _node_id(folder)
    return Node(
        node_id,
        territory,
        journal,
        images,
        volumes,
        builds,
        imports,
        vms,
        snapshots,
        host.spares,
        pool,
        workshop,
    )


async def _serve(
    node: Node,
    settings: Settings,
    api: socket.socket,
    dial: socket.socket,
    stop: asyncio.Event,
) -> None:
    config = uvicorn.Config(
        _application(node),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    server = _Api(config)
    shapes = [parse_shape(text) for text in settings.template_shapes]
    node.workshop.in_use = lambda: {Shape(), *shapes, *node.vms.shapes()}
    dialing = DialServer(dial, lambda vm_id: node.vms.machine(vm_id).namespace.fd)
    tasks = [
        asyncio.create_task(node.prepare(shapes), name="prepare"),
        asyncio.create_task(dialing.serve(), name="dial"),
        asyncio.create_task(_tidy(node), name="tidy"),
        asyncio.create_task(node.vms.watch_disk(), name="disk"),
        asyncio.create_task(node.spares.fill(), name="networks"),
    ]
    serving = asyncio.create_task(server.serve(sockets=[api]), name="api")
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping, *tasks[1:]}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        node.closing = True
        node.journal.wake()
        server.should_exit = True
        await serving
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.gather(stopping, *tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()


def _application(node: Node) -> Starlette:
    async def health(_: Request) -> Response:
        return answer(node.health())

    return Starlette(
        routes=[
            Route("/v1/health", health),
            *VmCalls(node.vms, node.volumes).routes(),
            *SnapshotCalls(node.vms, node.snapshots).routes(),
            *BuildCalls(node.builds).routes(),
            *ImageCalls(node.images, node.imports).routes(),
            *JournalCalls(node.journal, lambda: node.closing).routes(),
        ],
        exception_handlers={
            CakeworkError: on_error,
            ValidationError: on_invalid,
            Exception: on_fault,
        },
    )


class _Api(uvicorn.Server):
    """uvicorn's server, leaving the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Do nothing about signals: whoever runs the node has them."""
        yield


async def _tidy(node: Node) -> None:
    """Every few minutes, let go of templates that nobody uses, and of what ended long ago."""
    while True:
        await asyncio.sleep(300)
        with cleanup("templates"):
            node.workshop.discard_surplus()
        for what, forget in (
            ("builds", node.builds.forget_old),
            ("imports", node.imports.forget_old),
        ):
            with cleanup(f"records of {what}"):
                await asyncio.to_thread(forget)


def _set_up_network(rules: str) -> None:
    try:
        set_host_rules(rules)
        enable_forwarding()
    except OSError as error:
        raise Unavailable(f"the host's network could not be set up: {error}") from error


def parse_shape(text: str) -> Shape:
    """Read ``<cpu>x<memory in MB>``. Raises Unavailable, for it is a setting."""
    cpu, _, memory = text.partition("x")
    if cpu.isdecimal() and memory.isdecimal():
        shape = Shape(cpu=int(cpu), memory_mb=int(memory))
        fits = MEMORY_MB_MIN <= shape.memory_mb <= MEMORY_MB_MAX
        if CPU_MIN <= shape.cpu <= CPU_MAX and fits:
            return shape.rounded()
    raise Unavailable(f"template_shapes: {text!r} is not a shape such as 1x256")


def _reach(settings: Settings) -> Reach:
    """Read where images and sources may be fetched from. Raises Unavailable."""
    try:
        registries = Registries.parse(settings.registry_mirrors, settings.insecure_registries)
        return Reach.parse(settings.fetch_allow, registries.addresses())
    except ValueError as error:
        raise Unavailable(str(error)) from error


def _memory_mb(settings: Settings) -> int:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(pages / (1 << 20) * settings.memory_overcommit)


def _cpus(settings: Settings) -> float:
    return (os.cpu_count() or 1) * settings.cpu_overcommit


def _node_id(folder: Path) -> str:
    file = folder / "node_id"
    if not file.exists():
        partial = folder / "node_id.partial"
        partial.write_text(secrets.token_hex(8))
        partial.rename(file)
    return file.read_text()


def _listen(path: Path, backlog: int = 128) -> socket.socket:
    """Listen for the server alone: whoever may enter the sockets' folder as its group."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    listener = listen(path, backlog)
    os.chown(path, 0, path.parent.stat().st_gid)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP)
    return listener
