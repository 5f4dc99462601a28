"""Functions' own URLs: requests through a real router into adapters, in the place of VMs."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from websockets.asyncio.client import connect

from cakework.dialer import NodeDialer
from cakework.domain.vms import EndCause
from cakework.router.activity import Activity
from cakework.router.functions import Functions as Lent
from cakework.router.link import ServerLink
from cakework.router.patience import Sleepers
from cakework.router.router import Router
from cakework.router.routes import Limits
from cakework.server.store.function_models import InstanceRow, InvocationRow
from cakework.settings import Settings

from .function_node import FunctionNode, Loaded, source
from .processes import routing, serving
from .rig import DEADLINE_S, KEY, Json, eventually, settings_for, until
from .router_rig import Client, get
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio

HTTP = """\
from cakework_functions import Response
calls = 0
def http(request):
    global calls
    calls += 1
    told = {name: value for name, value in request.headers.items()}
    body = {"calls": calls, "path": request.path, "headers": told}
    return Response(body, headers={"Cakework-Invocation-Id": "inv_forged"})
"""


@dataclass
class Urls:
    """A router beside the server of ``functions``."""

    functions: Functions
    router: Router
    link: ServerLink
    lent: Lent
    stack: contextlib.AsyncExitStack

    async def made(self, code: str = HTTP, **fields: Any) -> tuple[str, str]:
        """Make a function that is live; return its id and hostname."""
        function_id = await self.functions.made(code, **fields)
        return function_id, await self.host(function_id)

    async def host(self, function_id: str) -> str:
        function = await self.functions.rig.ok("GET", f"/v1/functions/{function_id}")
        return function["url"].split("//")[1].split(":")[0].rstrip("/")

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.router.port)
        self.stack.callback(writer.transport.abort)
        return Client(reader, writer)

    async def get(self, host: str, path: str = "/", *lines: str) -> tuple[int, Json, Any]:
        """Ask on a connection of its own; return status, headers, and the body, parsed if JSON."""
        client = await self.client()
        await client.send(get(path, host, *lines))
        status, headers, body = await client.answer()
        client.writer.transport.abort()
        is_json = "json" in headers.get("content-type", "")
        return status, headers, json.loads(body) if is_json else body

    async def record(self, invocation_id: str) -> Json:
        """Return an invocation that has ended, as soon as that is on record."""
        path, known = f"/v1/invocations/{invocation_id}", self.functions.rig.client

        async def look() -> Json | None:
            response = await known.get(path)
            found: Json = response.json() if response.status_code == 200 else {}
            return found if found.get("state") not in (None, "running") else None

        return await eventually(look, f"{invocation_id} has ended")

    async def only_record(self, function_id: str) -> Json:
        """Return the one invocation of a function."""
        path = "/v1/invocations"

        async def look() -> list[Json]:
            query = {"functionId": function_id}
            return (await self.functions.rig.ok("GET", path, params=query))["invocations"]

        (found,) = await eventually(look, "there is an invocation")
        return await self.record(found["id"])

    async def gone(self) -> None:
        """Return when there is no instance any more."""

        async def look() -> bool:
            return not await self.functions.instances()

        await eventually(look, "the instances are gone")


@contextlib.asynccontextmanager
async def routed(
    functions: Functions, settings: Settings, limits: Limits | None = None
) -> AsyncGenerator[Urls]:
    """Have a router in this process."""
    limits = limits or Limits(place_wait_s=DEADLINE_S)
    activity = Activity()
    link = ServerLink(settings.routes_socket, activity)
    lent = link.functions = Lent(link, wait_s=limits.place_wait_s)
    router = Router(
        routes=link,
        dialer=NodeDialer(settings.dial_socket),
        sleepers=Sleepers(activity, link),
        limits=limits,
        functions=lent,
    )
    await router.start("127.0.0.1", 0)
    tasks = [asyncio.create_task(link.run()), asyncio.create_task(lent.run())]
    async with contextlib.AsyncExitStack() as stack:
        try:
            await until(lambda: link.is_whole, "the router knows its server")
            yield Urls(functions, router, link, lent, stack)
        finally:
            await stack.aclose()
            await router.close()
            await lent.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@pytest.fixture
def settings(folder: Path) -> Settings:
    return settings_for(folder, None)


@pytest.fixture
async def hosting(
    settings: Settings, tmp_path: Path, anyio_backend: str
) -> AsyncGenerator[FunctionNode]:
    async with FunctionNode(settings, tmp_path).hosting() as node:
        yield node


@pytest.fixture
async def urls(folder: Path, settings: Settings, hosting: FunctionNode) -> AsyncGenerator[Urls]:
    async with served(folder, hosting, None) as functions, routed(functions, settings) as made:
        yield made


@pytest.fixture
async def on_either(
    folder: Path, settings: Settings, hosting: FunctionNode, database_url: str | None
) -> AsyncGenerator[Urls]:
    """The same on each store, for what records decide."""
    async with (
        served(folder, hosting, database_url) as functions,
        routed(functions, settings) as made,
    ):
        yield made


async def test_a_request_becomes_an_answer(on_either: Urls) -> None:
    """It is on record, and the next one goes to the same instance. What a visitor says in the
    platform's headers is not heard; nor does it give the adapter orders."""
    urls = on_either
    function_id, host = await urls.made()
    forged = ("Cakework-User-Id: somebody", "Cakework-Invocation-Id: inv_mine")
    status, headers, first = await urls.get(host, "/a/b?c=d", *forged)
    assert (status, first["calls"], first["path"]) == (200, 1, "/a/b")
    assert [name for name in first["headers"] if name.startswith("cakework")] == []
    assert headers["cakework-start"] == "fork"
    assert "server-timing" in headers
    found = await urls.record(headers["cakework-invocation-id"])
    assert (found["kind"], found["trigger"], found["state"]) == ("direct", "http", "succeeded")
    assert (found["functionId"], found["version"]) == (function_id, 1)
    assert found["event"]["data"] == {"method": "GET", "path": "/a/b"}
    assert [(a["outcome"], a["start"]) for a in found["attempts"]] == [("succeeded", "fork")]
    client = await urls.client()
    await client.send(get("/", host))
    raw = await client.reader.readuntil(b"\r\n\r\n")
    assert raw.lower().count(b"cakework-invocation-id") == 1
    assert b"forged" not in raw
    status, headers, second = await urls.get(host, "/invoke", "User-Agent: cakework")
    assert (status, second["calls"], second["path"]) == (200, 3, "/invoke")
    assert headers["cakework-start"] == "warm"
    assert (await urls.record(headers["cakework-invocation-id"]))["state"] == "succeeded"


