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
from sqlalchemy.ext.asyncio import create_async_engine

BIN = Path("/usr/lib/postgresql/15/bin")
USER = "postgres"
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Cluster:
    """A running cluster; ``folder`` holds its socket."""

    folder: Path

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncGenerator[str]:
        """Make a database for one test; gives its URL."""
        name = f"test_{uuid.uuid4().hex}"
        admin = create_async_engine(
            f"postgresql+asyncpg://{USER}@/postgres?host={self.folder}",
            isolation_level="AUTOCOMMIT",
        )
        try:
            async with admin.connect() as connection:
                await connection.execute(text(f"CREATE DATABASE {name}"))
            yield f"postgresql://{USER}@/{name}?host={self.folder}"
            async with admin.connect() as connection:
                await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        finally:
            await admin.dispose()


@contextlib.contextmanager
def running_cluster() -> Generator[Cluster]:
    """Start a cluster in a folder that is thrown away after."""
    folder = Path(tempfile.mkdtemp(prefix="cakework-pg-", dir="/tmp"))
    as_user = unprivileged()
    try:
        if as_user:
            shutil.chown(folder, USER, USER)
        data = folder / "data"
        initdb = [BIN / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, user=as_user)
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
        quick = ["-c", "fsync=off", "-c", "max_connections=200"]
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
