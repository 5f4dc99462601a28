import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from cakework.domain.vms import VmState
from cakework.router.routes import Limits
from tests.integration.server.router_rig import (
    DEADLINE_S,
    HOST,
    Client,
    Handler,
    Rig,
    get,
    ok,
    post,
    request_head,
    router_rig,
)

pytestmark = pytest.mark.anyio
MB = 1024 * 1024
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@contextlib.contextmanager
def memory_grows_less_than(limit: int):
    """Compare this process's memory before with its highest point within."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    yield
    assert _memory("VmHWM") - before < limit


def _memory(name: str) -> int:
    found = re.search(name + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextlib.asynccontextmanager
async def streaming(handler: Handler, limits: Limits | None = None) -> AsyncGenerator[Rig]:
    async with router_rig(limits) as rig:
        await rig.vm(handler)
        yield rig


class Seen:
    """What a server in a VM noticed: one future for each thing."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.request: asyncio.Future[None] = loop.create_future()
        self.end: asyncio.Future[str] = loop.create_future()

    async def watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        self.request.set_result(None)
        try:
            while await reader.read(MB):
                pass
            self.end.set_result("ended")
        except ConnectionError:
            self.end.set_result("reset")


async def test_a_large_upload_passes_through_without_being_kept() -> None:
    """100 MB go up in constant memory."""

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = int((await request_head(reader))["content-length"])
        while left:
            left -= len(await reader.read(64 * 1024))
        writer.write(ok(b"all"))
        await reader.read()

    async with streaming(sink) as rig:
        client = await rig.client()
        piece = b"u" * 64 * 1024
        with memory_grows_less_than(16 * MB):
            await client.send(post(f"Content-Length: {100 * MB}"))
            for _ in range(100 * MB // len(piece)):
                await client.send(piece)
            assert (await client.answer())[2] == b"all"


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_download_passes_through_without_being_kept(chunked: bool) -> None:
    """100 MB come down in constant memory, whichever way their end is marked."""
    piece = b"d" * 64 * 1024
    count = 100 * MB // len(piece)

    async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 * MB)
        writer.write(CHUNKED if chunked else head)
        for _ in range(count):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
        writer.write(b"0\r\n\r\n" if chunked else b"")
        await reader.read()

    async with streaming(source) as rig:
        client = await rig.client()
        with memory_grows_less_than(16 * MB):
            await client.send(get())
            await client.head()
            received = 0
            if chunked:
                async for chunk in client.chunks():
                    received += len(chunk)
            else:
                for _ in range(count):
                    received += len(await client.exactly(len(piece)))
        assert received == 100 * MB


