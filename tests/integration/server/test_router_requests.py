import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cakework.domain.vms import VmState
from cakework.router.routes import Limits
from tests.integration.server.router_rig import (
    DEADLINE_S,
    HOST,
    VM,
    Handler,
    eventually,
    get,
    ok,
    post,
    request_head,
    router_rig,
    tell,
)
from tests.properties import examples

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def test_a_request_reaches_its_vm() -> None:
    """The VM sees path, query and Host as sent, and who asked; the client sees its answer."""
    async with router_rig() as rig:
        await rig.vm(tell)
        client = await rig.client()
        await client.send(get("/a?b=c", HOST.upper() + ":8082"))
        status, _, body = await client.answer()
        seen = json.loads(body)
        assert status == 200
        assert seen[""] == "GET /a?b=c HTTP/1.1"
        assert seen["host"] == HOST.upper() + ":8082"
        assert seen["x-forwarded-for"] == "127.0.0.1"


async def test_every_request_is_routed_by_its_own_host() -> None:
    """On one connection, pipelined, requests for two VMs get the answers of each, in order."""
    async with router_rig() as rig:
        for number in (1, 2):

            async def answer(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int = number
            ) -> None:
                while True:
                    await request_head(reader)
                    writer.write(ok(b"%d" % number))

            await rig.vm(answer, f"h{number}.localhost", f"{number:014x}")
        client = await rig.client()
        order = [1, 2, 2, 1, 2]
        await client.send(b"".join(get(host=f"h{number}.localhost") for number in order))
        assert [int((await client.answer())[2]) for _ in order] == order


async def test_pipelined_requests_are_served_after_a_half_close() -> None:
    """A client may send its requests, close its side, and still get all answers."""
    async with router_rig() as rig:
        await rig.vm(tell)
        client = await rig.client()
        await client.send(get("/1") + get("/2"))
        client.writer.write_eof()
        for path in ("/1", "/2"):
            assert json.loads((await client.answer())[2])[""] == f"GET {path} HTTP/1.1"
        assert await client.rest() == b""


async def test_connections_to_a_vm_are_used_again() -> None:
    """A GET after a GET needs no second dial; a request that may not be repeated gets its own."""
    async with router_rig() as rig:
        await rig.vm(tell)
        client = await rig.client()
        for _ in range(5):
            await client.send(get())
            await client.answer()
        assert rig.node.dials == 1
        await client.send(post("Content-Length: 1", body=b"a"))
        await client.answer()
        assert rig.node.dials == 2


async def test_a_stale_connection_is_replaced() -> None:
    """A VM that closes a used connection on the next request gets it again on a new one."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(ok(b"x"))
        await request_head(reader)

    async with router_rig() as rig:
        await rig.vm(once)
        client = await rig.client()
        for _ in range(3):
            await client.send(get())
            assert (await client.answer())[2] == b"x"
        assert rig.node.dials == 3


async def test_head_has_no_body_and_keeps_its_length() -> None:
    """HEAD gets the headers of GET; the next answer on the connection is read rightly."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await request_head(reader)
            writer.write(ok(b"abc")[: -3 if head[""].startswith("HEAD") else None])

    async with router_rig() as rig:
        await rig.vm(serve)
        client = await rig.client()
        await client.send(get().replace(b"GET", b"HEAD"))
        status, headers = await client.head()
        assert (status, headers["content-length"]) == (200, "3")
        await client.send(get())
        assert (await client.answer())[2] == b"abc"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_end_with_their_head(status: int) -> None:
    """After 204 and 304 the connection goes on at once."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_head(reader)
            writer.write(b"HTTP/1.1 %d X\r\nX-A: b\r\n\r\n" % status)

    async with router_rig() as rig:
        await rig.vm(serve)
        client = await rig.client()
        for _ in range(2):
            await client.send(get())
            assert (await client.head()) == (status, {"x-a": "b"})


async def test_an_old_server_is_understood() -> None:
    """An HTTP/1.0 answer, ended by closing, reaches a 1.1 client whole and keeps it connected."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with router_rig() as rig:
        await rig.vm(serve)
        client = await rig.client()
        for _ in range(2):
            await client.send(get())
            assert (await client.answer())[2] == b"x" * 100_000


async def test_an_old_client_is_understood() -> None:
    """An HTTP/1.0 client gets a chunked answer plain, and its end by closing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n")
        await reader.read()

    async with router_rig() as rig:
        await rig.vm(serve)
        client = await rig.client()
        await client.send(get().replace(b"HTTP/1.1", b"HTTP/1.0"))
        status, headers = await client.head()
        assert (status, headers) == (200, {"connection": "close"})
        assert await client.rest() == b"abcde"


async def test_expect_is_between_client_and_vm() -> None:
    """The client's 100 Continue comes from the VM, and its body goes after it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await request_head(reader)
        assert head["expect"] == "100-continue"
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(ok(await reader.readexactly(3)))
        await reader.read()

    async with router_rig() as rig:
        await rig.vm(serve)
        client = await rig.client()
        await client.send(post("Expect: 100-continue", "Content-Length: 3"))
        assert (await client.head())[0] == 100
        await client.send(b"abc")
        assert (await client.answer())[2] == b"abc"


