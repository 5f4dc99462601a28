import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, delete, func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from cakework.server.store.database import Database
from cakework.server.store.database import database_url as url_of
from cakework.server.store.migrate import alembic_config, newest, upgrade
from cakework.server.store.models import (
    AccountRow,
    ApiKeyRow,
    Base,
    BuildRow,
    IdempotencyRow,
    ImageRow,
    VmRow,
)

from .rig import lay_tables, settings_for

pytestmark = pytest.mark.anyio
ACCOUNT: dict[str, Any] = {"id": "default", "created_ms": 1}
BUILD: dict[str, Any] = {
    "id": "b",
    "account_id": "default",
    "image_id": "i",
    "status": "created",
    "source": "files",
    "accepted": False,
    "log_complete": False,
    "created_ms": 1,
    "updated_ms": 1,
}
IMAGE: dict[str, Any] = {
    "id": "i",
    "account_id": "default",
    "source": "files",
    "build_id": "b",
    "size_bytes": 1,
    "created_ms": 1,
}
VM: dict[str, Any] = {
    "id": "v",
    "account_id": "default",
    "image_id": "i",
    "hostname": "h",
    "cpu": 1,
    "memory_mb": 256,
    "volume_gb": 0,
    "cached": False,
    "run": 1,
    "state": "created",
    "wanted": "started",
    "log_complete": False,
    "snapshot": "boot",
    "auto_start": False,
    "memory_kept": False,
    "created_ms": 1,
    "updated_ms": 1,
}
WARM = ("snapshot", "auto_start", "memory_kept")


@pytest.fixture
async def database(folder: Path, database_url: str | None) -> Any:
    settings = settings_for(folder, database_url)
    await lay_tables(settings)
    opened = Database(url_of(settings))
    await opened.open()
    yield opened
    await opened.close()


async def fill(database: Database) -> None:
    async with database.writing() as session:
        for table, row in ((AccountRow, ACCOUNT), (BuildRow, BUILD), (ImageRow, IMAGE)):
            await session.execute(insert(table).values(**row))
        await session.execute(insert(VmRow).values(**VM))


async def test_migrations_make_the_tables_that_the_models_say(database: Database) -> None:
    """Nothing differs between the migrated store and the models, and opening twice is fine."""

    def differences(connection: Connection) -> list[Any]:
        return compare_metadata(MigrationContext.configure(connection), Base.metadata)

    await database.open()
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrations_are_one_chain(database: Database) -> None:
    """Every migration follows just one other, and there is one newest."""

    def script(connection: Connection) -> ScriptDirectory:
        return ScriptDirectory.from_config(alembic_config(connection))

    async with database.engine.connect() as connection:
        found = await connection.run_sync(script)
    assert found.get_heads() == [newest()]
    steps = [revision.down_revision for revision in found.walk_revisions()]
    assert len(set(steps)) == len(steps)


async def test_alembic_is_not_imported_where_no_migration_is_due(folder: Path) -> None:
    """Most starts have none, and it takes a tenth of one."""
    settings = settings_for(folder, None)
    await lay_tables(settings)
    code = (
        "import asyncio, sys\n"
        "from cakework.server.store.database import Database\n"
        "async def main():\n"
        "    database = Database(sys.argv[1])\n"
        "    await database.open()\n"
        "    await database.ping()\n"
        "    await database.close()\n"
        "asyncio.run(main())\n"
        "assert 'alembic' not in sys.modules\n"
    )
    url = url_of(settings).render_as_string(hide_password=False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, url), stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    assert process.returncode == 0, told.decode()


@pytest.mark.parametrize("empty_store", [True])
async def test_images_on_record_know_where_they_came_from(
    folder: Path, database_url: str | None
) -> None:
    """A store of before, with VMs that have images, is brought to this version's form."""
    settings = settings_for(folder, database_url)
    settings.server_dir.mkdir()
    database = Database(url_of(settings))
    build, image = ({**row} for row in (BUILD, IMAGE))
    del build["source"], image["source"]
    async with database.engine.begin() as connection:
        await connection.run_sync(upgrade, "0004")
        for table, row in (
            ("accounts", ACCOUNT),
            ("builds", build),
            ("images", image),
            ("images", image | {"id": "imported", "build_id": None}),
            ("vms", {name: value for name, value in VM.items() if name not in WARM}),
        ):
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            await connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)
    await database.open()
    async with database.reading() as session:
        found = await session.execute(select(ImageRow.id, ImageRow.source, ImageRow.deleted_ms))
        assert sorted(tuple(row) for row in found) == [
            ("i", "files", None),
            ("imported", "import", None),
        ]
        assert await session.scalar(select(BuildRow.source)) == "files"
    await database.close()


