"""The journal: every change of state on this node, in order, until the server has confirmed it,
and beside it the lines that its sources print (:mod:`.lines`), which delay no change of state.

Facts are JSON lines in segment files named by their first cursor; a segment begins with a
header line. Appending writes at once, so a killed node loses nothing it has said. A segment
goes when all of it is confirmed and a newer one has begun; its header carries on what must be
remembered of those gone.

    journal/00000000000000000001.ndjson    {"header": {"ended": {…}, "held": {…}, …}}
                                           {"cursor": 1, "kind": "vm.started", …}
                                           {"held": 2, "after": 17, "fact": {…}}
                                           …
    journal/lines/                         see spool.py

Whoever is told that a source has ended finds its whole log. So the end of one whose lines are not
all confirmed is *held*: written at once, with a cursor of its own, and told, with another one, when
the server has its last line. Facts about a source of which something is held are held too.

Cursors only grow. After a restart of the host, whose crash may have taken the last writes,
they go on after a gap, so that no cursor ever stands for two facts.
"""

import asyncio
import contextlib
import json
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cakework.domain.facts import (
    CHANGE,
    FACT,
    AnyChange,
    AnyFact,
    AnyLine,
    BuildFailed,
    BuildLine,
    BuildSucceeded,
    ImportFailed,
    ImportSucceeded,
    SnapshotMade,
    VmLine,
    VmStarted,
)
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.lines import Lines
from cakework.node.ndjson import parsed, set_within, write_all

SEGMENT_BYTES = 8 * 1024 * 1024
READ_BYTES = 256 * 1024
HOST_RESTART_GAP = 1_000_000
MOST_ENDED = 10_000
PARTIAL = ".partial"
LINES = "lines"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class _Held:
    """A fact that is told when the server has line ``after`` of its source."""

    source: str
    after: int
    fact: AnyChange


class Source:
    """One source of lines, for whoever takes them in: a VM or a build."""

    def __init__(self, journal: "Journal", lines: Lines, source: str, account: str) -> None:
        self._journal = journal
        self._lines = lines
        self._source = source
        self._account = account

    @property
    def last_seq(self) -> int:
        """The number of the last line taken of it, as far as that is remembered; 0 for none."""
        return self._journal.last_seq(self._source)

    def extend(self, lines: Sequence[AnyLine]) -> int:
        """Write lines, which go on where the last ended: all of them, or none.

        Returns the bytes that they take.

        Raises:
            OSError: they could not be written.
        """
        return self._lines.extend(self._source, self._account, lines)

    @property
    def full(self) -> bool:
        """Whether it has as much unconfirmed as it may have, or its account has."""
        return self._lines.full(self._source, self._account)

    async def room(self) -> None:
        """Return when it is not full."""
        await self._lines.room(self._source, self._account)


