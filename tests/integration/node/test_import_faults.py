"""Registries that fail: they hang, stall, break off, or give what is not what they said."""

import asyncio
import base64
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cakework.domain.errors import CakeworkError, NoRoom, RegistryUnreachable
from cakework.domain.facts import ImportFailed, ImportSucceeded
from cakework.node.imports import imports as imports_module
from cakework.node.imports.run import ImportRun
from tests.integration.node.build_bench import Bench
from tests.integration.node.import_bench import ImportBench
from tests.integration.node.registries import PASSWORD, Entry, Layout, serving, tar_of
from tests.integration.node.registry_front import Front, send, standing_before

LAYER_BYTES = 3 << 20
CALLER_S = 60
"""How long clients wait for an answer."""


@pytest.fixture(scope="module")
def imports(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImportBench]:
    with serving(tmp_path_factory.mktemp("registry")) as registry:
        yield ImportBench(tmp_path_factory.mktemp("imports"), bench.netns, registry)


@pytest.fixture
def front(imports: ImportBench) -> Iterator[Front]:
    with standing_before(imports.registry) as front:
        yield front


@pytest.fixture(scope="module")
def app(imports: ImportBench, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with a layer that does not fit into any buffer on the way."""
    layout = Layout(tmp_path_factory.mktemp("app") / "layout")
    layer = tar_of([Entry("noise", os.urandom(LAYER_BYTES))])
    return imports.registry.push(layout.index(layout.image([(layer, "gzip")])), "team/app:1")


def is_layer(front: Front, handler: BaseHTTPRequestHandler) -> bool:
    return "/blobs/" in handler.path and len(front.fetch(handler).body) >= LAYER_BYTES


def stalling(front: Front, handler: BaseHTTPRequestHandler) -> bool:
    """Send half of a layer, and then nothing for as long as the test takes."""
    if not is_layer(front, handler):
        return False
    send(handler, front.fetch(handler), most=LAYER_BYTES // 2)
    front.over.wait()
    return True


def test_a_registry_that_hangs_is_answered_for_in_time(
    imports: ImportBench, front: Front, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Well before a caller goes away, whether it takes the connection or not even that."""
    assert imports_module.CHECK_S < CALLER_S - 10
    monkeypatch.setattr(imports_module, "CHECK_S", 2)

    def hanging(front: Front, _: BaseHTTPRequestHandler) -> bool:
        return front.over.wait()

    front.rule = hanging
    with socket.create_server(("127.0.0.1", 0)) as mute:
        for address in (front.address, f"127.0.0.1:{mute.getsockname()[1]}"):
            error = asyncio.run(refused(imports, address))
            assert isinstance(error, RegistryUnreachable)
            assert error.detail.endswith(f"{address} does not answer in time.")


async def refused(imports: ImportBench, address: str) -> CakeworkError:
    async with imports.open(fetch_allow=[address]) as opened:
        with pytest.raises(CakeworkError) as caught:
            await opened.take(imports.order(f"{address}/team/app:1"))
        return caught.value


def test_registries_that_hang_do_not_hold_up_others(
    imports: ImportBench, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is a turn left, an import beside them is taken at once. When there is none it
    is told so early, and to come again; what is left of its time is the registry's."""
    assert imports_module.TURN_S < imports_module.CHECK_S / 2
    monkeypatch.setattr(imports_module, "CHECKS_AT_ONCE", 3)
    monkeypatch.setattr(imports_module, "TURN_S", 0.2)
    monkeypatch.setattr(imports_module, "CHECK_S", 250)

    async def run(address: str) -> None:
        reach = [address, imports.registry.address]
        async with imports.open(fetch_allow=reach) as opened, asyncio.TaskGroup() as tasks:

            def hang() -> asyncio.Task[None]:
                order = imports.order(f"{address}/team/app:1")
                return tasks.create_task(opened.take(order))

            hanging = [hang(), hang()]
            order = imports.order(app)
            await opened.take(order)
            assert not any(task.done() for task in hanging)
            await imports.ledger.ended(order.image_id)
            hanging.append(hang())
            await asyncio.sleep(0)
            with pytest.raises(NoRoom) as refused:
                await opened.take(imports.order(app))
            assert refused.value.retry_after_s
            hanging.pop().cancel()
            monkeypatch.setattr(imports_module, "TURN_S", 200)
            await opened.take(imports.order(app))
            for task in hanging:
                task.cancel()

    with socket.create_server(("127.0.0.1", 0)) as mute:
        asyncio.run(run(f"127.0.0.1:{mute.getsockname()[1]}"))


def test_an_account_whose_registries_hang_holds_up_no_other(
    imports: ImportBench, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its own; another's registry is asked at once."""
    monkeypatch.setattr(imports_module, "CHECKS_AT_ONCE", 2)
    monkeypatch.setattr(imports_module, "CHECK_S", 250)
    monkeypatch.setattr(imports_module, "TURN_S", 60)

    async def run(address: str) -> None:
        reach = [address, imports.registry.address]
        hanging = imports.order(f"{address}/team/app:1", account_id="mallory")
        async with imports.open(fetch_allow=reach) as opened, asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(opened.take(hanging.model_copy(update={"image_id": name})))
                for name in "abcdef"
            ]
            await asyncio.sleep(0)
            await opened.take(imports.order(app, account_id="alice"))
            for task in asked:
                assert not task.done()
                task.cancel()

    with socket.create_server(("127.0.0.1", 0)) as mute:
        asyncio.run(run(f"127.0.0.1:{mute.getsockname()[1]}"))


def test_an_account_whose_images_do_not_come_holds_up_no_other(
    imports: ImportBench, front: Front, app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of its imports stall in the midst of a layer, another's is fetched."""
    monkeypatch.setattr("cakework.node.imports.arrival.STALL_S", 1000)
    imports = replace(imports, data_dir=tmp_path)
    front.rule = stalling

    async def run() -> None:
        reach = [front.address, imports.registry.address]
        async with imports.open(fetch_allow=reach, build_concurrency=2) as opened:
            for _ in range(3):
                await opened.take(imports.order(front.named(app), account_id="mallory"))
            wanted = imports.order(app, account_id="alice")
            await opened.take(wanted)
            assert isinstance(await imports.ledger.ended(wanted.image_id), ImportSucceeded)

    asyncio.run(run())


def test_the_wait_for_a_turn_is_of_the_same_time(
    imports: ImportBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long an order waited, it is answered by the time at which any is."""
    monkeypatch.setattr(imports_module, "CHECKS_AT_ONCE", 1)
    monkeypatch.setattr(imports_module, "CHECK_S", 3)
    answered_by: list[float] = []
    really_check = ImportRun.check

    async def check(run: ImportRun, by: float) -> None:
        answered_by.append(by)
        await really_check(run, by)

    monkeypatch.setattr(ImportRun, "check", check)

    async def run(reference: str, address: str) -> None:
        async with imports.open(fetch_allow=[address]) as opened:
            began = time.monotonic()
            orders = [imports.order(reference) for _ in range(2)]
            ends = await asyncio.gather(*map(opened.take, orders), return_exceptions=True)
            assert [type(end) for end in ends] == [RegistryUnreachable] * 2
            assert time.monotonic() - began > 2.5
            first, second = answered_by
            assert second - first < 1.5

    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        asyncio.run(run(f"{address}/team/app:1", address))


def test_a_registry_that_stalls_is_given_up(
    imports: ImportBench, front: Front, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer of which nothing more comes does not keep others from being imported for long."""
    monkeypatch.setattr("cakework.node.imports.arrival.STALL_S", 2)
    front.rule = stalling
    end = imports.end(imports.order(front.named(app)), fetch_allow=[front.address])
    assert isinstance(end, ImportFailed)
    assert end.error == "the registry sent nothing for 2 s, in the midst of the image"


def test_a_registry_that_breaks_off_is_asked_again(
    imports: ImportBench, front: Front, app: str
) -> None:
    """Once, and the image is there; every time, and the error says so."""
    broken: list[str] = []
    most = 1

    def breaking(front: Front, handler: BaseHTTPRequestHandler) -> bool:
        if len(broken) >= most or not is_layer(front, handler):
            return False
        broken.append(handler.path)
        send(handler, front.fetch(handler), most=LAYER_BYTES // 2)
        handler.close_connection = True
        return True

    front.rule = breaking
    imports.image(imports.order(front.named(app)), fetch_allow=[front.address])
    assert len(broken) == 1
    broken.clear()
    most = 1000
    end = imports.end(imports.order(front.named(app)), fetch_allow=[front.address])
    assert isinstance(end, ImportFailed)
    assert end.error.endswith("broke off the connection, again and again")


def test_a_layer_that_is_not_what_its_digest_says(
    imports: ImportBench, front: Front, app: str
) -> None:
    """One byte is enough: nothing comes of the import, and the error says why."""

    def forging(front: Front, handler: BaseHTTPRequestHandler) -> bool:
        if not is_layer(front, handler):
            return False
        reply = front.fetch(handler)
        body = bytearray(reply.body)
        body[LAYER_BYTES // 2] ^= 1
        reply.headers.pop("Docker-Content-Digest", None)
        send(handler, type(reply)(reply.status, reply.headers, bytes(body)))
        return True

    front.rule = forging
    order = imports.order(front.named(app))
    end = imports.end(order, fetch_allow=[front.address])
    assert isinstance(end, ImportFailed)
    assert end.error.endswith("the registry gives what is not of the digest that it names")
    assert imports.images().get(order.image_id) is None


def test_a_password_is_nowhere_while_it_is_used(
    imports: ImportBench, front: Front, app: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the midst of a layer it is in no file, no command line, no environment and no log."""
    imports = replace(imports, data_dir=tmp_path)
    front.rule = stalling
    marks = [PASSWORD.encode(), base64.b64encode(f"AWS:{PASSWORD}".encode())]

    async def look() -> tuple[bytes, list[bytes]]:
        async with imports.open(fetch_allow=[front.address]) as opened:
            await opened.take(imports.order(front.named(app)))
            deadline = time.monotonic() + 60
            while not (seen := of_processes("cmdline")).count(b"skopeo\0"):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            while not any("/blobs/" in path for path, _ in front.asked[3:]):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            seen = of_processes("cmdline") + of_processes("environ")
            return seen, list(files(imports.data_dir))

    seen, kept = asyncio.run(look())
    assert b"\0oci:/b/pull-" in seen
    assert len(kept) > 5
    logged = "".join(capfd.readouterr()).encode()
    for mark in marks:
        assert mark not in seen
        assert mark not in logged
        assert not [content for content in kept if mark in content]


def of_processes(name: str) -> bytes:
    """Return a file of every process on this host, one after the other."""
    found: list[bytes] = []
    for process in Path("/proc").glob("[0-9]*"):
        # A process may end while we look, and the test's own runner is none of the product's.
        with contextlib.suppress(OSError):
            found.append((process / name).read_bytes())
    return b"".join(found)


def files(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                yield path.read_bytes()