async def test_it_streams_both_ways(urls: Urls) -> None:
    """Each part is answered before the next is sent; a large body comes whole."""
    code = "def http(request):\n    yield from request.chunks()\n"
    _, host = await urls.made(code)
    client = await urls.client()
    head = f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    await client.send(head.encode())
    await client.send(b"3\r\none\r\n")
    status, _ = await client.head()
    assert status == 200
    chunks = client.chunks()
    assert await anext(chunks) == b"one"
    for word in (b"two", b"six"):
        await client.send(b"3\r\n%s\r\n" % word)
        assert await anext(chunks) == word
    await client.send(b"0\r\n\r\n")
    assert [chunk async for chunk in chunks] == []
    size = 8 << 20
    client = await urls.client()
    head = f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n"

    async def send() -> None:
        await client.send(head.encode() + bytes(size))

    sending = asyncio.create_task(send())
    status, _, body = await client.answer()
    await sending
    assert (status, len(body)) == (200, size)


async def test_websockets_pass(urls: Urls) -> None:
    code = (
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'websocket':\n"
        "        return\n"
        "    await receive()\n"
        "    await send({'type': 'websocket.accept'})\n"
        "    while (message := await receive())['type'] == 'websocket.receive':\n"
        "        await send({'type': 'websocket.send', 'text': message['text'].upper()})\n"
    )
    function_id, host = await urls.made(code)
    url = f"ws://{host}/chat"
    async with connect(url, host="127.0.0.1", port=urls.router.port, proxy=None) as socket:
        for word in ("one", "two"):
            await socket.send(word)
            assert await socket.recv() == word.upper()
    assert (await urls.only_record(function_id))["state"] == "succeeded"
    assert len(await urls.functions.instances()) == 1


