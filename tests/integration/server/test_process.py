"""The server as a process of its own: killed, ended, started again."""

import asyncio
import json
import random
import resource
import signal
import socket
import sys
from pathlib import Path

import pytest

from cakework.domain.orders import NodeProblem
from cakework.server.services.waitlist import CALLER_MOST
from tests.integration.open_files import open_files

from .fake_node import FakeNode
from .processes import serving
from .rig import DEADLINE_S, DOCKERFILE, KEY, Rig, events, settings_for, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]])
async def test_no_header_of_a_callers_own_passes_the_waitlists_bound(
    folder: Path, node: FakeNode, trusted: list[str]
) -> None:
    """One caller who says with each form that he is another, through any header; a proxy that is
    trusted is believed, and not what its client wrote before."""
    settings = settings_for(folder, None).model_copy(update={"trusted_proxies": trusted})
    by_proxy = ", 198.51.100.7" if trusted == ["127.0.0.1"] else ""
    async with serving(settings, node) as server:

        async def join(number: int, by_proxy: str) -> int:
            claimed = f"203.0.113.{number}"
            headers = {
                "X-Forwarded-For": claimed + by_proxy,
                "Forwarded": f"for={claimed}",
                "X-Real-IP": claimed,
            }
            form = {"email": f"{number}@example.com"}
            return (
                await server.rig.client.post("/waitlist", data=form, headers=headers)
            ).status_code

        answers = [await join(number, by_proxy) for number in range(CALLER_MOST + 1)]
        assert answers == [303] * CALLER_MOST + [429]
        if by_proxy:
            assert await join(99, ", 198.51.100.8") == 303


async def test_killed_between_store_and_acknowledgement_every_line_is_there_once(
    folder: Path, node: FakeNode, database_url: str | None
) -> None:
    """Lines and changes that were stored but not acknowledged come again and change nothing."""
    settings = settings_for(folder, database_url)
    async with serving(settings, node) as server:
        vm_id = (await server.rig.vm())["id"]
        node.may_ack.clear()
        await node.push(*(node.line(vm_id, f"{number}") for number in range(100)))
        await node.stopped(vm_id, "The program ended.", 7)
        await until(lambda: node.stalled_acks, "an acknowledgement has come")
        await server.rig.messages(f"/v1/vm/{vm_id}/logs", 1)
        server.process.kill()
        await server.process.wait()
    node.may_ack.set()
    assert node.facts, "nothing was acknowledged"
    async with serving(settings, node) as server:
        path = f"/v1/vm/{vm_id}"
        await server.rig.eventually(path, state="stopped", exitCode=7)
        messages = await server.rig.messages(f"{path}/logs", 100)
        assert messages == [f"{number}" for number in range(100)]
        await until(lambda: not node.facts, "every fact is acknowledged")


async def test_killed_at_any_time_every_line_is_there_once(folder: Path, node: FakeNode) -> None:
    """While a VM prints, the server dies three times, at moments nobody chose."""
    settings = settings_for(folder, None)
    chance = random.Random(7)
    async with serving(settings, node) as server:
        vm_id = (await server.rig.vm())["id"]

    killed = asyncio.Event()

    async def print_lines() -> int:
        count = 0
        while not killed.is_set():
            await node.push(node.line(vm_id, f"{count}"))
            count += 1
            await asyncio.sleep(0.002)
        return count

    printing = asyncio.create_task(print_lines())
    for _ in range(3):
        async with serving(settings, node) as server:
            acks = len(node.acks)
            enough = acks + chance.randint(1, 40)
            await until(lambda enough=enough: len(node.acks) >= enough, "it has stored some")
            server.process.kill()
            await server.process.wait()
    killed.set()
    async with serving(settings, node) as server:
        count = await printing
        await until(lambda: not node.facts, "every fact is acknowledged")
        found: list[str] = []
        path = f"/v1/vm/{vm_id}/logs"
        params: dict[str, str] = {"batch": "1000"}
        while True:
            page = await server.rig.ok("GET", path, params=params)
            found += [line["message"] for line in page["lines"]]
            if "pagination" not in page:
                break
            params |= {"pagination": page["pagination"]}
        assert found == [f"{number}" for number in range(count)]


async def test_killed_while_a_vm_starts_it_is_started_after(
    folder: Path, node: FakeNode, database_url: str | None
) -> None:
    """The order is given again by the next server, and there is one VM, started."""
    settings = settings_for(folder, database_url)
    async with serving(settings, node) as server:
        image_id = await server.rig.image()
        node.may_answer.clear()
        body = {"imageId": image_id, "envVars": {"A": "1"}}
        start = asyncio.create_task(server.rig.client.post("/v1/vm/start", json=body))
        await until(lambda: node.vm_orders, "the order has arrived")
        server.process.kill()
        await server.process.wait()
        await asyncio.wait([start])
        assert start.exception() is not None
    node.may_answer.set()
    async with serving(settings, node) as server:
        await server.rig.eventually(f"/v1/vm/{node.vm_orders[0].vm_id}", state="started")
        assert len({order.model_dump_json() for order in node.vm_orders}) == 1


