"""The journal: every fact of this node, in order, until the server has confirmed it.

Facts are JSON lines in segment files named by their first cursor; a segment begins with a
header line. Appending writes at once, so a killed node loses nothing it has said. A segment
goes when all of it is confirmed and a newer one has begun; its header carries on what must be
remembered of those gone: the last line number of each source that may still speak.

    journal/00000000000000000001.ndjson    {"header": {"sources": {…}}}
                                           {"cursor": 1, "kind": "vm.line", …}
                                           …

Cursors only grow. After a restart of the host, whose crash may have taken the last writes,
they go on after a gap, so that no cursor ever stands for two facts.
"""

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import BinaryIO

from cakework.domain.facts import AnyFact, BuildLine, VmLine

SEGMENT_BYTES = 8 * 1024 * 1024
BACKLOG_BYTES = 512 * 1024 * 1024
"""Beyond this much unconfirmed, sources of lines have to wait (:meth:`Journal.room`)."""
READ_BYTES = 256 * 1024
HOST_RESTART_GAP = 1_000_000
MOST_SOURCES = 10_000
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Journal:
    """The journal of one node, in one folder. Made by :meth:`open`; used by one event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1
        self._segments: list[tuple[int, Path]] = []
        self._segment_bytes = 0
        self._bytes = 0
        self._sources: OrderedDict[str, int] = OrderedDict()
        self._grown = asyncio.Event()
        self._shrunk = asyncio.Event()
        self.cursor = 0

    @classmethod
    def open(cls, folder: Path) -> "Journal":
        """Open the journal in ``folder``, making it if need be; cut off a half-written end."""
        folder.mkdir(parents=True, exist_ok=True)
        journal = cls(folder)
        for path in sorted(folder.glob("*.ndjson")):
            journal._recover(path)
        journal._skip_after_host_restart()
        journal._begin_segment()
        return journal

    def append(self, fact: AnyFact) -> None:
        """Write one fact, giving it the next cursor."""
        self.extend((fact,))

    def extend(self, facts: Iterable[AnyFact]) -> None:
        """Write facts in order, giving them the next cursors."""
        lines: list[str] = []
        for fact in facts:
            self.cursor += 1
            self._note(fact)
            lines.append(fact.model_copy(update={"cursor": self.cursor}).model_dump_json())
        if not lines:
            return
        self._write(("\n".join(lines) + "\n").encode())
        if self._segment_bytes >= SEGMENT_BYTES:
            self._begin_segment()
        self.wake()

    def last_seq(self, source: str) -> int:
        """Return the number of the last line recorded of a VM or build; 0 for none."""
        return self._sources.get(source, 0)

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

        An empty line is a heartbeat. Reads the files, so that any number of bytes may lie
        between reader and writer without taking memory.
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
                elif not await _set_within(grown, heartbeat_s):
                    yield b"\n"
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

    def _recover(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.truncate(path, whole)
        first = int(path.stem)
        lines = data[:whole].splitlines()
        if not lines:
            path.unlink()
            return
        self._sources.update(json.loads(lines[0])["header"]["sources"])
        self.cursor = max(self.cursor, first - 1)
        for line in lines[1:]:
            fact = json.loads(line)
            self.cursor = fact["cursor"]
            if fact["kind"] in ("vm.line", "build.line"):
                self._sources[fact.get("vm_id") or fact["build_id"]] = fact["seq"]
        self._segments.append((first, path))
        self._bytes += whole

    def _skip_after_host_restart(self) -> None:
        marker, boot = self._folder / "boot_id", BOOT_ID.read_text()
        if self._segments and (not marker.exists() or marker.read_text() != boot):
            self.cursor += HOST_RESTART_GAP
        marker.write_text(boot)

    def _begin_segment(self) -> None:
        if self._fd >= 0:
            self.close()
        first = self.cursor + 1
        path = self._path(first)
        self._segments = [segment for segment in self._segments if segment[0] != first]
        self._segments.append((first, path))
        self._segment_bytes = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        header = {"header": {"sources": dict(self._sources)}}
        self._write(json.dumps(header).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._segment_bytes += len(data)
        self._bytes += len(data)

    def _note(self, fact: AnyFact) -> None:
        if isinstance(fact, VmLine | BuildLine):
            source = fact.vm_id if isinstance(fact, VmLine) else fact.build_id
            self._sources[source] = fact.seq
            self._sources.move_to_end(source)
            if len(self._sources) > MOST_SOURCES:
                self._sources.popitem(last=False)

    def wake(self) -> None:
        """Let every reader look again."""
        self._grown.set()
        self._grown = asyncio.Event()


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