class Journal:
    """The journal of one node, in one folder. Made by :meth:`open`; used by one event loop."""

    def __init__(self, folder: Path, lines: Lines) -> None:
        self.lines = lines
        self.cursor = 0
        self._folder = folder
        self._fd = -1
        self._segments: list[tuple[int, Path]] = []
        self._segment_bytes = 0
        self._sources: dict[str, int] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._held: dict[int, _Held] = {}
        self._mixed_until = 0
        self._grown = asyncio.Event()

    @classmethod
    def open(cls, folder: Path) -> "Journal":
        """Open the journal in ``folder``, making it if need be; cut off half-written ends."""
        folder.mkdir(parents=True, exist_ok=True)
        boot, marker = BOOT_ID.read_text(), folder / "boot_id"
        rebooted = not marker.exists() or marker.read_text() != boot
        journal = cls(folder, Lines.open(folder / LINES, doubtful=rebooted))
        for path in sorted(folder.glob("*.ndjson")):
            journal._find(path)
        if journal._segments:
            journal._read_through(journal._segments[-1][1])
            journal.lines.withheld = journal._mixed_until >= journal._segments[0][0]
            if rebooted:
                journal.cursor += HOST_RESTART_GAP
        journal._begin_segment()
        marker.write_text(boot)
        for source, last in journal._ended.items():
            if journal.lines.last_seq(source) == last:
                journal.lines.end(source)
        journal._release()
        return journal

    def source(self, source: str, account: str) -> Source:
        """Return the source of lines of that name, a VM's or build's id, for its ``account``."""
        return Source(self, self.lines, source, account)

    def append(self, fact: AnyChange) -> None:
        """Write one fact, which is told at once, or else when the lines before it are confirmed.

        Raises:
            OSError: it could not be written.
        """
        source = _source_of(fact)
        after = self.last_seq(source) if source is not None else 0
        if source is not None and self._waits(source, after, fact):
            self._hold(_Held(source, after, fact))
        else:
            self._write_told([(fact, {"after": after})])
        if source is not None and _is_end(fact):
            self._note_end(source, after)
            self.lines.end(source)
        self._written()

    def last_seq(self, source: str) -> int:
        """Return the number of the last line recorded of a VM or build; 0 for none."""
        known = (self._sources.get(source, 0), self._ended.get(source, 0))
        return max(self.lines.last_seq(source), *known)

    def confirm(self, cursor: int) -> None:
        """Forget what lies at or before ``cursor``, as far as whole segments go."""
        while len(self._segments) > 1 and self._segments[1][0] - 1 <= cursor:
            self._segments.pop(0)[1].unlink()
        self._give_lines(cursor)

    def confirm_lines(self, seqs: Mapping[str, int]) -> None:
        """Forget lines of these sources up to these numbers, and tell what waited for them."""
        self.lines.confirm(seqs)
        step(Step.NODE_LINES_CONFIRMED)
        self._release()

    async def stream(self, after: int, heartbeat_s: float = 10) -> AsyncGenerator[bytes]:
        """Yield all facts above ``after``, then those to come, as whole lines of JSON.

        An empty line is a heartbeat, an empty chunk follows each :meth:`wake`. Reads the
        files, so that any number of bytes may lie between reader and writer without taking
        memory.
        """
        self._give_lines(after)
        first, file = self._open_segment(after)
        try:
            while True:
                grown = self._grown
                if chunk := _whole_lines(file):
                    if kept := _told_above(chunk, after):
                        yield kept
                elif (newer := self._segment_after(first)) is not None:
                    file.close()
                    first, file = newer, self._open(newer)
                else:
                    yield b"" if await set_within(grown, heartbeat_s) else b"\n"
        finally:
            file.close()

    def wake(self) -> None:
        """Let every reader look again."""
        self.lines.wake()
        self._grown.set()
        self._grown = asyncio.Event()

    def close(self) -> None:
        """Make all facts durable and close it."""
        os.fdatasync(self._fd)
        os.close(self._fd)

    def _give_lines(self, cursor: int) -> None:
        """Let lines be read when those in the journal itself, by an earlier version, are known."""
        if self.lines.withheld and cursor >= self._mixed_until:
            self.lines.withheld = False
            self.lines.wake()

    def _waits(self, source: str, after: int, fact: AnyChange) -> bool:
        if any(held.source == source for held in self._held.values()):
            return True
        return _is_end(fact) and not self.lines.confirmed(source, after)

    def _hold(self, held: _Held) -> None:
        cursor = self.cursor + 1
        self._write({"held": cursor, **_held_fields(held)})
        self._held[cursor] = held

    def _release(self) -> None:
        """Tell what was held until lines were confirmed that now are."""
        due: list[int] = []
        waiting: set[str] = set()
        for cursor, held in self._held.items():
            if held.source in waiting or not self.lines.confirmed(held.source, held.after):
                waiting.add(held.source)
            else:
                due.append(cursor)
        if due:
            self._write_told([(self._held[cursor].fact, {"released": cursor}) for cursor in due])
            for cursor in due:
                del self._held[cursor]
            self._written()

    def _write_told(self, facts: Iterable[tuple[AnyChange, dict[str, int]]]) -> None:
        """Write facts that are told, each with further fields: all of them, or none."""
        records: list[dict[str, Any]] = []
        for cursor, (fact, more) in enumerate(facts, self.cursor + 1):
            records.append({"cursor": cursor, **_fields(fact), **more})
        self._write(*records)

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
            line = parsed(file.readline())
        if line is None:
            path.unlink()
            return
        header = line["header"]
        self._sources = dict(header["sources"])
        self._ended = OrderedDict(header.get("ended", {}))
        held: dict[str, Any] | None = header.get("held")
        if held is not None:
            self._mixed_until = header["mixed_until"]
        elif self._segments:
            self._mixed_until = int(path.stem) - 1
        self._held = {int(cursor): _held_of(each) for cursor, each in (held or {}).items()}
        self._segments.append((int(path.stem), path))

    def _read_through(self, path: Path) -> None:
        """Go through the newest segment, and cut off its end from where it is not whole."""
        with path.open("r+b") as file:
            whole = len(file.readline())
            for line in file:
                if (record := parsed(line)) is None:
                    break
                whole += len(line)
                self._note(record)
            file.truncate(whole)

    def _note(self, record: dict[str, Any]) -> None:
        """Remember what a record of an earlier node says."""
        if "held" in record:
            self.cursor = record["held"]
            held = self._held[self.cursor] = _held_of(record)
            fact, source, after = held.fact, held.source, held.after
        else:
            self.cursor = record["cursor"]
            self._held.pop(record.get("released", 0), None)
            fact = FACT.validate_python(record)
            source, after = _source_of(fact), record.get("after")
        if source is None or "released" in record:
            return
        if isinstance(fact, VmLine | BuildLine):
            # Of a version that had lines and changes of state in one.
            self._mixed_until = self.cursor
            self._ended.pop(source, None)
            self._sources[source] = fact.seq
        elif _is_end(fact):
            self._note_end(source, self._sources.get(source, 0) if after is None else after)

    def _note_end(self, source: str, last: int) -> None:
        self._sources.pop(source, None)
        self._ended.pop(source, None)
        if last:
            self._ended[source] = last
        if len(self._ended) > MOST_ENDED:
            self._ended.popitem(last=False)

    def _begin_segment(self) -> None:
        """Begin a segment, unless the newest is still empty; all of it is there, or nothing."""
        first = self.cursor + 1
        path = self._path(first)
        partial = path.with_suffix(PARTIAL)
        held = {str(cursor): _held_fields(held) for cursor, held in self._held.items()}
        header = {
            "header": {
                "sources": self._sources,
                "ended": self._ended,
                "held": held,
                "mixed_until": self._mixed_until,
            }
        }
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            size = write_all(fd, json.dumps(header).encode() + b"\n", 0)
            if self._segments and self._segments[-1][0] == first:
                self._segments.pop()
            partial.rename(path)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            self.close()
        self._fd, self._segment_bytes = fd, size
        self._segments.append((first, path))

    def _write(self, *records: dict[str, Any]) -> None:
        """Write records behind what is there, which have the next cursors: all of them, or none."""
        data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        self._segment_bytes += write_all(self._fd, data, self._segment_bytes)
        self.cursor += len(records)

    def _written(self) -> None:
        """Facts are written, and what they say is noted: let them be read."""
        if self._segment_bytes >= SEGMENT_BYTES:
            # What was to be written is; a new segment is tried again with the next facts.
            with contextlib.suppress(OSError):
                self._begin_segment()
        self.wake()


