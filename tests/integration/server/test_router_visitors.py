"""Visitors of one VM, whose program is careless: what is one's never reaches another."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from .router_rig import HOST, Client, Rig, get, ok, post, request_head, router_rig

pytestmark = pytest.mark.anyio

PLANTED = ok(b"planted by another visitor")
BEHIND = get("/smuggled", HOST, "X-Who: mallory", "X-Swallows: ").removesuffix(b"\r\n\r\n")
"""A head to which another's is only one header more."""


@dataclass
class Careless:
    """A program that answers every head with whose it was, and reads no body, as Python's
    ``http.server`` does where it wants no POST. It goes on with the connection afterwards."""

    answer: Callable[[bytes], bytes] = ok
    left: bytes = b""
    """What it still writes after the answer to a careless visit, in a piece of its own."""
    seen: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer heads, one after the other."""
        while True:
            try:
                head = await request_head(reader)
            except ValueError:
                return
            who = head.get("x-who", "")
            self.seen.append((who, head[""].split(" ")[1]))
            mine = json.dumps(self.seen[-1]).encode()
            if who != "mallory":
                writer.write(ok(mine))
                continue
            writer.write(self.answer(mine))
            await writer.drain()
            if self.left:
                await asyncio.sleep(0.02)
                writer.write(self.left)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with router_rig() as made:
        yield made


async def _is_told_its_own(visitor: Client, who: str) -> None:
    for path in ("/one", "/two"):
        await visitor.send(get(path, HOST, f"X-Who: {who}"))
        status, _, body = await visitor.answer()
        assert (status, json.loads(body)) == (200, [who, path])


BODIES = {
    "a length": post("X-Who: mallory", f"Content-Length: {len(BEHIND)}", body=BEHIND),
    "chunks": post(
        "X-Who: mallory",
        "Transfer-Encoding: chunked",
        body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(BEHIND), BEHIND),
    ),
    "trailers": post(
        "X-Who: mallory",
        "Transfer-Encoding: chunked",
        body=b"%x\r\n%b\r\n0\r\nX-Who: eve\r\n\r\n" % (len(BEHIND), BEHIND),
    ),
    "a GET": get("/", HOST, "X-Who: mallory", f"Content-Length: {len(BEHIND)}") + BEHIND,
}


@pytest.mark.parametrize("request_", BODIES.values(), ids=BODIES)
async def test_a_body_that_is_not_read(rig: Rig, request_: bytes) -> None:
    """It is not the head of anybody's next request, and nobody gets the answer to it."""
    program = Careless()
    await rig.vm(program.serve)
    mallory, alice = await rig.client(), await rig.client()
    await mallory.send(request_)
    assert (await mallory.answer())[0] == 200
    await _is_told_its_own(alice, "alice")
    await _is_told_its_own(mallory, "not mallory")


ANSWERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "HEAD": (get("/", HOST, "X-Who: mallory").replace(b"GET", b"HEAD", 1), ok),
    "204": (get("/", HOST, "X-Who: mallory"), lambda _: b"HTTP/1.1 204 No\r\n\r\n"),
    "304": (get("/", HOST, "X-Who: mallory"), lambda _: b"HTTP/1.1 304 No\r\n\r\n"),
    "an upgrade that is refused": (
        get("/", HOST, "X-Who: mallory", "Connection: Upgrade", "Upgrade: websocket"),
        ok,
    ),
}


@pytest.mark.parametrize(("request_", "answer"), ANSWERS.values(), ids=ANSWERS)
async def test_bytes_behind_an_answer(
    rig: Rig, request_: bytes, answer: Callable[[bytes], bytes]
) -> None:
    """A body where there is none is nobody's answer, not even the same visitor's next one."""
    program = Careless(lambda mine: answer(mine).partition(b"\r\n\r\n")[0] + b"\r\n\r\n", PLANTED)
    if b"Upgrade" in request_:
        program.answer = answer
    await rig.vm(program.serve)
    mallory, alice = await rig.client(), await rig.client()
    await mallory.send(request_)
    assert (await mallory.head())[0] in (200, 204, 304)
    if b"Upgrade" in request_:
        await mallory.exactly(len(json.dumps(["mallory", "/"])))
    await _is_told_its_own(alice, "alice")
    await _is_told_its_own(mallory, "not mallory")


async def test_an_answer_that_is_longer_than_it_said(rig: Rig) -> None:
    """What comes late is at most the same visitor's, who shares the connection with nobody."""
    program = Careless(left=PLANTED)
    await rig.vm(program.serve)
    mallory, alice = await rig.client(), await rig.client()
    await mallory.send(get("/", HOST, "X-Who: mallory"))
    await mallory.answer()
    await _is_told_its_own(alice, "alice")


async def test_an_upload_that_is_cut_off(rig: Rig) -> None:
    """The half of a body that came is not followed by another visitor's request."""
    program = Careless()
    await rig.vm(program.serve)
    mallory, alice = await rig.client(), await rig.client()
    await mallory.send(post("X-Who: mallory", "Content-Length: 1000", body=BEHIND))
    assert (await mallory.answer())[1]["connection"] == "close"
    mallory.reset()
    await _is_told_its_own(alice, "alice")


async def test_an_expectation_that_is_not_met(rig: Rig) -> None:
    """The answer came before the body: the body that comes all the same is nobody's head."""
    program = Careless()
    await rig.vm(program.serve)
    mallory, alice = await rig.client(), await rig.client()
    expecting = post("X-Who: mallory", "Expect: 100-continue", f"Content-Length: {len(BEHIND)}")
    await mallory.send(expecting)
    assert (await mallory.answer())[1]["connection"] == "close"
    await mallory.send(BEHIND)
    await _is_told_its_own(alice, "alice")
    assert ("mallory", "/smuggled") not in program.seen


async def test_no_two_clients_share_a_connection(rig: Rig) -> None:
    """Each has its own into the VM, which ends with theirs."""
    ended: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        who: set[str] = set()
        try:
            while True:
                head = await request_head(reader)
                who.add(head["x-who"])
                writer.write(ok(json.dumps([*who]).encode()))
        finally:
            ended.extend(who)

    await rig.vm(serve)
    clients = {name: await rig.client() for name in ("alice", "bob")}
    for _ in range(3):
        for name, client in clients.items():
            await client.send(get("/", HOST, f"X-Who: {name}"))
            assert json.loads((await client.answer())[2]) == [name]
    assert rig.node.dials == 2
    clients["alice"].writer.write_eof()
    assert await clients["alice"].rest() == b""
    async with asyncio.timeout(3):
        while not ended:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    assert ended == ["alice"]