@pytest.mark.parametrize(
    ("code", "code_of_answer", "reason", "stays"),
    [
        ("raise ValueError('secret of mine')", "handler_failed", "handler_error", True),
        ("return {1, 2}", "handler_failed", "bad_answer", True),
        ("os._exit(3)", "handler_failed", "crash", False),
        ("time.sleep(600)", "timeout", "timeout", False),
    ],
)
async def test_how_it_failed_is_told(
    urls: Urls, code: str, code_of_answer: str, reason: str, stays: bool
) -> None:
    """To visitors without what is the author's to know; on record with it. What may have left
    something behind takes its instance along."""
    whole = f"import os, time\ndef http(request):\n    {code}\n"
    _, host = await urls.made(whole, settings={"timeout": 2})
    status, headers, problem = await urls.get(host)
    assert status == (504 if reason == "timeout" else 502)
    assert (headers["content-type"], problem["code"]) == (
        "application/problem+json",
        code_of_answer,
    )
    assert "secret" not in json.dumps(problem)
    found = await urls.record(headers["cakework-invocation-id"])
    assert (found["state"], found["reason"]) == ("failed", reason)
    if "secret" in code:
        assert found["error"]["message"] == "secret of mine"
        assert "main.py" in found["error"]["stack"]
    if stays:
        assert len(await urls.functions.instances()) == 1
    else:
        await urls.gone()


async def test_a_visitor_of_a_vm_that_ends_without_a_word_is_told(urls: Urls) -> None:
    """Its router hears of the end where the connection does not."""
    code = "import time\ndef http(request):\n    time.sleep(600)\n"
    _, host = await urls.made(code)
    client = await urls.client()
    await client.send(get("/", host))

    async def lent() -> str | None:
        (*_, found) = [None, *await urls.functions.instances()]
        return found.vm_id if found is not None and urls.lent.holds(found.vm_id) else None

    vm_id = await eventually(lent, "it is at work")
    await urls.functions.node.fall_silent(vm_id, EndCause.OUT_OF_MEMORY)
    status, headers, _ = await client.answer()
    found = await urls.record(headers["cakework-invocation-id"])
    assert (status, found["state"], found["reason"]) == (502, "failed", "out_of_memory")
    await urls.gone()


async def test_an_answer_that_breaks_off_is_cut_and_takes_its_instance(urls: Urls) -> None:
    code = "def http(request):\n    yield 'begun'\n    raise ValueError\n"
    function_id, host = await urls.made(code)
    client = await urls.client()
    await client.send(get("/", host))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.answer()
    found = await urls.only_record(function_id)
    assert (found["state"], found["reason"]) == ("failed", "handler_error")
    await urls.gone()


async def test_what_cannot_be_reached_is_said(urls: Urls) -> None:
    assert (await urls.get("nobody.localhost"))[2]["code"] == "not_found"
    empty = await urls.functions.rig.ok(
        "POST", "/v1/functions", json={"name": "empty", "runtime": "python"}
    )
    status, _, problem = await urls.get(await urls.host(empty["id"]))
    assert (status, problem["code"]) == (409, "no_live_version")
    code = "def handler(event, context):\n    return 1\n"
    _, host = await urls.made(code, name="events")
    status, _, problem = await urls.get(host)
    assert (status, problem["code"]) == (404, "no_handler")
    assert await urls.functions.instances() == []


async def test_no_room_is_said(urls: Urls) -> None:
    _, host = await urls.made()
    urls.functions.node.full_after = 0
    status, headers, problem = await urls.get(host)
    assert (status, problem["code"]) == (503, "no_room")
    assert int(headers["retry-after"]) >= 1
    urls.functions.node.full_after = None
    assert (await urls.get(host))[0] == 200


