"""The lines of all sources on their way to the server: each source held back by itself, all
drained in turns.

A source's lines lie in its spool until the server has confirmed them. A reader is given some
of one source, then of one of another account, and so on, so that a source that prints without
end delays nobody's lines but its own; and no more than WINDOW_BYTES are on their way at once,
so that whoever begins to print waits behind no more than that.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cakework.domain.facts import AnyLine
from cakework.node.ndjson import set_within
from cakework.node.rotation import Rotation
from cakework.node.spool import SUFFIX, Place, Spool

BACKLOG_BYTES = 512 * 1024 * 1024
"""What the lines of all sources together stay below, as they are written."""
SHARE = 16
"""A source has to wait when it has as much as one in so many of the bytes that are still free:
with n sources that print without end each has BACKLOG_BYTES / (SHARE + n), and so much is always
left for one that has none. (Choudhury and Hahne, Dynamic queue length thresholds, 1998.)"""
ACCOUNT_SHARE = 1
"""So has an account's every source when they have as much together as one in so many of the bytes
that are still free, however many they are: with n accounts that print without end each has
BACKLOG_BYTES / (ACCOUNT_SHARE + n)."""
TURN_BYTES = 64 * 1024
WINDOW_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class _Sent:
    spool: Spool
    last: int
    size: int


class _Reader:
    """What one reader has been given of each source, and whose turn is next."""

    def __init__(self, spools: Mapping[str, Spool]) -> None:
        self._spools = spools
        self._turns: Rotation[str] = Rotation()
        self._waiting: set[str] = set()
        self._places: dict[str, Place] = {}
        self._sent: deque[_Sent] = deque()
        self._under_way = 0
        for spool in spools.values():
            self.look_at(spool)

    def look_at(self, spool: Spool) -> None:
        """There may be more of a source."""
        place = self._places.get(spool.source)
        has = spool.confirmed if place is None else place.last
        if has < spool.last and spool.source not in self._waiting:
            self._waiting.add(spool.source)
            self._turns.add(spool.account, spool.source)

    def forget(self, source: str) -> None:
        """Nothing is left of a source."""
        self._places.pop(source, None)

    def next(self) -> bytes:
        """Return what the next source has, up to a turn's worth; nothing when there is nothing to
        give, or too much under way."""
        while self._sent and self._sent[0].last <= self._sent[0].spool.confirmed:
            self._under_way -= self._sent.popleft().size
        while self._under_way < WINDOW_BYTES and (source := self._turns.take()) is not None:
            self._waiting.discard(source)
            spool = self._spools.get(source)
            if spool is not None and (chunk := self._read(spool)):
                return chunk
        return b""

    def _read(self, spool: Spool) -> bytes:
        place = self._places.setdefault(spool.source, spool.place())
        chunk = spool.read(place, TURN_BYTES)
        self._sent.append(_Sent(spool, place.last, len(chunk)))
        self._under_way += len(chunk)
        self.look_at(spool)
        return chunk


class Lines:
    """The lines of all sources of a node, below one folder. Used by one event loop.

    ``unconfirmed`` is how many bytes of them the server has not confirmed, as they were written.
    Readers are given none while they are ``withheld``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spools: dict[str, Spool] = {}
        self._readers: set[_Reader] = set()
        self._changed = asyncio.Event()
        self._shrunk = asyncio.Event()
        self._by_account: Counter[str] = Counter()
        self.unconfirmed = 0
        self.withheld = False

    @classmethod
    def open(cls, folder: Path, *, doubtful: bool) -> "Lines":
        """Open what is in ``folder``, making it if need be. For ``doubtful`` see Spool.find."""
        folder.mkdir(exist_ok=True)
        lines = cls(folder)
        for path in folder.glob(f"*{SUFFIX}"):
            if spool := Spool.find(path, doubtful=doubtful):
                lines._spools[spool.source] = spool
                lines._count(spool.account, spool.unconfirmed)
        return lines

    def last_seq(self, source: str) -> int:
        """Return the number of the last line that is remembered of a source; 0 for none."""
        return self._spools[source].last if source in self._spools else 0

    def confirmed(self, source: str, seq: int) -> bool:
        """Whether the server has the lines of a source up to number ``seq``."""
        return source not in self._spools or self._spools[source].confirmed >= seq

    def extend(self, source: str, account: str, lines: Sequence[AnyLine]) -> int:
        """Take lines of a source, which go on where its last ended; return the bytes they take.

        Raises:
            OSError: they could not be written; none was taken.
        """
        if not lines:
            return 0
        spool = self._spools.get(source)
        if spool is None:
            folder = Spool.folder_of(self._folder, source)
            spool = Spool(folder, source, account, lines[0].seq - 1)
        size = spool.extend(lines)
        self._spools[source] = spool
        self._count(spool.account, size)
        for reader in self._readers:
            reader.look_at(spool)
        self.wake()
        return size

    def full(self, source: str, account: str) -> bool:
        """Whether a source, or its account, has as much unconfirmed as it may have; an account with
        nothing never has."""
        free = BACKLOG_BYTES - self.unconfirmed
        own = self._by_account[account]
        if own > 0 and own >= free / ACCOUNT_SHARE:
            return True
        spool = self._spools.get(source)
        return spool is not None and spool.unconfirmed > 0 and spool.unconfirmed >= free / SHARE

    async def room(self, source: str, account: str) -> None:
        """Return when a source is not full."""
        while self.full(source, account):
            await self._shrunk.wait()

    def confirm(self, seqs: Mapping[str, int]) -> None:
        """The server has the lines of these sources up to these numbers."""
        for source, seq in seqs.items():
            if spool := self._spools.get(source):
                before = spool.unconfirmed
                spool.confirm(seq)
                self._count(spool.account, spool.unconfirmed - before)
                self._let_go(spool)
        self._shrunk.set()
        self._shrunk = asyncio.Event()
        self.wake()

    def end(self, source: str) -> None:
        """A source has ended: when all of it is confirmed, none of it is kept."""
        if spool := self._spools.get(source):
            spool.ended = True
            self._let_go(spool)

    async def stream(self, heartbeat_s: float = 10) -> AsyncGenerator[bytes]:
        """Yield all lines that are not confirmed, then those to come, as whole lines of JSON.

        An empty line is a heartbeat, an empty chunk follows each :meth:`wake`.
        """
        reader = _Reader(self._spools)
        self._readers.add(reader)
        try:
            while True:
                changed = self._changed
                if not self.withheld and (chunk := reader.next()):
                    yield chunk
                else:
                    yield b"" if await set_within(changed, heartbeat_s) else b"\n"
        finally:
            self._readers.discard(reader)

    def wake(self) -> None:
        """Let every reader look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _count(self, account: str, size: int) -> None:
        """Count so many bytes more of an account's as unconfirmed, or less."""
        self.unconfirmed += size
        self._by_account[account] += size
        if not self._by_account[account]:
            del self._by_account[account]

    def _let_go(self, spool: Spool) -> None:
        if spool.ended and spool.settled:
            del self._spools[spool.source]
            spool.remove()
            for reader in self._readers:
                reader.forget(spool.source)
