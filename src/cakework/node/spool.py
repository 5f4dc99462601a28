"""A spool: the lines of one source, a VM or a build, until the server has confirmed them.

They lie in segments, files named by the number of their first line, each behind a header:

    lines/<source>.lines/00000000000000000001.ndjson    {"header": {"source": …, "account": …}}
                                                        {"at_ms": …, "kind": "vm.line", …}
                                                        …

Taking lines writes them at once, so a killed node loses none that it has taken. A segment goes when
all of it is confirmed and a newer one has begun; the newest stays, and with it the number of the
last line, until the source has ended.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cakework.domain.facts import AnyLine
from cakework.node.ndjson import parsed, write_all

SEGMENT_BYTES = 1024 * 1024
SETTLED_BYTES = 64 * 1024
"""A segment of which the server has all is followed by another from here on: what it holds is sent
again when the node is started anew, since what is confirmed is known in memory alone."""
BLOCK_BYTES = 16 * 1024
"""What lies unconfirmed is counted in blocks of about so many bytes."""
SUFFIX = ".lines"


@dataclass(slots=True)
class Place:
    """Where a reader is: behind line ``last``, at ``offset`` of the segment named ``segment``."""

    segment: int
    offset: int
    last: int


@dataclass(slots=True)
class _Block:
    last: int
    size: int


class Spool:
    """The lines of ``source``, whose account is ``account``, in ``folder``.

    ``last`` is the number of the last line there is, ``confirmed`` of the last one that the server
    has; ``unconfirmed`` is how many bytes lie between, as they are written. ``ended``: the source
    has ended, so that nothing is left to be remembered once all is confirmed.
    """

    def __init__(self, folder: Path, source: str, account: str, last: int = 0) -> None:
        self.source = source
        self.account = account
        self.last = last
        self.confirmed = last
        self.unconfirmed = 0
        self.ended = False
        self._folder = folder
        self._segments: list[int] = []
        self._size = 0
        self._blocks: deque[_Block] = deque()

    @classmethod
    def find(cls, folder: Path, *, doubtful: bool) -> "Spool | None":
        """Take on what an earlier node left, and cut off what is half written.

        ``doubtful``: the host was started anew meanwhile, whose crash may have taken writes from
        any file. None when nothing is there.
        """
        headers = {path: _header(path) for path in sorted(folder.glob("*.ndjson"))}
        paths = [path for path, header in headers.items() if header is not None]
        for path in headers.keys() - set(paths):
            path.unlink()
        if not paths:
            shutil.rmtree(folder)
            return None
        source, account = headers[paths[-1]] or ("", "")
        spool = cls(folder, source, account, int(paths[0].stem) - 1)
        for path, newer in zip(paths, [*paths[1:], None], strict=True):
            spool._take_on(path, None if doubtful or newer is None else int(newer.stem) - 1)
        return spool

    @staticmethod
    def folder_of(folder: Path, source: str) -> Path:
        """Return where a source's spool lies below ``folder``."""
        return folder / f"{quote(source, safe='')}{SUFFIX}"

    @property
    def settled(self) -> bool:
        """Whether the server has all of it."""
        return self.confirmed >= self.last

    def extend(self, lines: Sequence[AnyLine]) -> int:
        """Write lines, whose numbers go on from ``last``: all of them, or none.

        Returns the bytes that they take.

        Raises:
            OSError: they could not be written.
        """
        texts = [line.model_dump_json(exclude={"cursor"}).encode() + b"\n" for line in lines]
        data = b"".join(texts)
        if not self._segments or self._size >= (SETTLED_BYTES if self.settled else SEGMENT_BYTES):
            self._begin(lines[0].seq, data)
        else:
            self._append(data)
        self.ended = False
        for line, text in zip(lines, texts, strict=True):
            self._count(line.seq, len(text))
        return len(data)

    def confirm(self, seq: int) -> None:
        """Forget what lies at or before line ``seq``, as far as whole segments go."""
        self.confirmed = max(self.confirmed, min(seq, self.last))
        while self._blocks and self._blocks[0].last <= self.confirmed:
            self.unconfirmed -= self._blocks.popleft().size
        while len(self._segments) > 1 and self._segments[1] - 1 <= self.confirmed:
            self._path(self._segments.pop(0)).unlink()

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def place(self) -> Place:
        """Return the place of a reader that has what is confirmed."""
        behind = self.confirmed + 1
        segment = max((first for first in self._segments if first <= behind), default=behind)
        return Place(segment, 0, self.confirmed)

    def read(self, place: Place, most: int) -> bytes:
        """Return whole lines from ``place`` on, of about ``most`` bytes, and move it behind them.

        Nothing when there are none. Reads the files, so that any number of bytes may lie between
        reader and writer without taking memory.
        """
        while place.last < self.last:
            chunk = self._read_on(place, most) if place.segment in self._segments else b""
            if chunk:
                if kept := _above(chunk, place.last):
                    place.last = _number(kept[:-1].rpartition(b"\n")[2])
                    return kept
            elif newer := [first for first in self._segments if first > place.segment]:
                place.segment, place.offset = newer[0], 0
            else:
                break
        return b""

    def _read_on(self, place: Place, most: int) -> bytes:
        with self._path(place.segment).open("rb") as file:
            place.offset = place.offset or len(file.readline())
            file.seek(place.offset)
            chunk = file.read(most)
            if chunk and not chunk.endswith(b"\n"):
                chunk += file.readline()
        place.offset += len(chunk)
        return chunk

    def _path(self, first: int) -> Path:
        return self._folder / f"{first:020d}.ndjson"

    def _begin(self, first: int, data: bytes) -> None:
        """Begin a segment; all of it is there, or nothing."""
        self._folder.mkdir(exist_ok=True)
        path = self._path(first)
        header = {"header": {"source": self.source, "account": self.account}}
        whole = json.dumps(header).encode() + b"\n" + data
        try:
            _write(path, whole, 0)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._segments.append(first)
        self._size = len(whole)

    def _append(self, data: bytes) -> None:
        _write(self._path(self._segments[-1]), data, self._size)
        self._size += len(data)

    def _count(self, last: int, size: int) -> None:
        self.last = last
        self.unconfirmed += size
        if self._blocks and self._blocks[-1].size < BLOCK_BYTES:
            self._blocks[-1].last = last
            self._blocks[-1].size += size
        else:
            self._blocks.append(_Block(last, size))

    def _take_on(self, path: Path, last: int | None) -> None:
        """Take on a segment whose last line has number ``last``; None: as many as are whole."""
        self._segments.append(int(path.stem))
        if last is not None:
            self._count(last, path.stat().st_size)
            return
        with path.open("r+b") as file:
            self._size = len(file.readline())
            for line in file:
                if (fact := parsed(line)) is None:
                    break
                self._size += len(line)
                self._count(fact["seq"], len(line))
            file.truncate(self._size)


def _header(path: Path) -> tuple[str, str] | None:
    """Return the source and account that a segment is of; None when it has no header."""
    with path.open("rb") as file:
        line = parsed(file.readline())
    return None if line is None else (line["header"]["source"], line["header"]["account"])


def _write(path: Path, data: bytes, at: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data, at)
    finally:
        os.close(fd)


def _above(chunk: bytes, seq: int) -> bytes:
    """Cut the lines up to number ``seq`` off the front of ``chunk``."""
    start = 0
    while start < len(chunk):
        end = chunk.index(b"\n", start)
        if _number(chunk[start:end]) > seq:
            break
        start = end + 1
    return chunk[start:]


def _number(line: bytes) -> int:
    return json.loads(line)["seq"]
