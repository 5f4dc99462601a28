"""Bodies of transforms: how long who sends is waited for. The loop's time is the test's."""

import asyncio
import math

import pytest
from starlette.types import Message

from cakework.domain.errors import TooSlow
from cakework.server.transforms.formats import JsonLines
from cakework.server.transforms.sources import BYTES_PER_S, FIRST_S, Body

pytestmark = pytest.mark.anyio
LATE_S = FIRST_S * 2 / 3


class Sender:
    """Sends pieces, each ``LATE_S`` after it is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
        self.now_s = 1000.0
        self.may = asyncio.Semaphore(0)
        self.piece = piece
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now_s)

    async def receive(self) -> Message:
        """Return the next piece."""
        await self.may.acquire()
        self.now_s += LATE_S
        return {"type": "http.request", "body": self.piece, "more_body": True}

    async def taken(self, body: Body) -> list[bytes]:
        """Wait for a record, then have one come."""
        taking = asyncio.create_task(body.take(1))
        await asyncio.sleep(0)
        self.may.release()
        return await taking


async def paced(size: int) -> None:
    """Wait for nothing."""


async def test_a_sender_is_waited_for_so_long_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record comes in time, and all together too slowly."""
    sender = Sender(monkeypatch, b"1\n")
    body = Body(sender.receive, JsonLines(), paced, lambda: 0.0)
    reading = asyncio.create_task(body.run())
    assert await sender.taken(body) == [b"1"]
    with pytest.raises(TooSlow):
        await sender.taken(body)
    reading.cancel()


async def test_time_of_the_handler_is_not_the_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    """While records are at work, who sends may wait for what becomes of them."""
    sender = Sender(monkeypatch, b"1\n")
    body = Body(sender.receive, JsonLines(), paced, lambda: math.inf)
    reading = asyncio.create_task(body.run())
    for _ in range(20):
        assert await sender.taken(body) == [b"1"]
    reading.cancel()


async def test_who_sends_more_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow line is fast enough for a large body."""
    sender = Sender(monkeypatch, b'"%b"\n' % (b"a" * (round(LATE_S * BYTES_PER_S) >> 2)))
    body = Body(sender.receive, JsonLines(), paced, lambda: 0.0)
    reading = asyncio.create_task(body.run())
    for _ in range(2):
        assert len(await sender.taken(body)) == 1
    reading.cancel()
