"""What somebody sends who means to hold the API up, with a key and without."""

import asyncio
import base64
import contextlib
import json
import marshal
import os
import socket
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.exceptions import HTTPException
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from cakework.crowd import Crowd
from cakework.domain.ids import AccountId
from cakework.domain.orders import FilesSource
from cakework.server.api import bodies, connection, parse, parsing
from cakework.server.web import waitlist

from .fake_node import FakeNode
from .rig import DEADLINE_S, KEY, Rig, as_problem, listening, running, settings_for, until

pytestmark = pytest.mark.anyio
FILES = "/v1/image/build/files"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
EXPECTANT = b"Host: x\r\nExpect: 100-continue"
MIB = 1 << 20
MUCH = 64 * MIB
"""More than what may be on its way unseen, in the sockets of both sides."""


@pytest.fixture
async def rig(folder: Path, node: FakeNode) -> AsyncGenerator[Rig]:
    """A server: on SQLite alone, as nothing here comes as far as the store."""
    async with running(settings_for(folder, None), node) as served:
        yield served


class Caller:
    """One connection to the API, on which anything can be said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, *pieces: bytes) -> None:
        """Send pieces one after the other."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()

    async def say_on(self, piece: bytes) -> int:
        """Send a piece again and again; return how many bytes were taken before the end."""
        said = 0
        with contextlib.suppress(ConnectionError):
            while said < MUCH:
                await self.say(piece)
                said += len(piece)
        return said

    async def rest(self) -> bytes:
        """Return all that is answered until the server closes."""
        heard = b""
        with contextlib.suppress(ConnectionError):
            while more := await self._reader.read(MIB):
                heard += more
        return heard

    async def is_heard(self) -> None:
        """Return once the server says that it waits for a body."""
        assert await self._reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Return status and body of the next answer."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(line for line in lines if line.startswith(b"content-length:"))
        body = await self._reader.readexactly(int(length.split(b":")[1]))
        return int(head.split(b" ")[1]), json.loads(body)


@contextlib.asynccontextmanager
async def calling(rig: Rig, address: str = "127.0.0.1") -> AsyncGenerator[Caller]:
    """Connect from an address of the loopback."""
    url = rig.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port, local_addr=(address, 0))
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()


