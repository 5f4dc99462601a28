"""Brings the tables to the form this version needs, with Alembic, inside one transaction."""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, column, inspect, select, table, text

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x63616B65
_VERSION = table("alembic_version", column("version_num"))


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run every migration up to ``to`` that is missing; two at once wait for each other.

    Where none is, as at nearly every start, Alembic is not even imported: that takes 0.1 s.
    """
    if to == "head" and _revisions(connection) == [newest()]:
        return
    from alembic import command

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    command.upgrade(alembic_config(connection), to)


def newest() -> str:
    """Return the newest revision. Files of migrations are named ``<revision>_<what for>.py``."""
    return max(file.name for file in (_MIGRATIONS / "versions").glob("0*.py")).partition("_")[0]


def alembic_config(connection: Connection) -> "Config":
    """Return Alembic's configuration for an open connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _revisions(connection: Connection) -> list[str]:
    """Return what revision the tables are of; nothing where there are no tables yet."""
    if not inspect(connection).has_table(_VERSION.name):
        return []
    return list(connection.scalars(select(_VERSION.c.version_num)))