async def test_a_refused_expectation_ends_the_connection() -> None:
    """When the VM wants no body, the client is told that this connection is over."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with router_rig() as rig:
        await rig.vm(serve)
        client = await rig.client()
        await client.send(post("Expect: 100-continue", "Content-Length: 3"))
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (417, "close")
        assert await client.rest() == b""


async def test_what_the_router_itself_answers() -> None:
    """Each reason why a VM cannot be reached has its status and code."""
    async with router_rig() as rig:
        await rig.vm(tell)
        client = await rig.client()

        async def ask(host: str = HOST) -> tuple[int, str]:
            await client.send(get(host=host))
            return await client.problem()

        route = rig.routes.by_host[HOST]
        assert await ask("nobody.localhost") == (404, "not_found")
        assert await ask("127.0.0.1") == (404, "not_found")
        route.state = VmState.CREATED
        assert await ask() == (502, "vm_not_started")
        route.state = VmState.STOPPED
        assert await ask() == (502, "vm_stopped")
        route.state = VmState.DESTROYED
        assert await ask() == (404, "not_found")
        route.state, route.port = VmState.STARTED, None
        assert await ask() == (404, "vm_has_no_port")
        route.port = 81
        assert await ask() == (502, "vm_stopped")
        rig.node.ports[route.vm_id, 81] = 1
        assert await ask() == (502, "vm_not_listening")
        rig.node.answer = b"nonsense\n"
        assert await ask() == (503, "unavailable")


async def test_a_dial_that_is_not_answered_is_given_up() -> None:
    """A silent node is told apart from one that is away."""
    async with router_rig(dial_timeout_s=0.2) as rig:
        await rig.vm(tell)
        rig.node.silent = True
        client = await rig.client()
        await client.send(get())
        assert await client.problem() == (504, "vm_timeout")


async def test_a_malformed_request_gets_400_and_the_connection_ends() -> None:
    """Nothing after bytes that were not understood is taken for a request."""
    async with router_rig() as rig:
        await rig.vm(tell)
        client = await rig.client()
        await client.send(post("Content-Length: 3", "Transfer-Encoding: chunked", body=get()))
        assert await client.problem() == (400, "invalid_request")
        assert await client.rest() == b""
        assert rig.node.dials == 0


@pytest.mark.parametrize(
    "body",
    [b"x\r\n", b"3\nabc\r\n", b"3\r\nabcd\r\n", b"-3\r\nabc\r\n", b"3 3\r\nabc\r\n", b"\r\n"],
)
async def test_a_malformed_body_gets_400_and_reaches_nobody(body: bytes) -> None:
    """A broken chunk is not passed on; the VM sees its request cut off."""
    seen: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        try:
            seen.set_result(await reader.read())
        except ConnectionError:
            seen.set_result(b"")

    async with router_rig() as rig:
        await rig.vm(serve)
        client = await rig.client()
        await client.send(post("Transfer-Encoding: chunked", body=body + get()))
        assert await client.problem() == (400, "invalid_request")
        assert await client.rest() == b""
        assert b"GET" not in await asyncio.wait_for(seen, DEADLINE_S)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"],
)
async def test_a_vm_that_does_not_answer_is_told_about(answer: bytes) -> None:
    """A VM that closes, or does not speak HTTP, becomes 502; the client may go on."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with router_rig() as rig:
        await rig.vm(serve)
        client = await rig.client()
        for _ in range(2):
            await client.send(get())
            assert await client.problem() == (502, "vm_closed")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_that_breaks_off_is_seen_to(version: bytes) -> None:
    """A client is never told that half an answer is a whole one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with router_rig() as rig:
        await rig.vm(serve)
        client = await rig.client()
        await client.send(get().replace(b"1.1", version))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.answer()


async def test_slow_heads_are_cut_off() -> None:
    """A head that does not come to its end in time gets 408; no request at all gets nothing."""
    async with router_rig(Limits(head_timeout_s=0.2)) as rig:
        client = await rig.client()
        await client.send(b"GET / HTTP/1.1\r\nHost:")
        assert await client.problem() == (408, "request_timeout")
        assert await client.rest() == b""
    async with router_rig(Limits(keep_alive_s=0.2)) as rig:
        idle = await rig.client()
        assert await idle.rest() == b""


async def test_a_vm_has_a_bounded_number_of_connections() -> None:
    """One more than allowed gets 503, and gets through when another is done."""
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
            await release.wait()
            writer.write(b"x")

    async with router_rig(Limits(connections_per_vm=2)) as rig:
        await rig.vm(serve)
        clients = [await rig.client() for _ in range(3)]
        for client in clients[:2]:
            await client.send(get())
            assert (await client.head())[0] == 200
        await clients[2].send(get())
        assert await clients[2].problem() == (503, "too_many_connections")
        release.set()
        assert await clients[0].exactly(1) == b"x"
        await clients[2].send(get())
        assert (await clients[2].answer())[0] == 200


async def test_the_router_has_a_bounded_number_of_connections() -> None:
    """Beyond its own bound, where every one has a request under way, it says so and closes."""
    release = asyncio.Event()
    async with router_rig(Limits(connections=1)) as rig:
        await rig.vm(_held(release))
        first = await rig.client()
        await first.send(get())
        await eventually(lambda: rig.activity.count(VM))
        second = await rig.client()
        assert await second.problem() == (503, "too_many_connections")
        release.set()
        assert (await first.answer())[0] == 200


async def test_silent_connections_shut_nobody_out() -> None:
    """However many one client opens and says nothing on, or begins a head, others are served: on a
    connection that they have kept, on one with a request under way, and on new ones."""
    release = asyncio.Event()
    async with router_rig(Limits(connections=8)) as rig:
        await rig.vm(_held(release), vm_id=VM)
        await rig.vm(tell, "other.localhost", "fedcba98765432")
        kept, busy = await rig.client(), await rig.client()
        await kept.send(get(host="other.localhost"))
        assert (await kept.answer())[0] == 200
        await busy.send(get())
        await eventually(lambda: rig.activity.count(VM))
        silent = [await rig.client("127.0.0.2") for _ in range(40)]
        for client in silent[-6:]:
            await client.send(b"GET / HTTP/1.1\r\n")
        for _ in range(10):
            new = await rig.client()
            await new.send(get(host="other.localhost"))
            assert (await new.answer())[0] == 200
            new.reset()
        await kept.send(get(host="other.localhost"))
        assert (await kept.answer())[0] == 200
        release.set()
        assert (await busy.answer())[0] == 200
        assert await silent[0].rest() == b""


async def test_requests_to_one_accounts_vms_leave_room_for_others() -> None:
    """Half of the router's connections, in all of its VMs together; then they get 503."""
    release = asyncio.Event()
    async with router_rig(Limits(connections=8)) as rig:
        for number in range(3):
            host = f"h{number}.localhost"
            await rig.vm(_held(release), host, f"{number:014x}", account_id="mallory")
        await rig.vm(tell, "other.localhost", "fedcba98765432", account_id="alice")
        clients = [await rig.client() for _ in range(6)]
        for number, client in enumerate(clients[:4]):
            await client.send(get(host=f"h{number % 3}.localhost"))
        await eventually(lambda: sum(rig.activity.count(f"{n:014x}") for n in range(3)) == 4)
        await clients[4].send(get(host="h2.localhost"))
        assert await clients[4].problem() == (503, "too_many_connections")
        await clients[5].send(get(host="other.localhost"))
        assert (await clients[5].answer())[0] == 200
        release.set()
        for client in clients[:4]:
            assert (await client.answer())[0] == 200
        await clients[4].send(get(host="h2.localhost"))
        assert (await clients[4].answer())[0] == 200