async def test_killed_while_a_vm_stops_it_is_destroyed_after(folder: Path, node: FakeNode) -> None:
    """A stop that was asked for is carried out by the next server."""
    settings = settings_for(folder, None)
    async with serving(settings, node) as server:
        vm_id = (await server.rig.vm())["id"]
        node.may_stop.clear()
        stop = asyncio.create_task(server.rig.client.post(f"/v1/vm/{vm_id}/stop"))
        await until(lambda: node.stops, "the order has arrived")
        server.process.kill()
        await server.process.wait()
        await asyncio.wait([stop])
        assert stop.exception() is not None
    node.may_stop.set()
    async with serving(settings, node) as server:
        await server.rig.eventually(f"/v1/vm/{vm_id}", state="destroyed")
        assert node.vms == {}


async def test_sigterm_ends_it_in_order(folder: Path, node: FakeNode) -> None:
    """A request at work is finished, who follows a log is sent away without an ``end``, and the
    process ends with 0."""
    settings = settings_for(folder, None)
    async with serving(settings, node) as server:
        vm_id = (await server.rig.vm())["id"]
        image_id = await server.rig.image()
        async with server.rig.client.stream(
            "GET", f"/v1/vm/{vm_id}/logs", params={"follow": "true"}
        ) as stream:
            following = events(stream)
            assert (await anext(following)).name == "comment"
            node.may_answer.clear()
            body = {"imageId": image_id}
            start = asyncio.create_task(server.rig.client.post("/v1/vm/start", json=body))
            await until(lambda: len(node.vm_orders) == 2, "the order has arrived")
            server.process.send_signal(signal.SIGTERM)
            assert [event.name async for event in following] == []
            node.may_answer.set()
            assert (await start).json()["state"] == "started"
        assert await asyncio.wait_for(server.process.wait(), DEADLINE_S) == 0
        assert '"event": "server.ended"' in server.log.read_text()


async def test_nothing_secret_is_logged(folder: Path, node: FakeNode) -> None:
    """At the most talkative level neither keys nor environment nor sources nor credentials are in
    the log, not even when a request fails inside."""
    settings = settings_for(folder, None)
    async with serving(settings, node) as server:
        await server.rig.build(dockerfile="FROM x\nENV A=hush-dockerfile\n")
        files = [{"dir": ".", "name": "a", "content": "hush-content"}]
        await server.rig.build(files=files)
        await ask_with_credentials(server.rig)
        vm = await server.rig.vm(envVars={"TOKEN": "hush-value"})
        bad = {"imageId": vm["imageId"], "envVars": {"TOKEN": ["hush-list"]}}
        await server.rig.refused(400, "POST", "/v1/vm/start", json=bad)
        headers = {"X-Api-Key": "cw_hush-wrong"}
        await server.rig.refused(401, "GET", "/v1/vms", headers=headers)
        node.garbled = True
        body = {"imageId": vm["imageId"], "envVars": {"TOKEN": "hush-failed"}}
        headers = {"Idempotency-Key": "hush-idempotency"}
        await server.rig.refused(500, "POST", "/v1/vm/start", json=body, headers=headers)
        log = server.log.read_text()
        assert "request.failed" in log
        assert "hush" not in log
        assert KEY not in log


async def ask_with_credentials(rig: Rig) -> None:
    """Import and build from GitHub with what is secret: taken, refused, failing inside."""
    image = {"imageUri": "registry.example/app:1", "username": "me", "password": "hush-password"}
    source = {"repository": "org/repo", "branch": "main", "token": "hush-token"}
    build = {"dockerfile": DOCKERFILE, **source}
    for path, body in (("/v1/image/import", image), ("/v1/image/build/github", build)):
        await rig.ok("POST", path, json=body, headers={"Idempotency-Key": f"hush{path}"})
        await rig.refused(400, "POST", path, json={**body, "password": ["hush"], "token": ["hush"]})
    for code, status in (("registry_denied", 400), ("unavailable", 503), ("internal_error", 500)):
        rig.node.refusal = (status, NodeProblem(code=code, detail="as the test says"))
        await rig.refused(status, "POST", "/v1/image/import", json=image)
    rig.node.refusal = None


async def test_an_address_that_is_taken_ends_it_with_an_error(folder: Path) -> None:
    """A server that cannot listen does not linger, and does not say that all went well."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environment = {
            "CAKEWORK_DATA_DIR": str(folder),
            "CAKEWORK_PORT": str(listener.getsockname()[1]),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cakework.server"),
            env=environment,
            stderr=asyncio.subprocess.PIPE,
        )
        _, log = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode != 0
    assert b"address already in use" in log


async def test_sigterm_breaks_off_a_start_that_takes_long(folder: Path) -> None:
    """A server that waits for its store, which does not answer, ends all the same, with 0."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            "CAKEWORK_DATA_DIR": str(folder),
            "CAKEWORK_PORT": "0",
            "CAKEWORK_DATABASE_URL": f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cakework.server"), env=environment
        )
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0


async def test_as_many_files_as_allowed_may_be_open(folder: Path, node: FakeNode) -> None:
    """The usual soft limit of 1,024 would end where the connections do not."""
    with open_files(512) as most:
        async with serving(settings_for(folder, None), node) as server:
            limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    assert limits == (most, most)


async def test_garbage_is_looked_for_among_what_came_alone(folder: Path, node: FakeNode) -> None:
    """Not in all that the server is made of, which keeps everybody waiting."""
    async with serving(settings_for(folder, None), node) as server:
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (spared,) = [line["spared"] for line in lines if line["event"] == "server.starting"]
    assert spared > 50_000
