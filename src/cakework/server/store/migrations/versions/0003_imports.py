"""Imports of images."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("image_uri", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("request_token", sa.String(length=32), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(status = 'failed') = (error IS NOT NULL)", name=op.f("ck_imports_error_iff_failed")
        ),
        sa.CheckConstraint(
            "status IN ('importing', 'succeeded', 'failed')", name=op.f("ck_imports_status")
        ),
        sa.CheckConstraint("updated_ms >= created_ms", name=op.f("ck_imports_times")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_imports_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
        sa.UniqueConstraint("request_token", name=op.f("uq_imports_request_token")),
    )
    op.create_index(
        "ix_imports_account_id_status", "imports", ["account_id", "status"], unique=False
    )


def downgrade() -> None:
    op.drop_table("imports")
