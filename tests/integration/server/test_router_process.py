"""The router beside its server: each killed, stopped and started again under the other."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator
from math import inf
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cakework.router.activity import Activity
from cakework.settings import Settings

from .fake_node import FakeNode
from .processes import RouterProcess, routing, serving
from .rig import DEADLINE_S, Json, Rig, eventually, running, settings_for
from .router_rig import DialNode, dial_socket, get, linked, tell

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(folder: Path) -> Settings:
    return settings_for(folder, None)


@pytest.fixture
async def dials(settings: Settings) -> AsyncGenerator[DialNode]:
    """The node's dial socket."""
    node = DialNode()
    async with dial_socket(node, settings.dial_socket):
        yield node


@pytest.fixture
async def program(anyio_backend: str) -> AsyncGenerator[int]:
    """The port of what every VM of a test runs."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await tell(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.transport.abort()


async def vm_with_port(rig: Rig, dials: DialNode, program: int, **fields: Any) -> Json:
    """Return a VM that is started and reached through the router."""
    vm = await rig.vm(port=80, **fields)
    dials.ports[vm["id"], 80] = program
    return vm


async def answers(router: RouterProcess, host: str, status: int) -> None:
    """Wait until a host is answered with ``status``."""

    async def look() -> bool:
        return await router.status(host) == status

    await eventually(look, f"{host} is answered with {status}")


async def test_what_is_answered_can_be_reached(
    settings: Settings, node: FakeNode, dials: DialNode, program: int
) -> None:
    """From the moment in which the API says so, and no longer: a router never lags behind."""
    async with running(settings, node) as rig, routing(settings) as router:
        await answers(router, "nobody.invalid", 404)
        image = await rig.image()
        async with httpx2.AsyncClient(timeout=DEADLINE_S, verify=False) as client:
            for _ in range(10):
                vm = await vm_with_port(rig, dials, program, image_id=image)
                assert await router.status(vm["hostname"], client) == 200
                await rig.ok("POST", f"/v1/vm/{vm['id']}/stop")
                assert await router.status(vm["hostname"], client) == 404


async def test_visitors_of_running_vms_need_no_server(
    settings: Settings, node: FakeNode, dials: DialNode, program: int
) -> None:
    """One that hangs, or is gone, keeps nobody from a VM that runs. Of others it is said that
    nobody knows now. Another server is found, and what it knows is believed."""
    async with routing(settings) as router:
        assert await router.status("nobody.invalid") == 503
        async with serving(settings, node) as server:
            kept = await vm_with_port(server.rig, dials, program)
            gone = await vm_with_port(server.rig, dials, program)
            asleep = await server.rig.ok(
                *("POST", "/v1/vm/cache"),
                json={"imageId": kept["imageId"], "port": 80, "autoStart": True},
            )
            await answers(router, kept["hostname"], 200)
            server.process.send_signal(signal.SIGSTOP)
            assert await router.status(kept["hostname"]) == 200
            server.process.kill()
            await server.process.wait()
            await answers(router, "nobody.invalid", 503)
            assert await router.status(asleep["hostname"]) == 503
            assert await router.status(kept["hostname"]) == 200
        async with serving(settings, node) as server:
            dials.ports[asleep["id"], 80] = program
            await answers(router, asleep["hostname"], 200)
            await server.rig.ok("POST", f"/v1/vm/{gone['id']}/stop")
            assert await router.status(gone["hostname"]) == 404
            assert await router.status(kept["hostname"]) == 200


async def test_a_router_that_dies_leaves_the_server_alone(
    settings: Settings, node: FakeNode, dials: DialNode, program: int
) -> None:
    """The next one knows every VM, and what happened between."""
    async with running(settings, node) as rig:
        first = await vm_with_port(rig, dials, program)
        async with routing(settings) as router:
            await answers(router, first["hostname"], 200)
            router.process.kill()
            await router.process.wait()
            second = await vm_with_port(rig, dials, program)
            await rig.ok("POST", f"/v1/vm/{first['id']}/stop")
        async with routing(settings) as router:
            await answers(router, second["hostname"], 200)
            assert await router.status(first["hostname"]) == 404


async def test_a_request_wakes_a_vm_of_another_process(
    settings: Settings, node: FakeNode, dials: DialNode, program: int
) -> None:
    """Once for all who wait; why it cannot be is said."""
    async with running(settings, node) as rig, routing(settings) as router:
        body = {"imageId": await rig.image(), "port": 80, "autoStart": True}
        vm = await rig.ok("POST", "/v1/vm/cache", json=body)
        dials.ports[vm["id"], 80] = program
        await answers(router, "nobody.invalid", 404)
        statuses = await asyncio.gather(*(router.status(vm["hostname"]) for _ in range(5)))
        assert statuses == [200] * 5
        assert len(node.vm_orders) == 1


async def test_a_router_that_is_to_end_ends_its_requests_first(
    settings: Settings, node: FakeNode, dials: DialNode
) -> None:
    """The request at work is answered; a connection without one is closed, no other taken; then the
    process ends with 0."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await may_answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole")
        writer.close()

    async with running(settings, node) as rig, routing(settings) as router:
        server = await asyncio.start_server(slow, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            vm = await vm_with_port(rig, dials, port)
            await answers(router, "nobody.invalid", 404)
            silent, silent_writer = await asyncio.open_connection("127.0.0.1", router.port)
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(get(host=vm["hostname"]))
            async with asyncio.timeout(DEADLINE_S):
                await asked.wait()
                router.process.send_signal(signal.SIGTERM)
                assert await silent.read() == b""
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", router.port)
                may_answer.set()
                assert (await reader.read()).endswith(b"whole")
                for each in (writer, silent_writer):
                    each.close()
                assert await router.process.wait() == 0
        assert '"event": "router.ended"' in router.log.read_text()


async def test_gates_are_shut_at_every_router(settings: Settings, node: FakeNode) -> None:
    """While a VM is put to rest; one that is busy at one router is shut at none. Gates of a server
    that is gone open once another has told everything."""
    activities = [Activity(), Activity()]

    async def shut() -> list[bool]:
        found: list[bool] = []
        for activity in activities:
            loop = asyncio.get_running_loop()
            try:
                async with activity.visit("vm", loop.time()):
                    found.append(False)
            except TimeoutError:
                found.append(True)
        return found

    async def opened() -> bool:
        return await shut() == [False, False]

    async with contextlib.AsyncExitStack() as routers:
        async with running(settings, node) as rig:
            for activity in activities:
                await routers.enter_async_context(linked(settings, activity))
            gates = rig.server.gates
            async with gates.shut("vm"), gates.shut("vm"):
                assert await shut() == [True, True]
            async with activities[1].visit("vm", inf), gates.shut_if_idle("vm", 0) as idle_s:
                assert idle_s == 0
                await eventually(opened, "the gate of the router without requests is open again")
            async with gates.shut_if_idle("vm", 0) as idle_s:
                assert idle_s is None
                assert await shut() == [True, True]
            await routers.enter_async_context(gates.shut("vm"))
            assert await shut() == [True, True]
        assert await shut() == [True, True]
        async with running(settings, node):
            await eventually(opened, "the gates are open")
