"""A PostgreSQL cluster of the tests' own, on a unix socket, run by an unprivileged user."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from cakework.server.store.database import Database

BIN = Path("/usr/lib/postgresql/15/bin")
USER = "postgres"
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Cluster:
    """A running cluster; ``folder`` holds its socket."""

    folder: Path

    def url(self, name: str, driver: str = "postgresql") -> str:
        """Return the URL of the database ``name``."""
        return f"{driver}://{USER}@/{name}?host={self.folder}"

    @contextlib.asynccontextmanager
    async def database(self, *, empty: bool) -> AsyncGenerator[str]:
        """Make a database for one test, with all tables unless it is ``empty``; gives its URL."""
        name = f"test_{uuid.uuid4().hex}"
        admin = create_async_engine(
            self.url("postgres", "postgresql+asyncpg"), isolation_level="AUTOCOMMIT"
        )
        try:
            async with admin.connect() as connection:
                of = ""
                if not empty:
                    # Files as they are, and not each page through the log.
                    of = f" TEMPLATE {await self._with_tables(connection)} STRATEGY file_copy"
                await connection.execute(text(f"CREATE DATABASE {name}{of}"))
            yield self.url(name)
            async with admin.connect() as connection:
                await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        finally:
            await admin.dispose()

    async def _with_tables(self, admin: AsyncConnection) -> str:
        """Return the name of a database that has all tables and that nobody is connected to."""
        name = "with_tables"
        there = text("SELECT 1 FROM pg_database WHERE datname = :name")
        if not (await admin.execute(there, {"name": name})).first():
            await admin.execute(text(f"CREATE DATABASE {name}"))
            database = Database(self.url(name, "postgresql+asyncpg"))
            await database.open()
            await database.close()
        return name


@contextlib.contextmanager
def running_cluster(*, durable: bool = False) -> Generator[Cluster]:
    """Start a cluster in a folder that is thrown away after.

    Only one that is ``durable`` waits for its disk.
    """
    folder = Path(tempfile.mkdtemp(prefix="cakework-pg-", dir="/tmp"))
    as_user = unprivileged()
    try:
        if as_user:
            shutil.chown(folder, USER, USER)
        data = folder / "data"
        initdb = [BIN / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, user=as_user)
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
        quick = ["-c", f"fsync={'on' if durable else 'off'}", "-c", "max_connections=200"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [BIN / "postgres", "-D", data, *options, *quick],
                stdout=log,
                stderr=log,
                cwd=folder,
                user=as_user,
            )
        try:
            wait_until_it_answers(folder, process)
            yield Cluster(folder)
        finally:
            process.terminate()
            process.wait(DEADLINE_S)
    finally:
        shutil.rmtree(folder)


def unprivileged() -> str | None:
    """Return whom PostgreSQL runs as: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    return pwd.getpwnam(USER).pw_name


def wait_until_it_answers(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return once the cluster takes connections."""

    ready = [BIN / "pg_isready", "-q", "-h", folder]
    deadline = time.monotonic() + DEADLINE_S
    while subprocess.run(ready, check=False).returncode != 0:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)
