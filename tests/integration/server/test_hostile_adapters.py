"""Adapters that were tampered with: whatever they answer, the server is told it in bounds."""

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from cakework.domain.ids import VmId
from cakework.domain.invocations import Reason
from cakework.server.functions import adapter as adapter_module
from cakework.server.functions.adapter import (
    CONNECTION_BYTES_MAX,
    RESULT_BYTES_MAX,
    Adapter,
    Answer,
    Context,
    NoAnswer,
)

from .rig import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
VM = VmId("0123456789abcd")
CONTEXT = Context("inv_1", 1, 1, 0, "fn_1", 1)
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
BUFFERS = 16 << 20
"""What the kernel and the streams may hold beside what is taken."""
Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Hostile:
    """Listens in an adapter's place and answers each request as ``script`` does."""

    def __init__(self) -> None:
        self.script: Script = _silent
        self.requests: list[bytes] = []
        self.sent = 0
        self.address: tuple[str, int] = ("127.0.0.1", 0)
        self.tasks: set[asyncio.Task[None]] = set()

    async def dial(self, _vm_id: str, _port: int) -> socket.socket:
        connected = socket.socket()
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, self.address)
        return connected

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.create_task(self._answer(reader, writer)))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            self.requests.append(head)
            await self.script(writer)
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent += len(data)


async def _silent(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def hostile(anyio_backend: str) -> AsyncGenerator[Hostile]:
    made = Hostile()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.address = server.sockets[0].getsockname()[:2]
    try:
        yield made
    finally:
        server.close()
        for task in made.tasks:
            task.cancel()
        ended = await asyncio.gather(*made.tasks, return_exceptions=True)
        assert all(each is None or isinstance(each, asyncio.CancelledError) for each in ended)


@pytest.fixture
async def adapter(hostile: Hostile) -> AsyncGenerator[Adapter]:
    made = Adapter(hostile)  # type: ignore[arg-type] - dials, which is all that is asked of it
    try:
        yield made
    finally:
        await made.close()


def endless(hostile: Hostile, *begin: bytes, again: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        for each in begin:
            await hostile.send(writer, each)
        while True:
            await hostile.send(writer, again)

    return script


def once(*parts: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        for each in parts:
            writer.write(each)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        await asyncio.sleep(0.05)

    return script


def line(**fields: Any) -> bytes:
    return HEAD + json.dumps({"outcome": "ok", **fields}).encode() + b"\n"


async def invoked(adapter: Adapter) -> Answer:
    async with adapter.invoke(VM, "event", b"{}", CONTEXT) as running:
        return await running.read()


KILO = b"x" * 65_536


@pytest.mark.parametrize(
    ("begin", "again", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"y" * 8000 + b"\r\n", Reason.CRASH),
        (b"HTTP/1.1 200 OK\r\nX: ", KILO, Reason.CRASH),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, Reason.CRASH),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 1000, Reason.CRASH),
        (HEAD, KILO, Reason.RESULT_TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", KILO, Reason.RESULT_TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 9000, None),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(bytes(9 << 20)), None),
    ],
    ids=["headers", "a header", "continue", "hints", "a line", "a length", "chunks", "gzip"],
)
async def test_an_answer_without_end_is_given_up(
    hostile: Hostile, adapter: Adapter, begin: bytes, again: bytes, reason: Reason | None
) -> None:
    """It takes no more than its bounds, whatever the adapter would have."""
    hostile.script = endless(hostile, begin, again=again)
    for ask in (lambda: invoked(adapter), lambda: adapter.give_secrets(VM, {})):
        hostile.sent = 0
        with pytest.raises(NoAnswer) as given_up:
            await ask()
        assert given_up.value.reached
        assert hostile.sent < CONNECTION_BYTES_MAX + BUFFERS
        if reason is not None and hostile.requests[-1].startswith(b"POST /invoke"):
            assert given_up.value.reason is reason


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/9.9 999 \xff\r\n\xff: \x00\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        HEAD,
    ],
)
async def test_what_is_no_answer_is_none(hostile: Hostile, adapter: Adapter, answer: bytes) -> None:
    hostile.script = once(answer)
    with pytest.raises(NoAnswer) as given_up:
        await invoked(adapter)
    assert given_up.value.reached
    with pytest.raises(NoAnswer):
        await adapter.give_secrets(VM, {})
    assert len(hostile.requests) == 2, "nothing was asked for elsewhere, or again"