async def test_large_bodies_are_refused(
    folder: Path, settings: Settings, hosting: FunctionNode
) -> None:
    """Whether their length is told before or not; nothing of a refused one is a success."""
    code = "def http(request):\n    return str(len(request.body))\n"
    async with (
        served(folder, hosting, None) as functions,
        routed(
            functions, settings, Limits(function_body_bytes=1000, place_wait_s=DEADLINE_S)
        ) as urls,
    ):
        function_id, host = await urls.made(code)
        head = f"POST / HTTP/1.1\r\nHost: {host}\r\n"
        told, chunked = await urls.client(), await urls.client()
        await told.send(f"{head}Content-Length: 1001\r\n\r\n".encode() + bytes(1001))
        assert await told.problem() == (413, "payload_too_large")
        await chunked.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        await chunked.send(b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n")
        assert await chunked.problem() == (413, "payload_too_large")
        assert (await urls.only_record(function_id))["state"] == "canceled"


ALONE = """\
import os, time
from pathlib import Path
folder = Path({folder!r})
def work():
    mine = folder / f"running-{{os.getpid()}}"
    mine.touch(exist_ok=False)
    (folder / f"ran-{{os.getpid()}}").touch()
    count = len(list(folder.glob("running-*")))
    time.sleep(0.03)
    mine.unlink()
    return count
def http(request):
    return str(work())
def handler(event, context):
    return work()
"""
"""Fails if it is run twice at once in one process; answers how many processes run it."""


async def test_many_at_once_have_an_instance_each_and_no_more_than_may_be(
    on_either: Urls, tmp_path: Path
) -> None:
    """Requests and queued work share instances, and never one at the same time."""
    urls = on_either
    marks = tmp_path / "marks"
    marks.mkdir()
    code = ALONE.format(folder=str(marks))
    function_id, host = await urls.made(code, settings={"maxInstances": 2})
    queued = [await urls.functions.queue(function_id, n) for n in range(6)]
    answers = await asyncio.gather(*(urls.get(host) for _ in range(12)))
    assert {status for status, _, _ in answers} == {200}
    assert {int(body) for _, _, body in answers} <= {1, 2}
    ended = [await urls.functions.settled(each["id"]) for each in queued]
    assert {each["state"] for each in ended} == {"succeeded"}
    assert all(each["attempt"] == 1 for each in ended)
    found = [await urls.record(h["cakework-invocation-id"]) for _, h, _ in answers]
    assert {each["state"] for each in found} == {"succeeded"}
    assert len(list(marks.glob("ran-*"))) <= 2


HELD = """\
import time
from pathlib import Path
folder = Path({folder!r})
def http(request):
    (folder / f"begun-{{request.path[1:]}}").touch()
    while not (folder / "gate").exists():
        time.sleep(0.005)
    return "done"
"""


async def test_queued_work_has_to_wait_for_what_is_lent(urls: Urls, tmp_path: Path) -> None:
    """Its router is asked to give it back, and does when the request is over."""
    code = HELD.format(folder=str(tmp_path)) + "def handler(event, context):\n    return 'done'\n"
    function_id, host = await urls.made(code, settings={"maxInstances": 1})
    asking = asyncio.create_task(urls.get(host, "/one"))
    await until((tmp_path / "begun-one").exists, "the handler has begun")
    (lent,) = await urls.functions.instances()
    async with urls.functions.rig.server.database.writing() as session:
        # As it is for a moment after its start.
        await session.execute(update(InstanceRow).values(state="idle"))
    queued = await urls.functions.queue(function_id)
    await until(lambda: urls.lent.recalled(lent.vm_id), "the instance is recalled")
    found = await urls.functions.rig.ok("GET", f"/v1/invocations/{queued['id']}")
    assert (found["state"], found["attempt"]) == ("queued", 0)
    (tmp_path / "gate").touch()
    assert (await asking)[0] == 200
    ended = await urls.functions.settled(queued["id"])
    assert (ended["state"], ended["attempts"][0]["vmId"]) == ("succeeded", lent.vm_id)


async def test_one_account_s_waiting_requests_hold_up_nobody(
    folder: Path, settings: Settings, hosting: FunctionNode, tmp_path: Path
) -> None:
    """Who waits too long is told to try again."""
    code = HELD.format(folder=str(tmp_path))
    async with (
        served(folder, hosting, None) as functions,
        routed(functions, settings, Limits(place_wait_s=DEADLINE_S, connections=40)) as urls,
    ):
        _, host = await urls.made(code, settings={"maxInstances": 1})
        asking = [asyncio.create_task(urls.get(host, "/first"))]
        await until((tmp_path / "begun-first").exists, "the handler has begun")
        urls.lent.wait_s = 0.1
        status, headers, problem = await urls.get(host)
        assert (status, problem["code"]) == (429, "concurrency_exceeded")
        assert int(headers["retry-after"]) >= 1
        urls.lent.wait_s = DEADLINE_S
        asking += [asyncio.create_task(urls.get(host)) for _ in range(30)]
        async with await functions.rig.other_account() as theirs:
            mine, functions.rig.client = functions.rig.client, theirs
            _, other = await urls.made(name="theirs")
            functions.rig.client = mine
        assert (await urls.get(other))[0] == 200
        (tmp_path / "gate").touch()
        answers = await asyncio.gather(*asking)
        assert [status for status, _, _ in answers].count(200) == 20
        codes = {body["code"] for status, _, body in answers if status != 200}
        assert codes == {"too_many_connections"}


async def test_work_after_the_answer_keeps_its_place(urls: Urls, tmp_path: Path) -> None:
    """The visitor has the answer; who comes next waits, or has another instance."""
    gate = tmp_path / "gate"
    code = (
        "import os, time\nfrom pathlib import Path\n"
        f"gate = Path({str(gate)!r})\n"
        "def work():\n"
        "    while not gate.exists():\n"
        "        time.sleep(0.005)\n"
        "def http(request, context):\n"
        "    if request.path == '/later':\n"
        "        context.wait_until(work)\n"
        "    return str(os.getpid())\n"
    )
    _, host = await urls.made(code, settings={"maxInstances": 2})
    status, headers, first = await urls.get(host, "/later")
    assert status == 200
    assert (await urls.record(headers["cakework-invocation-id"]))["state"] == "succeeded"
    status, headers, second = await urls.get(host)
    assert (status, headers["cakework-start"]) == (200, "fork")
    assert second != first
    gate.touch()

    async def free() -> bool:
        answers = await asyncio.gather(urls.get(host), urls.get(host))
        return first in [body for _, _, body in answers]

    await eventually(free, "the first instance serves again")


async def test_an_instance_may_serve_one_request_alone(urls: Urls) -> None:
    _, host = await urls.made(settings={"isolation": "invocation"})
    answers = [await urls.get(host) for _ in range(2)]
    assert [(status, body["calls"]) for status, _, body in answers] == [(200, 1), (200, 1)]


async def test_many_requests_share_an_instance_that_takes_them(urls: Urls, tmp_path: Path) -> None:
    code = (
        "import asyncio\n"
        "here = asyncio.Barrier(4)\n"
        "async def http(request):\n"
        "    await here.wait()\n"
        "    return 'met'\n"
    )
    loaded = urls.functions.node.loaded
    assert loaded is not None

    async def four(vm_id: str) -> Loaded:
        return replace(await loaded(vm_id), concurrency=4)

    urls.functions.node.loaded = four
    settings = {"concurrency": 4, "maxInstances": 1}
    _, host = await urls.made(code, settings=settings)
    answers = await asyncio.gather(*(urls.get(host) for _ in range(4)))
    assert {(status, body) for status, _, body in answers} == {(200, b"met")}


def close(client: Client) -> None:
    client.writer.close()


@pytest.mark.parametrize("leave", [Client.reset, close])
async def test_who_goes_away_is_noticed(
    urls: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Client], None]
) -> None:
    """The handler is told, has a moment, and then its instance goes."""
    monkeypatch.setattr("cakework.router.direct.ABORTED_S", 0.2)
    code = (
        "import time\nfrom pathlib import Path\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "def http(request, context):\n"
        "    (folder / 'begun').touch()\n"
        "    context.signal.wait()\n"
        "    (folder / 'told').touch()\n"
        "    time.sleep(600)\n"
    )
    function_id, host = await urls.made(code)
    client = await urls.client()
    await client.send(get("/", host))
    await until((tmp_path / "begun").exists, "the handler has begun")
    leave(client)
    await until((tmp_path / "told").exists, "the handler is told")
    found = await urls.only_record(function_id)
    assert (found["state"], found["reason"]) == ("canceled", "canceled_by_caller")
    await urls.gone()


