"""Names for builds: who asks without end, or for names that are never found, holds up himself."""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from cakework.node.network import names
from cakework.node.network.names import (
    LOOKUPS_AT_ONCE,
    MOST_WAITING,
    HostNames,
    Lookup,
    Resolver,
    answer_to,
    parse_question,
)

pytestmark = pytest.mark.anyio
QUERY = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x04slow\x04test\x00\x00\x01\x00\x01"


class Questions:
    """Counts what is asked, and answers one for each ``allow``."""

    def __init__(self) -> None:
        self.asked = 0
        self._may = asyncio.Semaphore(0)

    async def lookup(self, name: str) -> list[str]:
        assert name == "slow.test"
        self.asked += 1
        await self._may.acquire()
        return ["93.184.216.34"]

    def allow(self) -> None:
        self._may.release()


async def test_names_that_are_never_found_hold_up_no_other_account() -> None:
    """One asks for a thousand at once, whose servers do not answer: another's is found at once,
    and has turns left for more. When they end, the thousand go on."""
    found = threading.Event()

    def find(name: str) -> list[str]:
        if name == "slow.test":
            assert found.wait(60)
        return ["93.184.216.34"]

    host = HostNames(find, timeout_s=60)
    try:
        slow = [asyncio.create_task(host.lookup("a", "slow.test")) for _ in range(1000)]
        for _ in range(LOOKUPS_AT_ONCE):
            assert await host.lookup("b", "quick.test") == ["93.184.216.34"]
        assert not any(task.done() for task in slow)
        found.set()
        assert await asyncio.gather(*slow) == [["93.184.216.34"]] * 1000
    finally:
        found.set()
        host.close()


async def test_a_name_is_given_up_and_its_turn_is_kept_until_it_is_over() -> None:
    """Who asks is told to ask again; the look-up, which cannot be broken off, counts to its end."""
    found, begun = threading.Event(), threading.Semaphore(0)

    def find(_: str) -> list[str]:
        begun.release()
        assert found.wait(60)
        return []

    host = HostNames(find, timeout_s=0.01)
    try:
        for _ in range(LOOKUPS_AT_ONCE):
            with pytest.raises(socket.gaierror) as caught:
                await host.lookup("a", "slow.test")
            assert caught.value.errno == socket.EAI_AGAIN
        for _ in range(LOOKUPS_AT_ONCE // 2):
            assert begun.acquire(timeout=60)
        assert not begun.acquire(blocking=False)
    finally:
        found.set()
        host.close()


async def test_of_one_build_so_many_questions_wait_at_once() -> None:
    """Those beyond stay with the kernel, and one more is read for each that is answered."""
    questions = Questions()
    async with resolving(questions.lookup) as client:
        for asked in range(MOST_WAITING + 10):
            client.send(QUERY)
            await until(lambda asked=asked: questions.asked > min(asked, MOST_WAITING - 1))
        await settled()
        assert questions.asked == MOST_WAITING
        questions.allow()
        await until(lambda: questions.asked == MOST_WAITING + 1)
        await settled()
        assert questions.asked == MOST_WAITING + 1
        assert client.recv(512) == answer_to(parse_question(QUERY), ["93.184.216.34"])


async def test_of_one_build_so_many_questions_are_read_per_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who asks faster is not even read; with time, it goes on."""
    monkeypatch.setattr(names, "QUESTIONS_AT_ONCE", 10)
    for per_s, read in ((1e-6, 10), (1000, 30)):
        monkeypatch.setattr(names, "QUESTIONS_PER_S", per_s)
        questions = Questions()
        async with resolving(questions.lookup) as client:
            for _ in range(30):
                client.send(QUERY)
            await until(lambda questions=questions, read=read: questions.asked == read)
            await settled()
            assert questions.asked == read


@asynccontextmanager
async def resolving(lookup: Lookup) -> AsyncGenerator[socket.socket]:
    """Have a resolver that looks up with ``lookup``; give a socket to ask it with."""
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.setblocking(False)
    own.bind(("127.0.0.1", 0))
    resolver = Resolver(lookup)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(own.getsockname())
        client.settimeout(60)
        resolver.listen(own)
        try:
            yield client
        finally:
            await resolver.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)


async def settled() -> None:
    """Let whatever is ready run."""
    for _ in range(100):
        await asyncio.sleep(0)
