"""The pump: lines from a guest into the journal, acknowledged once they are there.

A program that prints without end is slowed down, not lost: beyond its rate, and when more of its
lines than may be are not with the server yet, the pump stops reading for a while, the guest's
buffer fills, and then the program waits.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from cakework.domain.facts import AnyLine, VmLine
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.protocol import Ack, GuestError, GuestFrame, Line

LINES_PER_S = 2_000.0
BYTES_PER_S = 1 << 20
"""Counted as they are written: a control character is six."""
BURST_S = 5.0
"""A VM may use up so many seconds' worth of its rate at once."""
NEWEST_LINES, NEWEST_CHARACTERS = 5, 300


class Source(Protocol):
    """Where the lines of one VM go: see :class:`cakework.node.journal.Source`."""

    @property
    def last_seq(self) -> int:
        """The number of the last line taken; 0 for none that is known."""
        ...

    def extend(self, lines: Sequence[AnyLine]) -> int:
        """Take lines; return the bytes that they take."""
        ...

    @property
    def full(self) -> bool:
        """Whether there may be no more for now."""
        ...

    async def room(self) -> None:
        """Return when it is not full."""
        ...


class Pump:
    """Moves the lines of one run of the VM ``vm_id`` to ``source``; ``before`` is how many lines
    earlier runs had, less the ``saved`` ones that the program had printed when it was saved, if it
    was restored.

    :meth:`receive` gives what is not a line; ``newest`` has the beginnings of the last ones.
    """

    def __init__(
        self, vm_id: str, channel: GuestChannel, source: Source, before: int, saved: int = 0
    ) -> None:
        self._vm_id = vm_id
        self._before = before
        self._saved = saved
        self._channel = channel
        self._source = source
        self.newest: deque[str] = deque(maxlen=NEWEST_LINES)
        self._hurry = asyncio.Event()
        self._debt_s = 0.0
        self._at = time.monotonic()

    def hurry(self) -> None:
        """Take what is still to come at any rate: nothing prints any more."""
        self._hurry.set()

    async def receive(self) -> list[GuestFrame] | None:
        """Wait for frames, record the lines among them, and return the others.

        None when the connection has ended.

        Raises:
            GuestError: the guest broke the protocol.
        """
        await self._room()
        frames = await self._channel.receive_all()
        if not frames:
            return None
        lines = [frame for frame in frames if isinstance(frame, Line)]
        size = sum(len(line.text) for line in lines)
        if new := self._new(lines):
            size = max(size, self._source.extend(new))
            self.newest.extend(line.text[:NEWEST_CHARACTERS] for line in new)
            await self._channel.send(Ack(new[-1].seq - self._before))
        if lines:
            # Also for those sent again, which a guest may do for ever.
            await self._keep_to_rate(len(lines), size)
        return [frame for frame in frames if not isinstance(frame, Line)]

    def _new(self, lines: Iterable[Line]) -> list[VmLine]:
        """Return the lines not recorded yet, as facts; those sent again are left out."""
        # The journal forgets at last what ended long ago.
        last = max(self._source.last_seq, self._before + self._saved)
        now_ms = time.time_ns() // 1_000_000
        facts: list[VmLine] = []
        for line in lines:
            seq = self._before + line.number
            if seq <= last:
                continue
            if seq != last + 1:
                raise GuestError(f"the guest sent line {seq} after line {last}")
            last = seq
            facts.append(
                VmLine(
                    at_ms=min(line.time_ns // 1_000_000, now_ms),
                    vm_id=self._vm_id,
                    seq=seq,
                    stream=line.stream,
                    text=line.text.decode("utf-8", "replace"),
                )
            )
        return facts

    async def _room(self) -> None:
        """Wait until the source may have more, or nothing prints any more."""
        if self._hurry.is_set() or not self._source.full:
            return
        tasks = {asyncio.ensure_future(each) for each in (self._source.room(), self._hurry.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _keep_to_rate(self, lines: int, size: int) -> None:
        now = time.monotonic()
        cost = lines / LINES_PER_S + size / BYTES_PER_S
        self._debt_s = max(0.0, self._debt_s - (now - self._at)) + cost
        self._at = now
        if self._debt_s > BURST_S:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._debt_s - BURST_S)
