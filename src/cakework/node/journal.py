"""The journal: every fact of this node, in order, until the server has confirmed it.

Facts are JSON lines in segment files named by their first cursor; a segment begins with a
header line. Appending writes at once, so a killed node loses nothing it has said. A segment
goes when all of it is confirmed and a newer one has begun; its header carries on what must be
remembered of those gone: the last line number of each source, of those that have ended as long
as there are not too many.

    journal/00000000000000000001.ndjson    {"header": {"sources": {…}, "ended": {…}}}
                                           {"cursor": 1, "kind": "vm.line", …}
                                           …

Cursors only grow. After a restart of the host, whose crash may have taken the last writes,
they go on after a gap, so that no cursor ever stands for two facts.
"""

import asyncio
import contextlib
import json
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from cakework.domain.facts import (
    FACT,
    AnyFact,
    BuildFailed,
    BuildLine,
    BuildSucceeded,
    ImportFailed,
    ImportSucceeded,
    VmLine,
    VmStarted,
)

SEGMENT_BYTES = 8 * 1024 * 1024
BACKLOG_BYTES = 512 * 1024 * 1024
"""Beyond this much unconfirmed, sources of lines have to wait (:meth:`Journal.room`)."""
READ_BYTES = 256 * 1024
HOST_RESTART_GAP = 1_000_000
MOST_ENDED = 10_000
PARTIAL = ".partial"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

OfBuilds = BuildLine | BuildSucceeded | BuildFailed


