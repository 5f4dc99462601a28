"""A build's log: numbered lines, told to the journal as they appear."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from cakework.domain.facts import AnyChange, AnyLine, BuildLine, Stream

LINE_BYTES_MAX = 16_384
LINE_OVERHEAD_BYTES = 100
"""What a line costs beside its text wherever it is kept; counted, so that a great many empty
lines are bounded too."""
TAIL_BYTES = 16_384
MORE = "[cakework: the build prints more than is kept; the rest is dropped]"


class Source(Protocol):
    """Where the lines of one build go: see :class:`cakework.node.journal.Source`."""

    @property
    def last_seq(self) -> int:
        """The number of the last line taken, while the build has not ended; 0 for none."""
        ...

    def extend(self, lines: Sequence[AnyLine]) -> int:
        """Take lines; return the bytes that they take."""
        ...

    async def room(self) -> None:
        """Return when there may be more."""
        ...


class Changes(Protocol):
    """Where facts go: the node's journal. What it has taken, a crash of the node leaves there."""

    def append(self, fact: AnyChange) -> None:
        """Take one fact."""
        ...


class Facts(Changes, Protocol):
    """Where facts and lines go: the node's journal."""

    def source(self, source: str, account: str) -> Source:
        """Return where the lines of a build of that id and account go."""
        ...


class BuildLog:
    """The lines of one build; ``limit_bytes`` bounds what is kept of the program's output.

    When the build was begun before, by a node that was killed, numbering goes on from there.
    """

    def __init__(self, build_id: str, source: Source, limit_bytes: int) -> None:
        self._build_id = build_id
        self._source = source
        self._left = limit_bytes
        self._full = False
        self._seq = source.last_seq

    def say(self, text: str, stream: Stream = "stdout") -> None:
        """Add a line of the platform's own."""
        self._seq += 1
        line = BuildLine(
            build_id=self._build_id, seq=self._seq, stream=stream, text=text, at_ms=now_ms()
        )
        self._source.extend([line])

    async def room(self) -> None:
        """Return when there may be more output: the server takes it more slowly than it comes."""
        await self._source.room()

    def output(self, text: str, stream: Stream) -> None:
        """Add a line that the build printed, if there is room for it."""
        if self._full:
            return
        self._left -= len(text.encode()) + LINE_OVERHEAD_BYTES
        if self._left < 0:
            self._full = True
            self.say(MORE, "stderr")
            return
        self.say(text, stream)

    @property
    def full(self) -> bool:
        """Whether further output is dropped."""
        return self._full


class LineSplitter:
    """Cuts one stream of bytes into lines for a log; remembers the end of what went by."""

    def __init__(self, log: BuildLog, stream: Stream, keep: Callable[[str], bool]) -> None:
        self._log = log
        self._stream: Stream = stream
        self._keep = keep
        self._rest = b""
        self._tail = b""

    async def feed(self, chunk: bytes) -> None:
        """Take the next bytes, when there is room for them."""
        await self._log.room()
        self._tail = (self._tail + chunk)[-TAIL_BYTES:]
        if self._log.full:
            return
        *lines, rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._line(line)
        while len(rest) > LINE_BYTES_MAX:
            self._line(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        self._rest = rest

    def finish(self) -> str:
        """Take what is left as a line, and return the last of all that went by."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        return self._tail.decode(errors="replace")

    def _line(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LINE_BYTES_MAX):
            text = line[start : start + LINE_BYTES_MAX].decode(errors="replace").rstrip("\r")
            if self._keep(text):
                self._log.output(text, self._stream)


def is_for_people(line: str) -> bool:
    """Say whether a line says something to whoever builds, rather than to the host's operator."""
    return not line.startswith(('time="', "level="))


def now_ms() -> int:
    """Return the time in unix milliseconds."""
    return time.time_ns() // 1_000_000