@pytest.mark.parametrize(
    "text",
    [
        b"nothing",
        b"[]",
        b'"ok"',
        b"{}",
        b'{"outcome": "well"}',
        b'{"outcome": "ok", "result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"outcome": "ok", "result": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
        b'{"outcome": "ok", "result": ' + b"9" * 100_000 + b"}",
        b'{"outcome": "ok", "result": "\\ud800"}',
        b'{"outcome": "ok", "result": "\xff\xfe"}',
        b'{"outcome": "error", "error": {"type": {"a": 1}}}',
        b'{"outcome": "error", "error": "no"}',
    ],
)
async def test_what_is_no_answer_of_a_runtime_is_a_bad_answer(
    hostile: Hostile, adapter: Adapter, text: bytes
) -> None:
    hostile.script = once(HEAD, text + b"\n")
    with pytest.raises(NoAnswer) as given_up:
        await invoked(adapter)
    assert given_up.value.reason is Reason.BAD_ANSWER
    told = given_up.value.told()
    assert told.told().reason is Reason.BAD_ANSWER
    assert told.error is not None
    assert not told.error.retriable


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"result": float("nan")}, Reason.BAD_ANSWER),
        ({"result": [1, {"a": float("-inf")}]}, Reason.BAD_ANSWER),
        ({"resultBase64": "!!!!"}, Reason.BAD_ANSWER),
        ({"resultBase64": "AAA"}, Reason.BAD_ANSWER),
        ({"result": "x" * RESULT_BYTES_MAX}, Reason.RESULT_TOO_LARGE),
        ({"resultBase64": "AAAA" * (RESULT_BYTES_MAX // 3 + 1)}, Reason.RESULT_TOO_LARGE),
        ({"result": "x" * (RESULT_BYTES_MAX - 2)}, None),
        ({"result": "é" * (RESULT_BYTES_MAX // 2 - 1)}, None),
    ],
)
async def test_results_are_looked_at_again(
    hostile: Hostile, adapter: Adapter, fields: dict[str, Any], reason: Reason | None
) -> None:
    told = HEAD + json.dumps({"outcome": "ok", **fields}, ensure_ascii=False).encode() + b"\n"
    hostile.script = once(told)
    assert (await invoked(adapter)).told().reason is reason


async def test_numbers_and_texts_are_brought_within_bounds(
    hostile: Hostile, adapter: Adapter
) -> None:
    for given, taken in (("1e999", 604_800), ("-5", 0), ("NaN", 0), ("-Infinity", 0), ("7.5", 7.5)):
        error = b'{"type": "%s", "message": "%s", "stack": "%s", "retryAfter": %s}' % (
            b"t" * 100_000,
            b"m" * 100_000,
            b"s" * 100_000,
            given.encode(),
        )
        answer = b'{"outcome": "error", "durationMs": %s, "error": %s}\n' % (given.encode(), error)
        hostile.script = once(HEAD, answer)
        told = await invoked(adapter)
        assert told.error is not None
        assert told.error.retry_after == taken
        assert 0 <= told.duration_ms <= 86_400_000
        assert len(told.error.model_dump_json()) < 50_000
        assert told.told().reason is Reason.HANDLER_ERROR


@pytest.mark.parametrize("kind", ["text/html\r\nX-Evil: 1", "a\x00b", "é", "", "x" * 300, " "])
async def test_a_content_type_is_a_header_or_none(
    hostile: Hostile, adapter: Adapter, kind: str
) -> None:
    hostile.script = once(line(resultBase64="AAAA", contentType=kind))
    assert (await invoked(adapter)).content_type is None


async def test_no_cookie_is_kept(hostile: Hostile, adapter: Adapter) -> None:
    """What is kept of each instance would be kept as long as the server runs."""
    cookies = b"".join(b"Set-Cookie: c%d=%s\r\n" % (n, b"v" * 500) for n in range(50))
    hostile.script = once(b"HTTP/1.1 200 OK\r\n" + cookies + b"\r\n" + b'{"outcome": "ok"}\n')
    for _ in range(2):
        assert (await invoked(adapter)).outcome == "ok"
    assert not any(b"cookie" in each.lower() for each in hostile.requests)


async def test_an_answer_in_drops_is_given_up_in_time(
    hostile: Hostile, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte in time, and the whole never: an order has one time limit, not one for each."""
    monkeypatch.setattr(adapter_module, "ANSWER_S", 0.5)

    async def drops(writer: asyncio.StreamWriter) -> None:
        while True:
            await hostile.send(writer, b"H")
            await asyncio.sleep(0.05)

    async def body_drops(writer: asyncio.StreamWriter) -> None:
        await hostile.send(writer, HEAD)
        await drops(writer)

    for script in (_silent, drops, body_drops):
        hostile.script = script
        with pytest.raises(NoAnswer):
            await adapter.give_secrets(VM, {})
        with pytest.raises(NoAnswer):
            await adapter.abort(VM, "inv_1", 1)


async def test_two_answers_are_one(hostile: Hostile, adapter: Adapter) -> None:
    """What comes after the answer says that nothing runs any more, and no more than that."""
    hostile.script = once(line(result=1), line(result=2), line(result=3))
    async with adapter.invoke(VM, "event", b"{}", CONTEXT) as running:
        assert (await running.read()).result == 1
        await running.idle()


async def test_the_neighbour_is_answered_meanwhile(hostile: Hostile, adapter: Adapter) -> None:
    """While some answer without end, others are asked, and answer."""
    worst = endless(hostile, HEAD, again=KILO)
    good = once(line(result="well"))
    scripts = iter([worst] * 20 + [good] * 5)

    async def each(writer: asyncio.StreamWriter) -> None:
        await next(scripts)(writer)

    hostile.script = each
    bad = [asyncio.create_task(invoked(adapter)) for _ in range(20)]
    await until(lambda: len(hostile.requests) == 20, "all are asked")
    for _ in range(5):
        assert (await invoked(adapter)).result == "well"
    ended = await asyncio.gather(*bad, return_exceptions=True)
    assert all(isinstance(each, NoAnswer) for each in ended)


async def test_large_answers_of_one_account_keep_no_other_waiting(
    hostile: Hostile, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read one takes time in which nothing else is done: the next one waits for others."""
    monkeypatch.setattr(adapter_module, "REST", 1e9)
    hostile.script = once(line(result=[[]] * 100_000))

    async def asked(account: str) -> Answer:
        async with adapter.invoke(VM, "event", b"{}", CONTEXT, account) as running:
            return await running.read()

    assert (await asked("one")).outcome == "ok"
    waits = asyncio.create_task(asked("one"))
    assert (await asked("two")).outcome == "ok"
    await until(lambda: len(hostile.requests) == 3, "it is answered")
    hostile.script = once(line(result=1))
    assert (await asked("one")).result == 1
    assert not waits.done()
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