class Journal:
    """The journal of one node, in one folder. Made by :meth:`open`; used by one event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1
        self._segments: list[tuple[int, Path]] = []
        self._segment_bytes = 0
        self._bytes = 0
        self._sources: dict[str, int] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._grown = asyncio.Event()
        self._shrunk = asyncio.Event()
        self.cursor = 0

    @classmethod
    def open(cls, folder: Path) -> "Journal":
        """Open the journal in ``folder``, making it if need be; cut off a half-written end."""
        folder.mkdir(parents=True, exist_ok=True)
        journal = cls(folder)
        for path in sorted(folder.glob("*.ndjson")):
            journal._find(path)
        if journal._segments:
            journal._read_through(journal._segments[-1][1])
        boot = BOOT_ID.read_text()
        if journal._segments and not journal._was_open_during(boot):
            journal.cursor += HOST_RESTART_GAP
        journal._begin_segment()
        (folder / "boot_id").write_text(boot)
        return journal

    def append(self, fact: AnyFact) -> None:
        """Write one fact, giving it the next cursor."""
        self.extend((fact,))

    def extend(self, facts: Iterable[AnyFact]) -> None:
        """Write facts in order, giving them the next cursors: all of them, or none.

        Raises:
            OSError: they could not be written.
        """
        numbered = [
            fact.model_copy(update={"cursor": cursor})
            for cursor, fact in enumerate(facts, self.cursor + 1)
        ]
        if not numbered:
            return
        self._write("".join(fact.model_dump_json() + "\n" for fact in numbered).encode())
        self.cursor = numbered[-1].cursor
        for fact in numbered:
            self._note(fact)
        if self._segment_bytes >= SEGMENT_BYTES:
            # What was to be written is; a new segment is tried again with the next facts.
            with contextlib.suppress(OSError):
                self._begin_segment()
        self.wake()

    def last_seq(self, source: str) -> int:
        """Return the number of the last line recorded of a VM or build; 0 for none."""
        return self._sources.get(source) or self._ended.get(source, 0)

    def confirm(self, cursor: int) -> None:
        """Forget what lies at or before ``cursor``, as far as whole segments go."""
        while len(self._segments) > 1 and self._segments[1][0] - 1 <= cursor:
            _, path = self._segments.pop(0)
            self._bytes -= path.stat().st_size
            path.unlink()
        if self._bytes < BACKLOG_BYTES:
            self._shrunk.set()

    async def room(self) -> None:
        """Return when the unconfirmed backlog is within its bound."""
        while self._bytes >= BACKLOG_BYTES:
            self._shrunk.clear()
            await self._shrunk.wait()

    async def stream(self, after: int, heartbeat_s: float = 10) -> AsyncIterator[bytes]:
        """Yield all facts above ``after``, then those to come, as whole lines of JSON.

        An empty line is a heartbeat, an empty chunk follows each :meth:`wake`. Reads the
        files, so that any number of bytes may lie between reader and writer without taking
        memory.
        """
        first, file = self._open_segment(after)
        try:
            while True:
                grown = self._grown
                if chunk := _whole_lines(file):
                    if kept := _above(chunk, after):
                        yield kept
                elif (newer := self._segment_after(first)) is not None:
                    file.close()
                    first, file = newer, self._open(newer)
                else:
                    yield b"" if await _set_within(grown, heartbeat_s) else b"\n"
        finally:
            file.close()

    def close(self) -> None:
        """Make all of it durable and close it."""
        os.fdatasync(self._fd)
        os.close(self._fd)

    def _open_segment(self, after: int) -> tuple[int, BinaryIO]:
        """Open the segment that has the fact following ``after``, or the oldest there is."""
        firsts = [first for first, _ in self._segments]
        first = max((first for first in firsts if first <= after + 1), default=firsts[0])
        return first, self._open(first)

    def _open(self, first: int) -> BinaryIO:
        file = self._path(first).open("rb")
        file.readline()
        return file

    def _segment_after(self, first: int) -> int | None:
        return next((newer for newer, _ in self._segments if newer > first), None)

    def _path(self, first: int) -> Path:
        return self._folder / f"{first:020d}.ndjson"

    def _find(self, path: Path) -> None:
        """Take on a segment; one that was lost with its header, by a crash of the host, goes."""
        self.cursor = max(self.cursor, int(path.stem) - 1)
        with path.open("rb") as file:
            header = _parsed(file.readline())
        if header is None:
            path.unlink()
            return
        self._sources = dict(header["header"]["sources"])
        self._ended = OrderedDict(header["header"].get("ended", {}))
        self._segments.append((int(path.stem), path))
        self._bytes += path.stat().st_size

    def _read_through(self, path: Path) -> None:
        """Go through the newest segment, and cut off its end from where it is not whole."""
        with path.open("r+b") as file:
            whole = len(file.readline())
            for line in file:
                if (fact := _parsed(line)) is None:
                    break
                whole += len(line)
                self.cursor = fact["cursor"]
                self._note(FACT.validate_python(fact))
            self._bytes -= file.seek(0, os.SEEK_END) - file.truncate(whole)

    def _was_open_during(self, boot: str) -> bool:
        marker = self._folder / "boot_id"
        return marker.exists() and marker.read_text() == boot

    def _begin_segment(self) -> None:
        """Begin a segment, unless the newest is still empty; all of it is there, or nothing."""
        first = self.cursor + 1
        path = self._path(first)
        partial = path.with_suffix(PARTIAL)
        header = {"header": {"sources": self._sources, "ended": self._ended}}
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            size = _write_all(fd, json.dumps(header).encode() + b"\n", 0)
            if self._segments and self._segments[-1][0] == first:
                self._bytes -= self._segments.pop()[1].stat().st_size
            partial.rename(path)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            self.close()
        self._fd, self._segment_bytes = fd, size
        self._segments.append((first, path))
        self._bytes += size

    def _write(self, data: bytes) -> None:
        """Write all of ``data`` behind what is there; if that fails, nothing of it."""
        try:
            _write_all(self._fd, data, self._segment_bytes)
        except BaseException:
            os.ftruncate(self._fd, self._segment_bytes)
            raise
        self._segment_bytes += len(data)
        self._bytes += len(data)

    def _note(self, fact: AnyFact) -> None:
        if isinstance(fact, ImportSucceeded | ImportFailed):
            return
        source = (
            fact.build_id
            if isinstance(fact, BuildLine | BuildSucceeded | BuildFailed)
            else fact.vm_id
        )
        if isinstance(fact, VmLine | BuildLine):
            self._ended.pop(source, None)
            self._sources[source] = fact.seq
        elif not isinstance(fact, VmStarted) and source in self._sources:
            self._ended[source] = self._sources.pop(source)
            if len(self._ended) > MOST_ENDED:
                self._ended.popitem(last=False)

    def wake(self) -> None:
        """Let every reader look again."""
        self._grown.set()
        self._grown = asyncio.Event()


def _write_all(fd: int, data: bytes, at: int) -> int:
    """Write ``data`` at offset ``at`` of ``fd``; return its length."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
    return len(data)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return what a line holds; None when its end, or what it was to hold, is not there."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _whole_lines(file: BinaryIO) -> bytes:
    """Read on in ``file``, up to the end of a line; nothing when there is no whole line."""
    chunk = file.read(READ_BYTES)
    if chunk and not chunk.endswith(b"\n"):
        chunk += file.readline()
    return chunk


def _above(chunk: bytes, cursor: int) -> bytes:
    """Cut the facts at or before ``cursor`` off the front of ``chunk``."""
    start = 0
    while start < len(chunk) and _cursor_at(chunk, start) <= cursor:
        start = chunk.index(b"\n", start) + 1
    return chunk[start:]


def _cursor_at(chunk: bytes, start: int) -> int:
    begin = start + len(b'{"cursor":')
    return int(chunk[begin : chunk.index(b",", begin)])


async def _set_within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    return True