@pytest.mark.parametrize("empty_store", [True])
async def test_bare_digests_of_requests_go(folder: Path, database_url: str | None) -> None:
    """What an earlier version kept of idempotent requests is not kept on."""
    settings = settings_for(folder, database_url)
    settings.server_dir.mkdir()
    database = Database(url_of(settings))
    kept = {"account_id": "default", "key": "k", "token": "t", "fingerprint": b"f"}
    async with database.engine.begin() as connection:
        await connection.run_sync(upgrade, "0006")
        await connection.execute(insert(AccountRow).values(**ACCOUNT))
        await connection.execute(insert(IdempotencyRow).values(**kept, created_ms=1))
    await database.open()
    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(IdempotencyRow)) == 0
    await database.close()


@pytest.mark.parametrize("empty_store", [True])
async def test_two_that_open_a_fresh_store_at_once_both_succeed(
    folder: Path, database_url: str | None
) -> None:
    """A server and a command line that start together do not get into each other's way."""
    settings = settings_for(folder, database_url)
    settings.server_dir.mkdir()
    both = [Database(url_of(settings)) for _ in range(2)]
    await asyncio.gather(*(each.open() for each in both))
    await asyncio.gather(*(each.close() for each in both))


async def test_a_journal_mode_that_another_is_setting_is_waited_for(tmp_path: Path) -> None:
    """SQLite refuses that at once where other locks wait: the store tries again until it may."""
    path = tmp_path / "cakework.db"
    database = Database(f"sqlite+aiosqlite:///{path}")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        opening = asyncio.create_task(database.open())
        done, _ = await asyncio.wait({opening}, timeout=0.3)
        assert not done
        other.execute("COMMIT")
        await opening
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await database.close()


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (VmRow, {"state": "asleep"}),
        (VmRow, {"wanted": "stopped"}),
        (VmRow, {"wanted": "asleep", "cached": True}),
        (VmRow, {"run": 0}),
        (VmRow, {"run": -1, "cached": True}),
        (VmRow, {"state": "destroyed", "wanted": "started"}),
        (VmRow, {"cpu": 9}),
        (VmRow, {"memory_mb": 255}),
        (VmRow, {"port": 0}),
        (VmRow, {"volume_gb": 501}),
        (VmRow, {"updated_ms": 0}),
        (VmRow, {"image_id": "unknown"}),
        (VmRow, {"account_id": "unknown"}),
        (VmRow, {"hostname": "h"}),
        (VmRow, {"snapshot": "cold"}),
        (VmRow, {"snapshot": "ready", "snapshot_state": "made"}),
        (VmRow, {"cached": True, "snapshot": "ready"}),
        (VmRow, {"cached": True, "snapshot": "ready", "snapshot_state": "lost"}),
        (VmRow, {"cached": True, "snapshot": "ready", "snapshot_state": "failed"}),
        (VmRow, {"cached": True, "snapshot": "ready", "snapshot_state": "made", "volume_gb": 1}),
        (VmRow, {"snapshot_state": "made"}),
        (VmRow, {"snapshot_error": "but"}),
        (VmRow, {"cached": True, "auto_start": True}),
        (VmRow, {"port": 80, "auto_start": True}),
        (VmRow, {"cached": True, "idle_timeout_s": 60}),
        (VmRow, {"cached": True, "port": 80, "idle_timeout_s": 0}),
        (VmRow, {"memory_kept": True}),
        (VmRow, {"cached": True, "state": "started", "memory_kept": True}),
        (VmRow, {"fork_of": "v"}),
        (BuildRow, {"status": "running"}),
        (BuildRow, {"status": "failed", "error": None}),
        (BuildRow, {"status": "succeeded", "error": "but"}),
        (BuildRow, {"image_id": "i"}),
        (BuildRow, {"source": "air"}),
        (ImageRow, {"size_bytes": -1}),
        (ImageRow, {"build_id": "b"}),
        (ImageRow, {"source": "air"}),
        (ImageRow, {"deleted_ms": 0}),
    ],
)
async def test_the_store_refuses_what_must_never_be(
    database: Database, table: type[Base], row: dict[str, Any]
) -> None:
    """The rules hold in the database itself, whoever writes."""
    await fill(database)
    wholes: dict[type[Base], dict[str, Any]] = {
        VmRow: VM | {"id": "v2", "hostname": "h2"},
        BuildRow: BUILD | {"id": "b2", "image_id": "i2"},
        ImageRow: IMAGE | {"id": "i3", "build_id": None},
    }
    with pytest.raises(IntegrityError):
        async with database.writing() as session:
            await session.execute(insert(table).values(**{**wholes[table], **row}))
    async with database.writing() as session:
        await session.execute(insert(table).values(**wholes[table]))