async def test_a_request_is_given_up(urls: Urls, tmp_path: Path) -> None:
    """By cancelInvocation, with its function, and not repeated by replayInvocation."""
    function_id, host = await urls.made(HELD.format(folder=str(tmp_path)))
    asking = asyncio.create_task(urls.get(host, "/one"))
    await until((tmp_path / "begun-one").exists, "the handler has begun")
    rig, path = urls.functions.rig, "/v1/invocations"

    async def look() -> list[Json]:
        return (await rig.ok("GET", path, params={"functionId": function_id}))["invocations"]

    (found,) = await eventually(look, "its begin is on record")
    assert (found["state"], found["kind"]) == ("running", "direct")
    await rig.ok("POST", f"{path}/{found['id']}/cancel")
    assert (await asking)[0] == 502
    ended = await urls.record(found["id"])
    assert (ended["state"], ended["reason"]) == ("canceled", "canceled_by_caller")
    await rig.refused(409, "POST", f"{path}/{found['id']}/replay", json={})


async def test_what_is_live_answers_from_when_that_is_said(urls: Urls) -> None:
    """Promoted, changed and deleted: the router never lags behind."""
    function_id, host = await urls.made()
    rig, path = urls.functions.rig, f"/v1/functions/{function_id}"
    assert (await urls.get(host))[2]["calls"] == 1
    two = "def http(request):\n    return 'two'\n"
    await rig.ok("POST", f"{path}/versions", json={"source": source(two), "promote": False})
    await urls.functions.ended(function_id, 2, "ready")
    assert (await urls.get(host))[2]["calls"] == 2
    for number, calls in ((2, None), (1, 1), (2, None)):
        await rig.ok("POST", f"{path}/promote", json={"version": number})
        status, _, body = await urls.get(host)
        assert status == 200
        assert (body == b"two") if calls is None else "calls" in body
    await rig.ok("PATCH", path, json={"settings": {"http": {"methods": ["POST"]}}})
    status, headers, problem = await urls.get(host)
    assert (status, problem["code"], headers["allow"]) == (405, "method_not_allowed", "POST")
    await rig.ok("DELETE", path)
    assert (await urls.get(host))[2]["code"] == "not_found"
    await urls.gone()


