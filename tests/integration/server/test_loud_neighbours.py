"""A node's journal and its server, while VMs of one account print as fast as they are let."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import cast

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cakework.domain.facts import AnyFact, AnyLine, VmLine, VmStarted, VmStopped
from cakework.node.api.journal import JournalCalls
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.protocol import GuestFrame, HostFrame, Line
from cakework.node.journal import Journal
from cakework.node.lines import TURN_BYTES, WINDOW_BYTES
from cakework.node.vms.pump import Pump
from cakework.server.app import Server, build_server
from cakework.server.logs.lines import LineQuery, vm_source
from cakework.server.logs.search import Bounds

from .rig import lay_tables, settings_for, until
from .served import Served

pytestmark = pytest.mark.anyio

LOUD = [f"loud{number}" for number in range(4)]
TEXT = b"x" * 4000
BACKLOG_BYTES = 30_000_000
"""Of which four sources that print without end have 1.5 MB each."""


class Endless:
    """The channel of a guest whose program prints without end, until it is told to be silent."""

    def __init__(self) -> None:
        self.silent = asyncio.Event()
        self._number = 0

    async def receive_all(self) -> list[GuestFrame]:
        if self.silent.is_set():
            return []
        await asyncio.sleep(0)
        self._number += 16
        numbers = range(self._number - 15, self._number + 1)
        return [Line(number, 0, "stdout", TEXT) for number in numbers]

    async def send(self, frame: HostFrame) -> None:
        """Acknowledgements are nothing to it."""


class Taken:
    """What the server has stored, in the order in which it did."""

    def __init__(self, server: Server) -> None:
        self.order: list[tuple[str, int]] = []
        facts = vars(server.lines)["_facts"]
        keep, apply = facts.keep, facts.apply

        async def keeping(lines: Sequence[AnyLine]) -> None:
            await keep(lines)
            vm_lines = [line for line in lines if isinstance(line, VmLine)]
            self.order += [(line.vm_id, len(line.text)) for line in vm_lines]

        async def applying(node_id: str, changes: Sequence[AnyFact], cursor: int) -> None:
            await apply(node_id, changes, cursor)
            self.order += [(change.kind, 0) for change in changes]

        facts.keep, facts.apply = keeping, applying

    async def before(self, what: str, since: int) -> int:
        """Wait for a VM's line, or a kind of change; return the bytes of lines stored before it."""
        await until(lambda: what in dict(self.order[since:]), f"{what} is stored")
        names = [name for name, _ in self.order[since:]]
        return sum(size for _, size in self.order[since : since + names.index(what)])


@contextlib.asynccontextmanager
async def node(socket: Path, journal: Journal) -> AsyncGenerator[None]:
    """Serve a journal as a node does."""
    closing = asyncio.Event()

    async def health(_: Request) -> JSONResponse:
        fields = {"node_id": "node", "version": "0", "accelerator": "tcg", "ready": True}
        return JSONResponse({**fields, "detail": "", "vms": 0, "builds": 0})

    calls = JournalCalls(journal, closing.is_set)
    app = Starlette(routes=[Route("/v1/health", health), *calls.routes()])
    api = Served(uvicorn.Config(app, uds=str(socket), log_config=None, lifespan="off"))
    task = asyncio.create_task(api.serve())
    await api.is_up.wait()
    try:
        yield
    finally:
        closing.set()
        journal.wake()
        api.end()
        await task


@contextlib.asynccontextmanager
async def reading(server: Server) -> AsyncGenerator[None]:
    """Have the server read its node; at the end it is cut off, whatever it is about."""
    tasks = [asyncio.create_task(each.run()) for each in (server.journal, server.lines)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def stores(server: Server) -> AsyncGenerator[None]:
    """Open the server's stores."""
    await lay_tables(server.settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.node.close)
        stack.push_async_callback(server.database.close)
        await server.database.open()
        stack.push_async_callback(server.log_store.close)
        await server.log_store.open()
        yield


async def test_loud_vms_delay_nobody_else(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's first line, its start and its end are stored before what lay there of the loud;
    and no line of anybody's is missing or twice, though the server is cut off in between."""
    monkeypatch.setattr("cakework.node.lines.BACKLOG_BYTES", BACKLOG_BYTES)
    monkeypatch.setattr("cakework.node.vms.pump.BURST_S", 1e9)
    server = build_server(settings_for(folder, None))
    journal = Journal.open(tmp_path / "journal")
    guests = {vm_id: Endless() for vm_id in LOUD}
    sources = {vm_id: journal.source(vm_id, "attacker") for vm_id in LOUD}

    async def print_on(vm_id: str) -> None:
        pump = Pump(vm_id, cast("GuestChannel", guests[vm_id]), sources[vm_id], 0)
        while await pump.receive() is not None:
            pass

    async with stores(server), node(server.settings.node_socket, journal):
        printing = [asyncio.create_task(print_on(vm_id)) for vm_id in LOUD]
        await until(lambda: all(each.full for each in sources.values()), "all of them wait")
        taken = Taken(server)
        async with reading(server):
            await until(lambda: set(LOUD) <= set(dict(taken.order)), "some of each is stored")
            since, lay_there = len(taken.order), journal.lines.unconfirmed
            journal.append(VmStarted(at_ms=1, vm_id="quiet"))
            line = VmLine(at_ms=1, vm_id="quiet", seq=1, stream="stdout", text="hello")
            journal.source("quiet", "other").extend([line])
            journal.append(VmStopped(at_ms=1, vm_id="quiet", reason="over"))
            waited = await taken.before("quiet", since)
            assert waited <= WINDOW_BYTES + 2 * (TURN_BYTES + 2 * len(TEXT)) < lay_there / 4
            assert await taken.before("vm.started", since) < lay_there
            assert await taken.before("vm.stopped", since) < lay_there
        since = len(taken.order)
        async with reading(server):
            await until(lambda: len(taken.order) > since, "it goes on")
            for guest in guests.values():
                guest.silent.set()
            await asyncio.wait(printing)
            await until(lambda: not journal.lines.unconfirmed, "all is stored")
        for vm_id, source in sources.items():
            assert await server.log_store.last_seq(vm_source(vm_id)) == source.last_seq
            query, whole = LineQuery(vm_source(vm_id), batch=10_000), Bounds(chars=1 << 40)
            page = await server.log_store.page(query, "default", whole)
            assert [each.seq for each in page.lines] == list(range(1, source.last_seq + 1))
    journal.close()