async def test_a_slow_client_holds_the_vm_back() -> None:
    """A client that does not read stops the VM's sending, and later gets every byte."""
    stalled_at: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    piece = b"s" * 64 * 1024
    total = 64 * MB

    async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for sent in range(0, total, len(piece)):
            writer.write(piece)
            drained = asyncio.ensure_future(writer.drain())
            done, _ = await asyncio.wait([drained], timeout=0.5)
            if not done and not stalled_at.done():
                stalled_at.set_result(sent)
            await drained
        await reader.read()

    async with streaming(source) as rig:
        client = await rig.client()
        with memory_grows_less_than(8 * MB):
            await client.send(get())
            assert (await client.head())[0] == 200
            assert await asyncio.wait_for(stalled_at, DEADLINE_S) < 32 * MB
        for _ in range(total // len(piece)):
            assert await client.exactly(len(piece)) == piece


async def test_a_slow_vm_holds_the_client_back() -> None:
    """A VM that does not read stops the client's sending."""
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        await release.wait()

    async with streaming(slow) as rig:
        client = await rig.client()
        await client.send(post(f"Content-Length: {1000 * MB}"))
        with memory_grows_less_than(8 * MB):
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 64 * MB:
                    await asyncio.wait_for(client.send(b"s" * 64 * 1024), 0.5)
                    sent += 64 * 1024
        assert sent < 32 * MB
        release.set()


async def test_events_arrive_one_by_one() -> None:
    """Each server-sent event reaches the client before the VM makes the next."""
    wanted: asyncio.Queue[bytes] = asyncio.Queue()

    async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(CHUNKED)
        while event := await wanted.get():
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with streaming(events) as rig:
        client = await rig.client()
        await client.send(get())
        await client.head()
        wanted.put_nowait(b"data: 0\n\n")
        number = 0
        async for chunk in client.chunks():
            assert chunk == b"data: %d\n\n" % number
            number += 1
            wanted.put_nowait(b"data: %d\n\n" % number if number < 20 else b"")
        assert number == 20


async def test_an_answer_in_two_writes_is_not_held_up() -> None:
    """A server that leaves Nagle's algorithm on, as many do, is acknowledged at once."""

    async def two_writes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        while True:
            await request_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
            writer.write(b"x")

    async with streaming(two_writes) as rig:
        client = await rig.client()
        took: list[float] = []
        for _ in range(30):
            begun = time.monotonic()
            await client.send(get())
            await client.answer()
            took.append(time.monotonic() - begun)
        assert rig.node.dials == 1
        # Held up, each but the first few takes 40 ms; not held up, some are quick on any machine.
        assert min(took[10:]) < 0.03


async def test_an_answer_may_come_before_its_request_has_ended() -> None:
    """An early answer is passed on at once, and the connection then ends."""

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with streaming(hasty, Limits(linger_s=DEADLINE_S)) as rig:
        client = await rig.client()
        await client.send(post(f"Content-Length: {MB}") + b"x" * 1000)
        status, headers, body = await client.answer()
        assert (status, headers["connection"], body) == (413, "close", b"no")
        await client.send(b"x" * 1000)
        assert await client.rest() == b""


async def test_both_directions_stream_at_once() -> None:
    """A VM may answer each piece of a body before the next is sent."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(CHUNKED)
        while size := int(await reader.readline(), 16):
            writer.write(b"%x\r\n%s" % (size, await reader.readexactly(size + 2)))
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with streaming(echo) as rig:
        client = await rig.client()
        await client.send(post("Transfer-Encoding: chunked"))
        chunks = client.chunks()
        await client.head()
        for number in range(10):
            await client.send(b"1\r\n%d\r\n" % number)
            assert await anext(chunks) == b"%d" % number
        await client.send(b"0\r\n\r\n")
        assert [chunk async for chunk in chunks] == []


async def test_a_half_close_is_passed_on_and_answered() -> None:
    """A VM sees that the client sends no more, and may still answer."""

    async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        assert await reader.read() == b""
        writer.write(ok(b"still"))
        await writer.drain()

    async with streaming(patient) as rig:
        client = await rig.client()
        await client.send(get())
        client.writer.write_eof()
        assert (await client.answer())[2] == b"still"


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_goes_is_noticed_by_the_vm(how: str) -> None:
    """A VM at work on an answer learns at once that nobody waits for it."""
    seen = Seen()
    async with streaming(seen.watch) as rig:
        client = await rig.client()
        await client.send(get())
        await asyncio.wait_for(seen.request, DEADLINE_S)
        client.writer.close() if how == "close" else client.reset()
        await asyncio.wait_for(seen.end, DEADLINE_S)


async def test_a_client_that_goes_amid_its_body_is_noticed() -> None:
    """A VM is not left waiting for the rest of a body, nor told that it was all."""
    seen = Seen()
    async with streaming(seen.watch) as rig:
        client = await rig.client()
        await client.send(post("Content-Length: 100", body=b"abc"))
        await asyncio.wait_for(seen.request, DEADLINE_S)
        client.writer.close()
        await asyncio.wait_for(seen.end, DEADLINE_S)


async def test_a_client_that_resets_a_stalled_upload_is_noticed() -> None:
    """Even while the VM takes nothing, a reset of the client ends its connection to the VM."""
    begun = asyncio.Event()
    resets: asyncio.Queue[None] = asyncio.Queue()

    async def stalled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        begun.set()
        await resets.get()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1000 * MB)
        resets.task_done()

    async with streaming(stalled) as rig:
        client = await rig.client()
        await client.send(post(f"Content-Length: {1000 * MB}"))
        await begun.wait()
        with contextlib.suppress(TimeoutError):
            while True:
                await asyncio.wait_for(client.send(b"s" * 64 * 1024), 0.3)
        client.reset()
        resets.put_nowait(None)
        await asyncio.wait_for(resets.join(), DEADLINE_S)


async def test_a_vm_that_stops_cuts_its_connections() -> None:
    """When a VM is no longer started, answers under way end within the sweep."""
    seen = Seen()
    async with streaming(seen.watch) as rig:
        client = await rig.client()
        await client.send(get())
        await asyncio.wait_for(seen.request, DEADLINE_S)
        rig.routes.by_host[HOST].state = VmState.STOPPED
        assert await client.problem() == (502, "vm_closed")
        await asyncio.wait_for(seen.end, DEADLINE_S)


async def test_silence_has_an_end() -> None:
    """An exchange in which nothing moves for the idle time-out is ended with 504."""
    seen = Seen()
    async with streaming(seen.watch, Limits(idle_timeout_s=0.3)) as rig:
        client = await rig.client()
        await client.send(get())
        assert await client.problem() == (504, "vm_timeout")
        await asyncio.wait_for(seen.end, DEADLINE_S)


async def test_who_takes_no_refusal_is_let_go() -> None:
    """Who asks for what is not there, over and over, and reads none of the answers."""
    loop = asyncio.get_running_loop()
    async with router_rig(Limits(head_timeout_s=0.3)) as rig:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", rig.router.port))
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(DEADLINE_S):
                    while True:
                        await loop.sock_sendall(client, get(host="nobody.localhost"))
                        await asyncio.sleep(0)


async def test_closing_the_router_closes_everything() -> None:
    """Neither client nor VM is left with an open connection."""
    seen = Seen()
    async with streaming(seen.watch) as rig:
        client = await rig.client()
        await client.send(get())
        await asyncio.wait_for(seen.request, DEADLINE_S)
        await rig.router.close()
        assert await client.rest() == b""
        await asyncio.wait_for(seen.end, DEADLINE_S)


@contextlib.asynccontextmanager
async def websocket_rig(limits: Limits | None = None) -> AsyncGenerator[Rig]:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with router_rig(limits) as rig, serve(echo, "127.0.0.1", 0, max_size=None) as server:
        rig.route(server.sockets[0].getsockname()[1])
        yield rig


async def test_websockets_pass_through() -> None:
    """Text, bytes of 1 MB, pings and the closing handshake go both ways."""
    async with websocket_rig() as rig:
        url = f"ws://{HOST}/chat"
        port = rig.router.port
        async with connect(
            url, host="127.0.0.1", port=port, proxy=None, max_size=None
        ) as websocket:
            for message in ("hello", b"\x00" * MB):
                await websocket.send(message)
                assert await asyncio.wait_for(websocket.recv(), DEADLINE_S) == message
            await asyncio.wait_for(await websocket.ping(), DEADLINE_S)
        assert websocket.close_code == 1000


async def test_an_idle_websocket_is_ended() -> None:
    """The idle time-out holds for upgraded connections too."""
    # Opening it takes time too, which a busy machine may not have at first.
    for idle_timeout_s in (0.3, 5, 30):
        async with websocket_rig(Limits(idle_timeout_s=idle_timeout_s)) as rig:
            port = rig.router.port
            try:
                websocket = await connect(f"ws://{HOST}/", host="127.0.0.1", port=port, proxy=None)
            except websockets.InvalidStatus:
                continue
            async with websocket:
                with pytest.raises(websockets.ConnectionClosed):
                    await asyncio.wait_for(websocket.recv(), DEADLINE_S)
                return
    raise AssertionError("it was never opened")


async def test_any_upgrade_becomes_a_pipe() -> None:
    """After a 101 bytes go as they are, those sent too early included, and ends one by one."""

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await request_head(reader))["upgrade"] == "shouting"
        answer = "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: shouting\r\n\r\nREADY "
        writer.write(answer.encode())
        while data := await reader.read(1000):
            writer.write(data.upper())
        writer.write(b" END")
        await writer.drain()
        writer.write_eof()

    async with streaming(shout) as rig:
        client = await rig.client()
        await client.send(get("/", HOST, "Connection: Upgrade", "Upgrade: shouting") + b"early ")
        status, headers = await client.head()
        assert (status, headers["upgrade"]) == (101, "shouting")
        await client.send(b"late\n\n")
        client.writer.write_eof()
        assert await client.rest() == b"READY EARLY LATE\n\n END"


@pytest.mark.parametrize("side", ["request", "answer"])
async def test_very_small_chunks_hold_up_nobody(side: str) -> None:
    """Whoever sends them, others have their turns in between."""
    small = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        if side == "answer":
            writer.write(head + small)
            return
        await _last_chunk(reader)
        writer.write(ok(b"read"))

    async with router_rig() as rig:
        await rig.vm(serve)
        visitor = await rig.client()
        done = asyncio.Event()
        turns = asyncio.create_task(_turns_until(done))
        if side == "answer":
            await visitor.send(get("/", HOST))
            await _last_chunk(visitor.reader)
        else:
            head = f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n"
            await visitor.send(head.encode() + small)
            assert (await visitor.answer())[0] == 200
        done.set()
        assert await turns > 200


async def _last_chunk(reader: asyncio.StreamReader) -> None:
    end = b""
    while not end.endswith(b"\r\n0\r\n\r\n"):
        end = (end + await reader.read(65536))[-9:]


async def _turns_until(done: asyncio.Event) -> int:
    """Return how often whoever wants nothing but a turn has had one."""
    turns = 0
    while not done.is_set():
        turns += 1
        await asyncio.sleep(0)
    return turns


async def test_what_nobody_takes_does_not_fill_the_router() -> None:
    """Beyond a bound in all, connections give way: of the account that holds most. Another's body,
    which waits likewise, arrives whole."""
    may_read = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        await may_read.wait()
        await reader.readexactly(MB // 4)
        writer.write(ok(b"whole"))
        await writer.drain()

    async def upload(client: Client) -> None:
        with contextlib.suppress(ConnectionError):
            await client.send(post(f"Content-Length: {64 * MB}", body=b"x" * 32 * MB))

    async with router_rig(Limits(held_bytes=2 * MB)) as rig:
        await rig.vm(deaf, account_id="mallory")
        await rig.vm(deaf, "other.localhost", "fedcba98765432", account_id="alice")
        alice = await rig.client()
        head = post(f"Content-Length: {MB // 4}").replace(HOST.encode(), b"other.localhost")
        await alice.send(head + b"x" * (MB // 4 - 1))
        mallory = [await rig.client() for _ in range(12)]
        uploads = [asyncio.create_task(upload(client)) for client in mallory]
        done, _ = await asyncio.wait(
            uploads, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED
        )
        assert done
        may_read.set()
        await alice.send(b"x")
        assert (await alice.answer())[2] == b"whole"
        for each in uploads:
            each.cancel()
        await asyncio.wait(uploads)