async def test_who_may_come_in(urls: Urls) -> None:
    """With a key of the account, which the function does not see; pages of some origins."""
    http = {"auth": "key", "cors": {"origins": ["https://a.example"]}}
    _, host = await urls.made(settings={"http": http})
    for lines in ((), ("X-Api-Key: cw_" + "x" * 43,)):
        status, _, problem = await urls.get(host, "/", *lines)
        assert (status, problem["code"]) == (401, "unauthenticated")
    async with await urls.functions.rig.other_account() as theirs:
        key = theirs.headers["X-Api-Key"]
        assert (await urls.get(host, "/", f"X-Api-Key: {key}"))[0] == 401
    mine = (f"X-Api-Key: {KEY}", "Origin: https://a.example")
    status, headers, body = await urls.get(host, "/", *mine)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://a.example")
    assert KEY not in json.dumps(body)
    other = (f"X-Api-Key: {KEY}", "Origin: https://b.example")
    assert "access-control-allow-origin" not in (await urls.get(host, "/", *other))[1]
    client = await urls.client()
    asked = ("Origin: https://a.example", "Access-Control-Request-Method: PUT")
    await client.send(get("/", host, *asked).replace(b"GET", b"OPTIONS", 1))
    status, headers = await client.head()
    assert (status, headers["access-control-allow-methods"]) == (204, "PUT")


async def test_each_version_has_a_hostname_for_who_has_a_key(urls: Urls) -> None:
    """Live or not."""
    function_id, host = await urls.made()
    two = "def http(request):\n    return 'two'\n"
    path, body = f"/v1/functions/{function_id}/versions", {"source": source(two), "promote": False}
    await urls.functions.rig.ok("POST", path, json=body)
    await urls.functions.ended(function_id, 2, "ready")
    label, _, domain = host.partition(".")
    preview = f"{label}-v2.{domain}"
    assert (await urls.get(preview))[2]["code"] == "unauthenticated"
    status, headers, found = await urls.get(preview, "/", f"X-Api-Key: {KEY}")
    assert (status, found) == (200, b"two")
    assert (await urls.record(headers["cakework-invocation-id"]))["version"] == 2
    assert (await urls.get(host))[2]["calls"] == 1
    status, _, problem = await urls.get(f"{label}-v9.{domain}", "/", f"X-Api-Key: {KEY}")
    assert (status, problem["code"]) == (404, "not_found")


async def test_a_warm_request_asks_nobody(
    folder: Path, settings: Settings, hosting: FunctionNode
) -> None:
    """It is answered while there is no server, and is on record when there is one again."""
    async with contextlib.AsyncExitStack() as stack:
        async with served(folder, hosting, None) as functions:
            urls = await stack.enter_async_context(routed(functions, settings))
            function_id, host = await urls.made()
            assert (await urls.get(host))[2]["calls"] == 1
        await until(lambda: not urls.link.is_whole, "the server is gone")
        status, headers, second = await urls.get(host)
        assert (status, second["calls"]) == (200, 2)
        async with served(folder, hosting, None) as again:
            urls.functions = again
            await until(lambda: urls.link.is_whole, "the server is back")
            found = await urls.record(headers["cakework-invocation-id"])
            assert (found["state"], found["functionId"]) == ("succeeded", function_id)
            assert (await urls.get(host))[0] == 200


