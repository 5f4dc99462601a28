"""How a journal's chunks are gathered: none late, none lost, few when there are many."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cakework.domain.errors import Unavailable
from cakework.server.loops.gathering import BATCH_BYTES, Pace, gathered

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Chunks:
    """Gives what is put in; ``read`` counts what was taken."""

    def __init__(self) -> None:
        self.read = 0
        self._coming: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def come(self, *chunks: bytes | Exception | None) -> None:
        for chunk in chunks:
            self._coming.put_nowait(chunk)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._coming.get()) is not None:
            self.read += 1
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


async def rest() -> None:
    """Let others run until they wait."""
    for _ in range(5000):
        await asyncio.sleep(0)


async def test_a_chunk_alone_comes_at_once_and_those_that_came_meanwhile_together() -> None:
    chunks = Chunks()
    async with gathered(aiter(chunks)) as batches:
        chunks.come(b"one\n")
        assert await anext(batches) == b"one\n"
        chunks.come(b"two\n", b"three\n", b"fo", b"ur\n", None)
        await rest()
        assert [batch async for batch in batches] == [b"two\nthree\nfour\n"]


async def test_what_ends_it_is_raised_after_all_that_came_before() -> None:
    chunks = Chunks()
    chunks.come(b"last\n", Unavailable("The node is gone."))
    async with gathered(aiter(chunks)) as batches:
        await rest()
        assert await anext(batches) == b"last\n"
        with pytest.raises(Unavailable):
            await anext(batches)


async def test_many_small_chunks_are_few_batches() -> None:
    """A fact is a chunk: however many come at once are stored at once."""
    chunks = Chunks()
    chunks.come(*[b"fact\n"] * 1000, None)
    async with gathered(aiter(chunks)) as batches:
        await rest()
        assert [len(batch) async for batch in batches] == [5000]


async def test_no_more_than_a_batch_is_read_ahead() -> None:
    """Whoever sends waits then, and goes on when it was taken."""
    chunks = Chunks()
    large = b"x" * (BATCH_BYTES // 2)
    chunks.come(*[large] * 5, None)
    async with gathered(aiter(chunks)) as batches:
        await rest()
        assert chunks.read == 2
        assert [len(batch) async for batch in batches] == [BATCH_BYTES, BATCH_BYTES, len(large)]
        assert chunks.read == 5


async def test_leaving_it_ends_the_reading() -> None:
    """Also while it waits for what it has read to be taken."""
    before = asyncio.all_tasks()
    chunks = Chunks()
    chunks.come(b"x" * BATCH_BYTES, b"x")
    async with gathered(aiter(chunks)):
        await rest()
    assert asyncio.all_tasks() == before


async def test_a_pace_lets_the_first_go_by_and_then_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without delay as many as it says, then each so much later than the one before."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    pace = Pace(at_once=3, every_s=3600)
    for _ in range(3):
        await pace.wait()
    assert slept == []
    for _ in range(2):
        await pace.wait()
    assert slept == [pytest.approx(3600, abs=60), pytest.approx(7200, abs=60)]