async def test_keys_and_answers_are_one_of_each(database: Database) -> None:
    """No two keys share a hash, no two requests a token, and half an answer is none."""
    await fill(database)
    key = {"account_id": "default", "name": "n", "prefix": "p", "hash": b"h", "created_ms": 1}
    answer: dict[str, Any] = {
        "account_id": "default",
        "token": "t",
        "fingerprint": b"f",
        "created_ms": 1,
    }
    async with database.writing() as session:
        await session.execute(insert(ApiKeyRow).values(id="1", **key))
        await session.execute(insert(IdempotencyRow).values(key="1", **answer))
    for statement in (
        insert(ApiKeyRow).values(id="2", **key),
        insert(IdempotencyRow).values(key="2", **answer),
        insert(IdempotencyRow).values(key="2", status=200, **(answer | {"token": "t2"})),
    ):
        with pytest.raises(IntegrityError):
            async with database.writing() as session:
                await session.execute(statement)


async def test_an_image_that_a_vm_has_cannot_go(database: Database) -> None:
    """What is referred to stays."""
    await fill(database)
    with pytest.raises(IntegrityError):
        async with database.writing() as session:
            await session.execute(delete(ImageRow))


async def test_a_failed_block_leaves_nothing(database: Database) -> None:
    """A writing session whose block raises has changed nothing, and the next one can write."""
    with pytest.raises(LookupError):
        async with database.writing() as session:
            await session.execute(insert(AccountRow).values(**ACCOUNT))
            raise LookupError
    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(AccountRow)) == 0
    await fill(database)


async def test_writers_queue_and_none_is_lost(database: Database) -> None:
    """Fifty that read and then write at once all see each other's work on SQLite, and on
    PostgreSQL once they lock the row."""
    await fill(database)

    async def add_one() -> None:
        async with database.writing() as session:
            locked = select(VmRow.cpu, VmRow.memory_mb).where(VmRow.id == "v").with_for_update()
            found = (await session.execute(locked)).one()
            await asyncio.sleep(0)
            changed = {"size": found.memory_mb + 1}
            await session.execute(text("UPDATE vms SET memory_mb = :size"), changed)

    await asyncio.gather(*(add_one() for _ in range(50)))
    async with database.reading() as session:
        assert await session.scalar(select(VmRow.memory_mb)) == 256 + 50


async def test_sqlite_writers_lock_from_the_start_and_readers_never(folder: Path) -> None:
    """Another process's writer waits for ours, and a reader of ours goes on meanwhile."""
    settings = settings_for(folder, None)
    settings.server_dir.mkdir()
    ours, theirs = Database(url_of(settings)), Database(url_of(settings))
    await ours.open()
    await fill(ours)
    async with ours.writing() as writer:
        await writer.scalar(select(VmRow.id))
        async with ours.reading() as session:
            assert await session.scalar(select(VmRow.id)) == "v"
        async with theirs.engine.connect() as connection:
            await connection.exec_driver_sql("PRAGMA busy_timeout = 0")
            with pytest.raises(DBAPIError, match="locked"):
                await connection.execute(text("UPDATE vms SET cpu = 2"))
    for each in (ours, theirs):
        await each.close()