async def test_a_request_outlives_its_server(
    settings: Settings, hosting: FunctionNode, tmp_path: Path
) -> None:
    """That is killed; the next one has it on record, and the instance goes on."""
    code = HELD.format(folder=str(tmp_path))

    async def loaded(_: str) -> Loaded:
        return Loaded("main.py", "", 1)

    hosting.loaded = loaded
    async with routing(settings) as router:
        async with serving(settings, hosting) as server:
            functions = Functions(server.rig, hosting)
            function_id = await functions.made(code)
            urls = Urls(functions, router, None, None, None)  # type: ignore[arg-type]
            host = await urls.host(function_id)
            asking = asyncio.create_task(ask(router.port, host, "/one"))
            await until((tmp_path / "begun-one").exists, "the handler has begun")
            server.process.kill()
            await server.process.wait()
        (tmp_path / "gate").touch()
        status, headers = await asking
        assert status == 200
        async with serving(settings, hosting) as server:
            urls.functions = Functions(server.rig, hosting)
            found = await urls.record(headers["cakework-invocation-id"])
            assert found["state"] == "succeeded"
            assert (await ask(router.port, host, "/two"))[0] == 200
            assert len(hosting.hosted) == 1


async def test_nothing_stays_busy_when_a_router_is_killed(
    folder: Path, settings: Settings, hosting: FunctionNode, tmp_path: Path
) -> None:
    """What it had under way is interrupted, its instances go, and others have the room."""
    code = HELD.format(folder=str(tmp_path))
    async with served(folder, hosting, None) as functions:
        urls = Urls(functions, None, None, None, None)  # type: ignore[arg-type]
        async with routing(settings) as router:
            function_id = await functions.made(code, settings={"maxInstances": 1})
            host = await urls.host(function_id)
            asking = asyncio.create_task(ask(router.port, host, "/one"))
            await until((tmp_path / "begun-one").exists, "the handler has begun")

            async def begun() -> bool:
                query = {"functionId": function_id}
                listed = await functions.rig.ok("GET", "/v1/invocations", params=query)
                return bool(listed["invocations"])

            await eventually(begun, "its begin is on record")
            router.process.kill()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await asking
        found = await urls.only_record(function_id)
        assert (found["state"], found["reason"]) == ("failed", "interrupted")
        (tmp_path / "gate").touch()
        async with routing(settings) as router:
            assert (await ask(router.port, host, "/two"))[0] == 200


async def test_an_instance_that_is_not_held_in_time_is_ended(
    on_either: Urls, tmp_path: Path
) -> None:
    """And not handed on, whatever its router believes; that hears of it, and has another."""
    urls = on_either
    function_id, host = await urls.made(HELD.format(folder=str(tmp_path)))
    asking = asyncio.create_task(urls.get(host, "/one"))
    await until((tmp_path / "begun-one").exists, "the handler has begun")
    (before,) = await urls.functions.instances()
    database = urls.functions.rig.server.database

    async def begun() -> bool:
        async with database.reading() as session:
            return await session.scalar(select(InvocationRow.id)) is not None

    await eventually(begun, "its begin is on record")

    async def over() -> bool:
        # Its router may hold it once more meanwhile.
        old = InstanceRow.vm_id == before.vm_id, InstanceRow.leased_by.is_not(None)
        async with database.writing() as session:
            await session.execute(update(InstanceRow).where(*old).values(leased_until_ms=0))
        return not await urls.functions.instances()

    await eventually(over, "the instance is gone")
    found = await urls.only_record(function_id)
    assert (found["state"], found["reason"]) == ("failed", "interrupted")
    assert (await asking)[0] == 502
    (tmp_path / "gate").touch()
    status, headers, _ = await urls.get(host, "/two")
    assert (status, headers["cakework-start"]) == (200, "fork")
    assert before.vm_id not in {row.vm_id for row in await urls.functions.instances()}


