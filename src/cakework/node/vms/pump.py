"""The pump: lines from a guest into the journal, acknowledged once they are there.

A program that prints without end is slowed down, not lost: beyond its rate the pump stops
reading for a while, the guest's buffer fills, and then the program waits.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable

from cakework.domain.facts import VmLine
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.protocol import Ack, GuestError, GuestFrame, Line
from cakework.node.journal import Journal

LINES_PER_S = 2_000.0
BYTES_PER_S = 1 << 20
BURST_S = 5.0
"""A VM may use up so many seconds' worth of its rate at once."""
NEWEST_LINES, NEWEST_CHARACTERS = 5, 300


class Pump:
    """Moves the lines of one run of a VM; ``before`` is how many lines earlier runs had, less the
    ``saved`` ones that the program had printed when it was saved, if it was restored.

    :meth:`receive` gives what is not a line; ``newest`` has the beginnings of the last ones.
    """

    def __init__(
        self, vm_id: str, channel: GuestChannel, journal: Journal, before: int, saved: int = 0
    ) -> None:
        self._vm_id = vm_id
        self._before = before
        self._saved = saved
        self._channel = channel
        self._journal = journal
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
        await self._journal.room()
        frames = await self._channel.receive_all()
        if not frames:
            return None
        lines = [frame for frame in frames if isinstance(frame, Line)]
        if new := self._new(lines):
            self._journal.extend(new)
            self.newest.extend(line.text[:NEWEST_CHARACTERS] for line in new)
            await self._channel.send(Ack(new[-1].seq - self._before))
        if lines:
            # Also for those sent again, which a guest may do for ever.
            await self._keep_to_rate(lines)
        return [frame for frame in frames if not isinstance(frame, Line)]

    def _new(self, lines: Iterable[Line]) -> list[VmLine]:
        """Return the lines not recorded yet, as facts; those sent again are left out."""
        # The journal forgets at last what ended long ago.
        last = max(self._journal.last_seq(self._vm_id), self._before + self._saved)
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

    async def _keep_to_rate(self, lines: list[Line]) -> None:
        now = time.monotonic()
        cost = len(lines) / LINES_PER_S + sum(len(line.text) for line in lines) / BYTES_PER_S
        self._debt_s = max(0.0, self._debt_s - (now - self._at)) + cost
        self._at = now
        if self._debt_s > BURST_S:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._debt_s - BURST_S)