def begun(length: int | None = None, key: str = KEY) -> bytes:
    """Return the head of a build request, whose body is still to come."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    head = f"POST {FILES} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}X-Api-Key: {key}\r\n{framing}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"GET /", b"a" * 65536),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"a" * 65536),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n" * 1000),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a: \r\n" * 129),
    ],
    ids=["line", "header", "headers", "number"],
)
async def test_a_head_has_an_end(rig: Rig, first: bytes, again: bytes) -> None:
    """Whoever sends one without, or one of very many headers, is told and let go."""
    async with calling(rig) as caller:
        await caller.say(first)
        assert await caller.say_on(again) < MUCH
        assert (await caller.rest()).startswith((b"HTTP/1.1 431 ", b""))


async def test_a_head_that_is_too_large_is_told_of(rig: Rig) -> None:
    """With 431, where the answer is not overtaken by what is still being sent."""
    async with calling(rig) as caller:
        await caller.say(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000)
        assert (await caller.rest()).startswith(b"HTTP/1.1 431 ")


async def test_a_large_head_of_a_browser_is_taken(rig: Rig) -> None:
    """Cookies of other programs on one host may be 16 KiB."""
    headers = {"Cookie": "c" * 16_000, **{f"X-{number}": "y" for number in range(80)}}
    assert (await rig.client.get("/healthz", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "endless",
    [b"X-A: " + b"b" * 60_000 + b"\r\n", b"X: y\r\n" * 10_000],
    ids=["bytes", "number"],
)
async def test_trailers_have_an_end(rig: Rig, endless: bytes) -> None:
    """As the head has, after a body in chunks."""
    async with calling(rig) as caller:
        await caller.say(begun(), b"2\r\n{}\r\n0\r\n")
        assert await caller.say_on(endless) < MUCH


async def test_what_is_said_of_chunks_has_an_end(rig: Rig) -> None:
    """Extensions of a chunk are read over, but not for ever."""
    async with calling(rig) as caller:
        await caller.say(begun(), b"2;")
        assert await caller.say_on(b"a=b;" * 10_000) < MUCH


@pytest.mark.parametrize("key", [KEY, "cw_" + "n" * 43])
async def test_a_body_in_very_small_chunks_has_an_end(rig: Rig, key: str) -> None:
    """To look at it takes more than to send it, with a valid key and without."""
    async with calling(rig) as caller:
        await caller.say(begun(key=key))
        assert await caller.say_on(b"1\r\nx\r\n" * 10_000) < MUCH


async def test_requests_in_advance_have_an_end(rig: Rig) -> None:
    """Sent before the first is answered, they are kept: so there may be few."""
    async with calling(rig) as caller:
        await caller.say(begun(length=10))
        await caller.say(b"0" * 10)
        assert await caller.say_on(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 1000) < MUCH


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
async def test_requests_in_advance_that_are_given_up_are_no_fault_of_ours(rig: Rig) -> None:
    """Nobody fills the log with errors by sending more of them than are taken."""
    with capture_logs() as logs:
        async with calling(rig) as caller:
            key = b"X-Api-Key: cw_" + b"n" * 43
            await caller.say((b"GET /v1/vms HTTP/1.1\r\nHost: x\r\n" + key + b"\r\n\r\n") * 40)
            await caller.rest()
        await until(lambda: [each for each in logs if each["event"] == "request"], "it is over")
    assert [each["event"] for each in logs if each["log_level"] == "error"] == []


@pytest.mark.parametrize("said", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost:"])
async def test_who_says_nothing_is_let_go(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Also who begins, and also on a connection that had an answer before."""
    for name in ("HEAD_S", "KEEP_ALIVE_S"):
        monkeypatch.setattr(connection, name, 0.3)
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for first in (b"", whole):
        async with calling(rig) as caller:
            await caller.say(first)
            if first:
                assert (await caller.answer())[0] == 200
            if said:
                await caller.say(said)
            rest = await caller.rest()
            assert rest.startswith(b"HTTP/1.1 408 ") if said.startswith(b"GET") else rest == b""


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost:"])
async def test_who_is_silent_shuts_nobody_out(
    folder: Path, node: FakeNode, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Connections without a request give way, those of the address with most first, the one that is
    silent for longest. One that has a request under way is let be, and answered."""
    monkeypatch.setattr(connection, "HEAD_S", 3600.0)
    settings = settings_for(folder, None, api_connections=8)
    async with running(settings, node) as rig, contextlib.AsyncExitStack() as stack:
        image_id = await rig.image()
        node.may_answer.clear()
        start = asyncio.create_task(
            rig.client.post("/v1/vm/start", json={"imageId": image_id}, timeout=DEADLINE_S)
        )
        await until(lambda: node.vm_orders, "it is under way")
        other = await stack.enter_async_context(calling(rig, "127.0.0.2"))
        silent: list[Caller] = []
        for _ in range(20):
            caller = await stack.enter_async_context(calling(rig))
            silent.append(caller)
            await caller.say(said)
        async with asyncio.timeout(DEADLINE_S):
            for caller in silent[:14]:
                assert await caller.rest() == b""
        await other.say(HEALTH)
        assert (await other.answer())[0] == 200
        node.may_answer.set()
        assert (await start).status_code == 200


async def test_where_all_speak_no_more_are_taken(folder: Path, node: FakeNode) -> None:
    """And that is said. Of one account half as many requests are under way, and another's are
    taken."""
    settings = settings_for(folder, None, api_connections=8)
    async with running(settings, node) as rig, contextlib.AsyncExitStack() as stack:
        other = (await rig.server.keys.create("test", AccountId("other"))).key
        await rig.ok("GET", "/v1/vms")
        for key in (KEY, other):
            for _ in range(4):
                caller = await stack.enter_async_context(calling(rig))
                await caller.say(begun(9, key).replace(b"Host: x", EXPECTANT))
                await caller.is_heard()
            if key == KEY:
                caller = await stack.enter_async_context(calling(rig))
                await caller.say(begun(length=9))
                assert (await caller.answer())[1]["code"] == "quota_exceeded"
                answer = await rig.client.get("/v1/vms", headers={"X-Api-Key": other})
                assert answer.status_code == 200
        late = await stack.enter_async_context(calling(rig))
        assert (await late.rest()).startswith(b"HTTP/1.1 503 ")


async def test_a_form_has_to_come_in_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no key, so anybody could keep a connection with one."""
    monkeypatch.setattr(waitlist, "BODY_S", 0.1)
    async with calling(rig) as caller:
        await caller.say(b"POST /waitlist HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\ne")
        status, problem = await caller.answer()
        assert (status, problem["code"]) == (408, "request_timeout")


async def test_a_body_after_its_answer_has_an_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read for a while, for the answer to be seen, and then no more."""
    monkeypatch.setattr(connection, "LINGER_S", 0.3)
    async with calling(rig) as caller:
        await caller.say(begun(length=60 * MIB, key="cw_" + "n" * 43))
        assert (await caller.answer())[0] == 401
        drip = asyncio.create_task(_drip(caller))
        await caller.rest()
        drip.cancel()


async def _drip(caller: Caller) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await caller.say(b" ")
            await asyncio.sleep(0.01)


async def test_a_body_has_to_come_in_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little by little it comes; it is refused with 408, and nothing of it is kept."""
    monkeypatch.setattr(bodies, "FIRST_S", 0.3)
    for length in (MIB, None):
        async with calling(rig) as caller:
            await caller.say(begun(length))
            drip = asyncio.create_task(_drip_chunks(caller) if length is None else _drip(caller))
            status, problem = await caller.answer()
            drip.cancel()
            assert (status, problem["code"]) == (408, "request_timeout")


async def _drip_chunks(caller: Caller) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await caller.say(b"1\r\n \r\n")
            await asyncio.sleep(0.01)


async def test_unfinished_bodies_of_one_do_not_keep_out_anothers(
    folder: Path, node: FakeNode
) -> None:
    """They are held up to a bound in all; the largest of who holds most gives way."""
    settings = settings_for(folder, None, max_body_mb=2, max_bodies_mb=6)
    async with running(settings, node) as rig, contextlib.AsyncExitStack() as stack:
        other = (await rig.server.keys.create("test", AccountId("other"))).key
        mine = [await stack.enter_async_context(calling(rig)) for _ in range(5)]
        for caller in mine:
            await caller.say(begun(2 * MIB), b" " * (2 * MIB - 1))
        first = asyncio.create_task(_first_answer(mine))
        body = {"dockerfile": "FROM cakework/busybox", "files": [_file(content="x" * MIB)]}
        for _ in range(3):
            answer = await rig.client.post(FILES, json=body, headers={"X-Api-Key": other})
            assert answer.status_code == 200, answer.text
        status, problem = await first
        assert (status, problem["code"]) == (503, "no_room")


async def test_bodies_that_wait_to_be_answered_keep_out_no_other(
    folder: Path, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cannot give way any more: so one account's are no more than half of all."""
    answered = asyncio.Event()

    async def wait(_: object, __: bytes) -> tuple[int, bytes]:
        await answered.wait()
        return parse.FAULT, marshal.dumps(("Given up", 0))

    monkeypatch.setattr(parsing, "asked", wait)
    settings = settings_for(folder, None, max_body_mb=2, max_bodies_mb=6)
    async with running(settings, node) as rig, contextlib.AsyncExitStack() as stack:
        other = (await rig.server.keys.create("test", AccountId("other"))).key
        mine = [await stack.enter_async_context(calling(rig)) for _ in range(4)]
        for caller in mine:
            await caller.say(begun(2 * MIB - 9), b" " * (2 * MIB - 9))
        status, problem = await _first_answer(mine)
        assert (status, problem["code"]) == (503, "no_room")
        for _ in range(3):
            headers = {"X-Api-Key": other, "Content-Type": "application/json"}
            answer = await rig.client.post(FILES, content=_build("[]"), headers=headers)
            assert answer.status_code == 200, answer.text
        answered.set()


async def _first_answer(callers: list[Caller]) -> tuple[int, dict[str, Any]]:
    tasks = [asyncio.create_task(caller.answer()) for caller in callers]
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    return done.pop().result()


def _file(**fields: Any) -> dict[str, Any]:
    return {"dir": ".", "name": "a", "content": "x", **fields}


def _build(files: str) -> bytes:
    return b'{"dockerfile": "FROM cakework/busybox", "files": ' + files.encode() + b"}"


@pytest.mark.parametrize(
    "files",
    [
        "[" + "{}," * (MIB // 2) + "{}]",
        "[" * (2 * MIB),
        "[" + "[[[]]]," * (MIB // 2) + "1]",
        json.dumps([{"x" * 8: "y"}] * (MIB // 8)),
    ],
    ids=["objects", "depth", "lists", "names"],
)
async def test_a_body_of_very_many_things_costs_the_server_little(rig: Rig, files: str) -> None:
    """It is looked at elsewhere, so that whoever else calls is answered meanwhile."""
    body = _build(files)
    began = time.process_time()
    headers = {"Content-Type": "application/json"}
    answer = await rig.client.post(FILES, content=body, headers=headers)
    spent_s = time.process_time() - began
    assert as_problem(answer)["code"] in ("too_large", "invalid_request")
    assert len(answer.content) < 10_000
    # The client's part of it too, in this process: to be read here it takes several times that.
    assert spent_s < 2.0


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ("[" + "{}," * 40_000 + "{}]", 3),
        (json.dumps([_file(name="..")] * 1000), 20),
        (json.dumps([_file(name="same")] * 1000), 20),
        (json.dumps([_file(name=str(number)) for number in range(20_001)]), 1),
        (json.dumps([{"x" * 60_000: 1}]), 3),
    ],
    ids=["empty", "names", "same", "number", "long"],
)
async def test_the_faults_told_are_few(rig: Rig, files: str, most: int) -> None:
    """However many there are."""
    headers = {"Content-Type": "application/json"}
    answer = await rig.client.post(FILES, content=_build(files), headers=headers)
    assert answer.status_code == 400
    assert 1 <= len(as_problem(answer)["errors"]) <= most
    assert len(answer.content) < 10_000


async def test_a_large_body_is_read_as_a_small_one_is(rig: Rig) -> None:
    """With everything that JSON can say, and with what is said of its faults."""
    content = "é\u0000\U0001f370\n" * (MIB // 8)
    files = [_file(content=content), _file(name="b", content="")]
    build = await rig.build(files=files)
    await until(lambda: rig.node.build_orders, "the node has the order")
    order = rig.node.build_orders[0]
    assert order.build_id == build["buildId"]
    assert isinstance(order.source, FilesSource)
    assert base64.b64decode(order.source.files[0].content_base64).decode() == content
    for body in (_build("x" * MIB), b"\xff" * MIB, _build("1" * MIB)):
        problem = await rig.refused(
            400, "POST", FILES, content=body, headers={"Content-Type": "application/json"}
        )
        assert "is not JSON" in problem["errors"][0]["message"]


async def test_only_where_files_come_may_a_body_be_large(rig: Rig) -> None:
    """What starts a VM fits into far less."""
    body = {"imageId": "x", "envVars": {"A": "b" * 3 * MIB}}
    await rig.refused(413, "POST", "/v1/vm/start", json=body)


async def test_large_bodies_of_one_account_are_read_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that there is always a place for another's."""
    reading: list[bytes] = []
    go_on = asyncio.Event()

    async def read(_: object, body: bytes) -> tuple[int, bytes]:
        reading.append(body)
        await go_on.wait()
        return parse.READ, marshal.dumps(None)

    monkeypatch.setattr(parsing, "asked", read)
    parser = parsing.Parser()
    mine, others = (letter * (parsing.LARGE_BYTES + 1) for letter in (b"m", b"o"))
    tasks = [asyncio.create_task(parser.parsed(mine, AccountId("me"))) for _ in range(5)]
    tasks.append(asyncio.create_task(parser.parsed(others, AccountId("other"))))
    await until(lambda: others in reading, "the other's is read")
    assert reading.count(mine) == 1
    go_on.set()
    await asyncio.gather(*tasks)
    assert len(reading) == 6
    await parser.close()


async def test_who_reads_one_body_reads_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was wrong with the one before, as long as it could be read to its end; what cannot
    be told ends the process and not the server's reading."""
    begun = parsing.begun
    readers: list[parsing.Reader] = []

    async def begin() -> parsing.Reader:
        readers.append(await begun())
        return readers[-1]

    monkeypatch.setattr(parsing, "begun", begin)
    parser, account = parsing.Parser(), AccountId("me")
    whole = json.dumps(["x" * 2 * parsing.LARGE_BYTES]).encode()
    assert await parser.parsed(whole, account) == json.loads(whole)
    pages = _pages(readers[0])
    for bad in (whole[:-1], b"\xff" + whole, b"[" * 2 * parsing.LARGE_BYTES, _utf16(whole)):
        with pytest.raises(json.JSONDecodeError):
            await parser.parsed(bad, account)
    assert await parser.parsed(whole, account) == json.loads(whole)
    with pytest.raises(HTTPException):
        await parser.parsed(b"[" + b"[]," * parsing.VALUES_MAX + b"[]]", account)
    many = json.dumps([{"a": [1.5, {}]}] * 20_000).encode()
    assert await parser.parsed(many, account) == json.loads(many)
    (reader,) = readers
    # Nor has it memory that one of them left, of which the next may have only so much.
    assert _pages(reader) == pages
    assert [os.fstat(memory).st_size for memory in (reader.given, reader.told)] == [0, 0]
    reader.process.kill()
    await reader.process.wait()
    assert await parser.parsed(whole, account) == json.loads(whole)
    await parser.close()
    assert [each.process.returncode is not None for each in readers] == [True, True]


def _pages(reader: parsing.Reader) -> int:
    """Return how much memory a process has mapped, whether it is there or not."""
    return int(Path(f"/proc/{reader.process.pid}/statm").read_text().split()[0])


def _utf16(body: bytes) -> bytes:
    """Whose characters cost more than the bytes of it let expect."""
    return body.decode().encode("utf-16-le")


async def test_an_environment_has_so_many_names(rig: Rig) -> None:
    """However wrong each of them is."""
    body = {"imageId": "x", "envVars": {str(number): 1 for number in range(11_000)}}
    problem = await rig.refused(400, "POST", "/v1/vm/start", json=body)
    assert problem["errors"] == [{"field": "envVars", "message": "must have at most 1000 names"}]


@dataclass
class Transport:
    """One whose peer takes of what it is sent what the test says."""

    unsent: list[int]
    aborted: bool = False

    def get_write_buffer_size(self) -> int:
        return self.unsent.pop(0) if len(self.unsent) > 1 else self.unsent[0]

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, _: str) -> None:
        return None

    def close(self) -> None:
        """Nothing is left to close."""


@pytest.mark.parametrize("unsent", [[90, 90], [90, 60, 30, 30]])
async def test_who_takes_nothing_of_an_answer_is_let_go(
    monkeypatch: pytest.MonkeyPatch, unsent: list[int]
) -> None:
    """When all that was taken is taken; not before."""
    monkeypatch.setattr(connection, "WRITE_S", 0.01)
    config = connection.api_config(lambda: None)
    transport = Transport([*unsent])
    untaken = connection.Untaken(MUCH)
    made = connection.ApiConnection(Crowd(1), untaken, config, ServerState(), {})
    made.connection_made(cast("asyncio.Transport", transport))
    made.pause_writing()
    await until(lambda: transport.aborted, "it is let go")
    assert transport.unsent == unsent[-1:]
    made.connection_lost(ConnectionError())


async def answered_at_length(scope: Any, receive: Any, send: Any) -> None:
    """Answer 1 MiB to the account that is named in the path."""
    if scope["type"] == "lifespan":
        return
    scope["state"]["account"] = scope["path"]
    length = (b"content-length", str(MIB).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": bytes(MIB)})


async def test_answers_that_are_not_taken_keep_nobody_from_theirs() -> None:
    """So many bytes of them wait, of all connections: beyond it those of who has most give way."""
    loop = asyncio.get_running_loop()

    async def ask(stack: contextlib.ExitStack, account: str) -> socket.socket:
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, f"GET {account} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await loop.sock_recv(client, 1)
        return client

    async def taken(client: socket.socket) -> int:
        size = 0
        with contextlib.suppress(ConnectionError):
            while size < MIB and (piece := await loop.sock_recv(client, 65536)):
                size += len(piece)
        return size

    async with listening(answered_at_length, untaken_bytes_max=8 * MIB) as url:
        port = int(url.rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            other = await ask(stack, "/other")
            asked = [await ask(stack, "/hostile") for _ in range(30)]
            whole = [await taken(client) >= MIB for client in asked]
            assert 1 <= whole.count(True) <= 12
            assert await taken(other) >= MIB


async def test_bodies_that_cost_much_are_looked_into_one_by_one(
    folder: Path, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one account as many as half of the memory is enough for, however many come; another's is
    looked into meanwhile, and all of them are answered."""
    settings = settings_for(folder, None, server_memory_mb=256)
    wide = "x" * (4 * MIB) + "\U0001f600"
    body = json.dumps({"dockerfile": "FROM x", "files": [_file(content=wide)]}, ensure_ascii=False)
    small = {"dockerfile": "FROM x", "files": [_file(content="x" * (MIB // 4))]}
    looked: list[tuple[str, bool]] = []
    headers = {"Content-Type": "application/json"}
    may_go = asyncio.Event()
    parsed = parsing.Parser.parsed

    async def watched(self: parsing.Parser, body: bytes, account: AccountId) -> Any:
        found = await parsed(self, body, account)
        looked.append((account, len(body) > MIB))
        await may_go.wait()
        return found

    monkeypatch.setattr(parsing.Parser, "parsed", watched)
    async with (
        running(settings, node) as rig,
        await rig.other_account() as other,
        contextlib.AsyncExitStack() as stack,
    ):
        stack.callback(may_go.set)
        asked = [
            asyncio.create_task(rig.client.post(FILES, content=body, headers=headers))
            for _ in range(3)
        ]
        await until(lambda: looked == [("default", True)], "one is looked into")
        asked.append(asyncio.create_task(other.post(FILES, content=body, headers=headers)))
        await until(lambda: looked[1:] == [("other", True)], "and another account's")
        asked.append(asyncio.create_task(rig.client.post(FILES, json=small)))
        await until(lambda: len(looked) == 3, "and one that costs little, before the other two")
        assert looked[2] == ("default", False)
        may_go.set()
        assert [(await each).status_code for each in asked] == [200] * 5
        assert looked.count(("default", True)) == 3