async def test_a_router_that_ends_gives_back_what_it_holds(
    folder: Path, settings: Settings, hosting: FunctionNode
) -> None:
    async with served(folder, hosting, None) as functions:
        urls = Urls(functions, None, None, None, None)  # type: ignore[arg-type]
        async with routing(settings) as router:
            host = await urls.host(await functions.made(HTTP))
            assert (await ask(router.port, host, "/"))[0] == 200
            (held,) = await functions.instances()
            router.process.terminate()
            assert await router.process.wait() == 0

        async def free() -> bool:
            (row,) = await functions.instances()
            assert row.vm_id == held.vm_id
            return (row.state, row.running, row.leased_by) == ("idle", 0, None)

        await eventually(free, "the instance is free")


async def ask(port: int, host: str, path: str) -> tuple[int, dict[str, str]]:
    """GET ``path`` of a router at ``port``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Client(reader, writer)
    try:
        await client.send(get(path, host))
        status, headers, _ = await client.answer()
        return status, headers
    finally:
        writer.transport.abort()


TAMPERED = """\
import cakework_runtime.visitors as ours
BODY = {body}
async def problem(exchange, status, reason, error):
    await exchange.answer(status, ours.PROBLEM, BODY, (b"cakework-error", b"handler_error"))
def http(request):
    ours._problem = problem
    raise ValueError
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("""b'{"error": {"message": "a\\\\ud800b"}}'""", "a?b"),
        ("""b'{"error": {"message": "' + b'\\\\u0000' * 9000 + b'"}}'""", "\0" * 1365),
        ("""b'{"error": {"message": ["of no kind"], "type": 1}}'""", ""),
        ("""b'{"error": ' + b'[' * 60_000""", None),
    ],
    ids=["no UTF-8", "long", "no text", "deep"],
)
async def test_what_an_adapter_tells_of_an_error_is_its_own_alone(
    urls: Urls, body: str, message: str | None
) -> None:
    """It keeps nobody's requests from being recorded, which are told of together."""
    hostile_id, hostile = await urls.made(TAMPERED.format(body=body))
    _, other = await urls.made(HTTP, name="other")
    await asyncio.gather(urls.get(hostile), urls.get(other))
    (_, headers, _), (status, others, _) = await asyncio.gather(urls.get(hostile), urls.get(other))
    assert status == 200
    assert (await urls.record(others["cakework-invocation-id"]))["state"] == "succeeded"
    found = await urls.record(headers["cakework-invocation-id"])
    assert (found["reason"], found["functionId"]) == ("handler_error", hostile_id)
    assert found.get("error", {}).get("message") == message
    await urls.functions.rig.ok("GET", "/v1/invocations")


async def test_an_error_of_a_request_has_no_secret(urls: Urls) -> None:
    code = (
        "import os\n"
        "def http(request):\n"
        "    raise ValueError('cannot log in with ' + os.environ['KEY'])\n"
    )
    await urls.functions.rig.ok("PUT", "/v1/secrets/KEY", json={"value": "sk_live_4242"})
    _, host = await urls.made(code, settings={"secrets": ["KEY"]})
    _, headers, _ = await urls.get(host)
    found = await urls.record(headers["cakework-invocation-id"])
    assert found["error"]["message"] == "cannot log in with ***"
    async with urls.functions.rig.server.database.reading() as session:
        row = (await session.scalars(select(InvocationRow))).one()
    assert row.kept_bytes == row.weight() > 1_500
    assert "sk_live" not in json.dumps(found)


async def test_an_instance_with_secrets_is_recalled_when_they_change_alone(urls: Urls) -> None:
    rig = urls.functions.rig
    lendings = rig.server.functions.lendings
    await rig.ok("PUT", "/v1/secrets/KEY", json={"value": "sk_live_4242"})
    code = "def http(request):\n    yield from request.chunks()\n"
    _, host = await urls.made(code, settings={"secrets": ["KEY"]})
    client = await urls.client()
    head = f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
    await client.send(head.encode())
    assert (await client.head())[0] == 200
    (busy,) = await urls.functions.instances()
    await lendings.one_pass()
    await urls.link.confirm()
    assert urls.lent.holds(busy.vm_id)
    assert not urls.lent.recalled(busy.vm_id)
    await rig.ok("PUT", "/v1/secrets/KEY", json={"value": "sk_live_1717"})
    await lendings.one_pass()
    await urls.link.confirm()
    assert urls.lent.recalled(busy.vm_id)
