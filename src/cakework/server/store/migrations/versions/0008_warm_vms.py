"""Cached VMs whose program is kept: snapshots, memory, forks, waking and idling."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_RULES = {
    "snapshot": "snapshot IN ('boot', 'ready')",
    "snapshot_state": "snapshot_state IN ('making', 'made', 'failed')",
    "snapshot_state_iff_ready": "(snapshot = 'ready') = (snapshot_state IS NOT NULL)",
    "snapshot_fits": "snapshot = 'boot' OR cached AND volume_gb = 0",
    "snapshot_error_iff_failed": (
        "(snapshot_error IS NOT NULL) = (coalesce(snapshot_state, '') = 'failed')"
    ),
    "auto_start": "NOT auto_start OR cached AND port IS NOT NULL",
    "idle_timeout_s": "idle_timeout_s BETWEEN 1 AND 86400",
    "idle_timeout": "idle_timeout_s IS NULL OR cached AND port IS NOT NULL",
    "memory_kept": "NOT memory_kept OR cached AND state IN ('stopped', 'created')",
    "fork": "(fork_of IS NULL) = (fork_batch IS NULL)",
}
_NEW = ("snapshot", "auto_start", "memory_kept")


def upgrade() -> None:
    false = sa.false()
    with op.batch_alter_table("vms") as table:
        table.add_column(
            sa.Column("snapshot", sa.String(length=8), nullable=False, server_default="boot")
        )
        table.add_column(sa.Column("snapshot_state", sa.String(length=8)))
        table.add_column(sa.Column("snapshot_error", sa.Text()))
        table.add_column(sa.Column("hooks", sa.Text()))
        table.add_column(
            sa.Column("auto_start", sa.Boolean(), nullable=False, server_default=false)
        )
        table.add_column(sa.Column("idle_timeout_s", sa.Integer()))
        table.add_column(
            sa.Column("memory_kept", sa.Boolean(), nullable=False, server_default=false)
        )
        table.add_column(sa.Column("rest_reason", sa.Text()))
        table.add_column(sa.Column("fork_of", sa.String(length=14)))
        table.add_column(sa.Column("fork_batch", sa.String(length=32)))
    with op.batch_alter_table("vms") as table:
        for name, rule in _RULES.items():
            table.create_check_constraint(op.f(f"ck_vms_{name}"), rule)
        for column in _NEW:
            table.alter_column(column, server_default=None)
    op.create_index("ix_vms_fork_batch", "vms", ["fork_batch"])
    op.create_index("ix_vms_snapshot_state", "vms", ["snapshot_state"])


def downgrade() -> None:
    op.drop_index("ix_vms_snapshot_state", "vms")
    op.drop_index("ix_vms_fork_batch", "vms")
    with op.batch_alter_table("vms") as table:
        for name in _RULES:
            table.drop_constraint(op.f(f"ck_vms_{name}"), type_="check")
        for column in (
            *("snapshot", "snapshot_state", "snapshot_error", "hooks", "auto_start"),
            *("idle_timeout_s", "memory_kept", "rest_reason", "fork_of", "fork_batch"),
        ):
            table.drop_column(column)
