"""Where builds and images come from; images can be deleted.

Columns are added with their rules, since a table that others refer to cannot be made anew on
SQLite while it has rows.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SOURCE = """
    ALTER TABLE {table} ADD COLUMN source VARCHAR(16) DEFAULT '{default}' NOT NULL
    CONSTRAINT ck_{table}_source CHECK (source IN ('files', 'github', 'import'))
"""
_DELETED = """
    ALTER TABLE {table} ADD COLUMN deleted_ms BIGINT
    CONSTRAINT ck_{table}_deleted CHECK (deleted_ms >= created_ms)
"""


def upgrade() -> None:
    op.execute(_SOURCE.format(table="builds", default="files"))
    op.execute(_SOURCE.format(table="images", default="import"))
    op.execute("UPDATE images SET source = 'files' WHERE build_id IS NOT NULL")
    op.execute(_DELETED.format(table="images"))
    op.execute(_DELETED.format(table="imports"))


def downgrade() -> None:
    for table in ("imports", "images"):
        op.drop_column(table, "deleted_ms")
    for table in ("images", "builds"):
        op.drop_column(table, "source")
