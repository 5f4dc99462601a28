"""The log store: the log file, used from threads, and the followers that wait for it to grow."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from cakework.domain.facts import BuildLine, VmLine
from cakework.server.logs import file, removal
from cakework.server.logs.lines import LineQuery, Page, Source

READERS = 4
T = TypeVar("T")


class LogStore:
    """Stores and finds log lines. ``open()`` before use, ``close()`` after."""

    def __init__(self, path: Path, max_lines: int) -> None:
        """Prepare for the file at ``path``; each log keeps its newest ``max_lines``."""
        self._path = path
        self._max_lines = max_lines
        self._writer: sqlite3.Connection | None = None
        self._writing = asyncio.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._readers = asyncio.Semaphore(READERS)

    async def open(self) -> None:
        """Open the file, making it when it is not there."""
        self._writer = await asyncio.to_thread(file.connect, self._path)
        await asyncio.to_thread(file.make_tables, self._writer)

    async def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        while self._idle:
            self._idle.pop().close()

    async def cursor(self, node_id: str) -> int:
        """Return how far a node's journal is stored."""
        return await self._read(lambda connection: file.cursor_of(connection, node_id))

    async def append(
        self, node_id: str, cursor: int, lines: Sequence[VmLine | BuildLine]
    ) -> set[Source]:
        """Store lines of a node's journal up to ``cursor``; returns the logs that grew."""
        return await self._write(
            lambda writer: file.append(writer, node_id, cursor, lines, self._max_lines)
        )

    async def remove_before(self, before_ms: int) -> None:
        """Remove the lines of every log that were printed before ``before_ms``."""
        behind: int | None = 0
        while behind is not None:
            behind = await self._write(
                partial(removal.remove_before, before_ms=before_ms, after=behind)
            )

    async def remove(self, source: Source) -> None:
        """Remove a log."""
        while not await self._write(partial(removal.remove_log, source=source)):
            pass

    async def give_back(self) -> None:
        """Give the room of lines that were removed back to the disk."""
        while await self._write(removal.give_back):
            pass

    async def page(self, query: LineQuery) -> Page:
        """Return the lines that answer a query."""
        return await self._read(lambda connection: file.page(connection, query))

    async def span(self, source: Source) -> tuple[int, int] | None:
        """Return the times of a log's first and last line; None when it has none."""
        return await self._read(lambda connection: file.span(connection, source))

    async def last_seq(self, source: Source) -> int:
        """Return the number of a log's last line, kept or not; 0 when it had none."""
        return await self._read(lambda connection: file.last_seq(connection, source))

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Make one change; those that wait take turns."""
        async with self._writing:
            writer = self._writer
            if writer is None:
                raise RuntimeError("the log store is not open")
            return await _to_the_end(lambda: change(writer))

    async def _read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        async with self._reader() as connection:
            return await _to_the_end(lambda: question(connection))

    @asynccontextmanager
    async def _reader(self) -> AsyncGenerator[sqlite3.Connection]:
        async with self._readers:
            connection = self._idle.pop() if self._idle else file.connect(self._path)
            try:
                yield connection
            finally:
                self._idle.append(connection)


async def _to_the_end(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread; when cancelled, wait for its end before giving way."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
