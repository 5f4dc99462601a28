"""The log store: the log file, used from threads, accounts in turns.

Reading a page is quick. Looking for a word is not, so that has turns of its own, of which an
account never has all.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from cakework.domain.facts import AnyLine
from cakework.server.logs import file, ledger, removal
from cakework.server.logs.lines import LineQuery, Page, Source
from cakework.server.logs.search import Bounds
from cakework.server.logs.stretches import NO_STRETCHES, Stretches
from cakework.server.store.free_space import FreeSpace
from cakework.turns import Turns

READERS = 4
SEARCHERS = 2
MOST_WAITING = 500
"""Searches of one account that may wait: more than its followers, who wait for theirs, too."""
T = TypeVar("T")
Owners = Callable[[Sequence[Source]], Awaitable[Mapping[Source, str]]]
"""Says whose logs these are; those of nobody's are left out."""
Functions = Callable[[Sequence[Source]], Awaitable[Mapping[Source, Source]]]
"""Says of which functions' logs these are part; those of none are left out."""


async def no_functions(_: Sequence[Source]) -> Mapping[Source, Source]:
    """Say that logs are no functions'."""
    return {}


class LogStore:
    """Stores and finds log lines. ``open()`` before use, ``close()`` after."""

    def __init__(
        self,
        path: Path,
        kept: file.Kept,
        owners: Owners,
        space: FreeSpace,
        functions: Functions = no_functions,
        stretches: Stretches = NO_STRETCHES,
    ) -> None:
        """Prepare for the file at ``path``, of which ``kept`` is kept.

        ``owners`` and ``functions`` are asked once for each log, when its first lines come. While
        the disk is short of ``space`` no account's logs grow.
        """
        self._path = path
        self._kept = kept
        self._owners = owners
        self._space = space
        self._functions = functions
        self._stretches = stretches
        self._writer: sqlite3.Connection | None = None
        self._writing = asyncio.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._threads = ThreadPoolExecutor(READERS + SEARCHERS, thread_name_prefix="logs")
        self._reads: Turns[str] = Turns(READERS)
        self._searches: Turns[str] = Turns(SEARCHERS, waiting=MOST_WAITING)

    async def open(self) -> None:
        """Open the file, making it when it is not there."""
        self._writer = await asyncio.to_thread(file.connect, self._path)
        await asyncio.to_thread(file.make_tables, self._writer)
        while unowned := await self._write(ledger.unowned):
            accounts = await self._whose(unowned)
            await self._write(partial(file.adopt, accounts=accounts))

    async def close(self) -> None:
        """Close the file, when nobody reads it any more."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        while self._idle:
            self._idle.pop().close()

    async def append(self, lines: Sequence[AnyLine]) -> set[Source]:
        """Store lines; returns the logs that grew."""
        accounts: Mapping[Source, str] = {}
        functions: Mapping[Source, Source] = {}
        while True:
            append = partial(
                file.append,
                facts=lines,
                kept=replace(self._kept, grows=not self._space.short),
                accounts=accounts,
                functions=functions,
                stretches=self._stretches,
            )
            try:
                return await self._write(append)
            except file.Unowned as error:
                accounts = {**accounts, **await self._whose(error.sources)}
                functions = {**functions, **await self._functions(error.sources)}

    async def remove_before(self, before_ms: int) -> None:
        """Remove the lines of every log that were printed before ``before_ms``."""
        behind: int | None = 0
        while behind is not None:
            behind = await self._write(
                partial(removal.remove_before, before_ms=before_ms, after=behind)
            )

    async def drop_beyond(self) -> None:
        """Drop the oldest lines of every account that has more than it may."""
        while await self._write(partial(removal.drop_beyond, most=self._kept.size)):
            pass

    async def remove(self, source: Source) -> None:
        """Remove a log."""
        while not await self._write(partial(removal.remove_log, source=source)):
            pass

    async def give_back(self) -> None:
        """Give the room of lines that were removed back to the disk."""
        while await self._write(removal.give_back):
            pass

    async def page(self, query: LineQuery, account: str, bounds: Bounds | None = None) -> Page:
        """Return the lines that answer a query of an account, which waits for its turn.

        Raises:
            Crowded: too many searches of the account wait.
        """
        bounded = {} if bounds is None else {"bounds": bounds}
        async with self._turns(query).hold(account):
            return await self._read(lambda connection: file.page(connection, query, **bounded))

    async def answer(
        self,
        query: LineQuery,
        account: str,
        render: Callable[[Page, tuple[int, int] | None], T],
    ) -> T:
        """Return what ``render`` makes of a page, and of the log's span where there is more of it.

        All in one turn of the account's: of pages that wait for another there could be thousands.

        Raises:
            Crowded: too many searches of the account wait.
        """

        def work(connection: sqlite3.Connection) -> T:
            page = file.page(connection, query)
            return render(page, file.span(connection, query.source) if page.more else None)

        async with self._turns(query).hold(account):
            return await self._read(work)

    async def described(
        self,
        query: LineQuery,
        account: str,
        describe: Callable[[Page], Awaitable[T]],
        render: Callable[[Page, tuple[int, int] | None, T], bytes],
    ) -> bytes:
        """As :meth:`answer`; ``render`` is given what ``describe`` finds out about the page, too.

        Raises:
            Crowded: too many searches of the account wait.
        """

        def read(connection: sqlite3.Connection) -> tuple[Page, tuple[int, int] | None]:
            page = file.page(connection, query)
            return page, file.span(connection, query.source) if page.more else None

        async with self._turns(query).hold(account):
            page, span = await self._read(read)
            told = await describe(page)
            return await _to_the_end(self._threads, lambda: render(page, span, told))

    async def last_seq(self, source: Source) -> int:
        """Return the number of a log's last line, kept or not; 0 when it had none."""
        return await self._read(lambda connection: file.last_seq(connection, source))

    def _turns(self, query: LineQuery) -> Turns[str]:
        return self._reads if query.contains is None else self._searches

    async def _whose(self, sources: Sequence[Source]) -> Mapping[Source, str]:
        """Return the account of each log; the one without a name has those of nobody's."""
        found = await self._owners(sources)
        return {source: found.get(source, "") for source in sources}

    async def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Make one change; those that wait take turns."""
        async with self._writing:
            writer = self._writer
            if writer is None:
                raise RuntimeError("the log store is not open")
            return await _to_the_end(None, lambda: change(writer))

    async def _read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        def work() -> T:
            connection = self._idle.pop() if self._idle else file.connect(self._path)
            try:
                return question(connection)
            finally:
                self._idle.append(connection)

        return await _to_the_end(self._threads, work)


async def _to_the_end(threads: ThreadPoolExecutor | None, work: Callable[[], T]) -> T:
    """Run ``work`` in a thread; when cancelled, wait for its end before giving way."""
    task = asyncio.get_running_loop().run_in_executor(threads, work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
