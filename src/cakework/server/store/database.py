"""The control plane's database: SQLite by default, PostgreSQL by URL.

Most use sessions of asyncio's. What is done for each invocation is written as plain functions
instead, which on SQLite are run in a thread, whole: there each statement costs less than a way
into a thread and back.

On SQLite a writing session takes the write lock with its first statement, also one that reads
(``BEGIN IMMEDIATE``), so that what it reads stays true until it commits; a reading one begins
deferred. Writers of this
process queue for a lock of our own: SQLite's own waiting polls and is not fair.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TypeVar

from sqlalchemy import Connection, Engine, FromClause, create_engine, event, text
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from cakework.server.store.migrate import upgrade
from cakework.server.store.together import NOBODY, Together, Work, let_go
from cakework.settings import Settings

_WRITES = "cakework_writes"
_BUSY_MS = 10_000
_BUSY_RETRY_S = 0.01
_POSTGRES = ("postgresql", "postgres")
_THREADS = 4
"""One writes; others may read meanwhile."""
_T = TypeVar("_T")


class Database:
    """Opens sessions. ``open()`` before use brings the tables up to date; ``close()`` after."""

    def __init__(self, url: str | URL) -> None:
        """Prepare for a database; nothing is connected yet."""
        self._engine = _engine(make_url(url))
        writing = self._engine.execution_options(**{_WRITES: True})
        self._reading = async_sessionmaker(self._engine, expire_on_commit=False)
        self._writing = async_sessionmaker(writing, expire_on_commit=False)
        is_sqlite = self._engine.dialect.name == "sqlite"
        self._writers: AbstractAsyncContextManager[object] = (
            asyncio.Lock() if is_sqlite else nullcontext()
        )
        self._plain = _Plain(self._engine.url) if is_sqlite else None
        self._together = Together(self._transaction)

    @property
    def engine(self) -> AsyncEngine:
        """The engine below, for migrations and tests."""
        return self._engine

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All engines below, for tests."""
        plain = () if self._plain is None else (self._plain.engine,)
        return (self._engine.sync_engine, *plain)

    async def open(self) -> None:
        """Bring the tables to this version's form, creating what is missing."""
        if self._engine.dialect.name == "sqlite" and self._engine.url.database:
            await _write_ahead(self._engine.url.database)
        async with self._engine.execution_options(**{_WRITES: True}).begin() as connection:
            await connection.run_sync(upgrade)

    async def close(self) -> None:
        """Close every connection."""
        await self._together.close()
        if self._plain is not None:
            await self._plain.close()
        await self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncSession]:
        """Open a session that only reads, from one snapshot on SQLite."""
        async with self._reading() as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncSession]:
        """Open a session that commits when the block ends well, and else rolls back."""
        async with self._writers, self._writing() as session, session.begin():
            yield session

    async def together(self, work: Work[_T], whose: str = NOBODY) -> _T:
        """Do ``work`` of the account ``whose`` in a transaction, which is shared with what others
        do meanwhile; returns what it returns, when that is committed. It must not wait for anything
        but the store.
        """
        return await self._together.do(work, whose)

    async def look(self, work: Work[_T]) -> _T:
        """Have ``work`` read, from one snapshot on SQLite; returns what it returns."""

        def within(connection: Connection) -> _T:
            with Session(connection, expire_on_commit=False) as session:
                return work(session)

        if self._plain is not None:
            return await self._plain.run(within, writes=False)
        async with self._engine.connect() as connection:
            return await connection.run_sync(within)

    async def _transaction(self, within: Callable[[Connection], _T]) -> _T:
        if self._plain is None:
            async with self._engine.begin() as connection:
                return await connection.run_sync(within)
        async with self._writers:
            return await self._plain.run(within, writes=True)

    async def ping(self) -> None:
        """Ask the database for one row; raises when it does not answer."""
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))


class _Plain:
    """SQLite by its own driver, in threads."""

    def __init__(self, url: URL) -> None:
        self.engine = create_engine(url.set(drivername="sqlite+pysqlite"))
        _prepare(self.engine)
        self.writing = self.engine.execution_options(**{_WRITES: True})
        self._threads = ThreadPoolExecutor(_THREADS, "store")

    async def run(self, within: Callable[[Connection], _T], *, writes: bool) -> _T:
        """Call ``within`` with a connection whose transaction is committed after."""
        begin = self.writing.begin if writes else self.engine.begin

        def work() -> _T:
            with begin() as connection:
                try:
                    return within(connection)
                except BaseException as error:
                    let_go(error)
                    raise

        return await asyncio.wrap_future(self._threads.submit(work))

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.to_thread(self._threads.shutdown)
        self.engine.dispose()


def database_url(settings: Settings) -> URL:
    """Return the URL of the store: the setting's with its async driver, else SQLite's."""
    if settings.database_url is None:
        return URL.create("sqlite+aiosqlite", database=str(settings.server_dir / "cakework.db"))
    url = make_url(settings.database_url)
    return url.set(drivername="postgresql+asyncpg") if url.drivername in _POSTGRES else url


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        return create_async_engine(url, pool_size=10, max_overflow=20, pool_pre_ping=True)
    engine = create_async_engine(url, pool_size=10, max_overflow=20)
    _prepare(engine.sync_engine)
    return engine


class _Hinted(SQLiteCompiler):
    """Writes which index a query is to take, which SQLAlchemy leaves out on SQLite."""

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:
        return text


def _prepare(engine: Engine) -> None:
    engine.dialect.statement_compiler = _Hinted
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)


async def _write_ahead(path: str) -> None:
    """Set the file's journal mode, which it keeps.

    SQLite does not let one wait that changes it while another does the same, but refuses at once.
    """
    deadline = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            await asyncio.to_thread(_set_write_ahead, path)
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_BUSY_RETRY_S)
        else:
            return


def _set_write_ahead(path: str) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    try:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout = {_BUSY_MS}",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        # Nobody else has it yet: the pool forgets a connection that could not be prepared, as when
        # the server ends just then.
        getattr(connection, "terminate", connection.close)()
        raise


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN DEFERRED")
