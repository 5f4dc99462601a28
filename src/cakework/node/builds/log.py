"""A build's log: numbered lines, each on disk before it is told.

After a restart of the node numbering goes on where the file ends. The file's last line is
told again then, as it may have been written but not told; it keeps its number, so whoever
stores lines by number stores it once.
"""

import time
from collections.abc import Callable
from pathlib import Path

from cakework.domain.facts import AnyFact, BuildLine, Stream

LINE_BYTES_MAX = 16_384
LINE_OVERHEAD_BYTES = 100
"""What a line costs beside its text wherever it is kept; counted, so that a great many empty
lines are bounded too."""
TAIL_BYTES = 16_384
MORE = "[cakework: the build prints more than is kept; the rest is dropped]"

Emit = Callable[[AnyFact], None]


class BuildLog:
    """The lines of one build; ``limit_bytes`` bounds what is kept of the program's output."""

    def __init__(self, build_id: str, file: Path, emit: Emit, limit_bytes: int) -> None:
        self._build_id = build_id
        self._emit = emit
        self._left = limit_bytes
        self._full = False
        self._seq = 0
        self._resume(file)
        self._file = file.open("ab", buffering=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def say(self, text: str, stream: Stream = "stdout") -> None:
        """Add a line of the platform's own."""
        self._seq += 1
        line = BuildLine(
            build_id=self._build_id, seq=self._seq, stream=stream, text=text, at_ms=now_ms()
        )
        self._file.write(line.model_dump_json().encode() + b"\n")
        self._emit(line)

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

    def _resume(self, file: Path) -> None:
        if not file.exists():
            return
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with file.open("r+b") as stream:
                stream.truncate(len(whole))
        lines = whole.splitlines()
        self._left -= len(whole)
        if lines:
            last = BuildLine.model_validate_json(lines[-1])
            self._seq = last.seq
            self._emit(last)


class LineSplitter:
    """Cuts one stream of bytes into lines for a log; remembers the end of what went by."""

    def __init__(self, log: BuildLog, stream: Stream, keep: Callable[[str], bool]) -> None:
        self._log = log
        self._stream: Stream = stream
        self._keep = keep
        self._rest = b""
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
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


def now_ms() -> int:
    """Return the time in unix milliseconds."""
    return time.time_ns() // 1_000_000