def _fields(fact: AnyChange) -> dict[str, Any]:
    return fact.model_dump(mode="json", exclude={"cursor"})


def _held_fields(held: _Held) -> dict[str, Any]:
    return {"after": held.after, "fact": _fields(held.fact)}


def _held_of(record: dict[str, Any]) -> _Held:
    fact = CHANGE.validate_python(record["fact"])
    return _Held(_source_of(fact) or "", record["after"], fact)


def _source_of(fact: AnyFact) -> str | None:
    """Return whose lines a fact is among, or is told of; None for none."""
    if isinstance(fact, ImportSucceeded | ImportFailed):
        return None
    if isinstance(fact, BuildLine | BuildSucceeded | BuildFailed):
        return fact.build_id
    return fact.vm_id


def _is_end(fact: AnyFact) -> bool:
    """Whether no line of the same source comes before the next fact about it."""
    if isinstance(fact, SnapshotMade):
        return not fact.vm_runs
    return not isinstance(fact, VmLine | BuildLine | VmStarted | ImportSucceeded | ImportFailed)


def _whole_lines(file: BinaryIO) -> bytes:
    """Read on in ``file``, up to the end of a line; nothing when there is no whole line."""
    chunk = file.read(READ_BYTES)
    if chunk and not chunk.endswith(b"\n"):
        chunk += file.readline()
    return chunk


def _told_above(chunk: bytes, cursor: int) -> bytes:
    """Return of ``chunk`` the facts that are told and have a cursor above ``cursor``."""
    begin = b'{"cursor":'
    return b"".join(
        line
        for line in chunk.splitlines(keepends=True)
        if line.startswith(begin) and int(line[len(begin) : line.index(b",")]) > cursor
    )