async def test_who_comes_has_to_ask_soon() -> None:
    """A connection on which nothing comes is closed as a head is that does not end; one that was
    used may wait longer."""
    async with router_rig(Limits(head_timeout_s=0.2, keep_alive_s=DEADLINE_S)) as rig:
        await rig.vm(tell)
        used = await rig.client()
        await used.send(get())
        assert (await used.answer())[0] == 200
        silent = await rig.client()
        assert await silent.rest() == b""
        await used.send(get())
        assert (await used.answer())[0] == 200


def _held(release: asyncio.Event) -> Handler:
    """Answer each request once that is allowed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_head(reader)
            await release.wait()
            writer.write(ok(b"x"))

    return serve


@settings(
    max_examples=examples(30),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_pieces_of_a_request_and_its_answer_do_not_matter(data: st.DataObject) -> None:
    """However both are cut, heads, chunked bodies and pipelined requests arrive whole."""
    request = post(
        "Transfer-Encoding: chunked", body=b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"
    )
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n"
    asked, told = _cut(data, request * 2), _cut(data, answer)
    asyncio.run(_exchange(asked, told))


def _cut(data: st.DataObject, raw: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=8)))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


async def _exchange(asked: list[bytes], told: list[bytes]) -> None:
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_head(reader)
            body = b""
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
            bodies.append(body)
            for piece in told:
                writer.write(piece)
                await writer.drain()

    async with router_rig() as rig:
        await rig.vm(serve)
        client = await rig.client()
        for piece in asked:
            await client.send(piece)
        for _ in range(2):
            assert (await client.answer())[2] == b"hi!"
    assert bodies == [b"abc0123456789"] * 2
