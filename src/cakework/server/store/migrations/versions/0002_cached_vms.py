"""VMs that are started again and again; environments are sealed.

A VM whose start was under way loses its environment and so is ended; those that run do not
need theirs any more.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("UPDATE vms SET wanted = 'destroyed' WHERE state = 'created'")
    false, one = sa.false(), sa.text("1")
    with op.batch_alter_table("vms") as table:
        table.drop_column("env")
        table.add_column(sa.Column("cached", sa.Boolean(), nullable=False, server_default=false))
        table.add_column(sa.Column("run", sa.Integer(), nullable=False, server_default=one))
        table.add_column(sa.Column("env_sealed", sa.LargeBinary()))
        table.add_column(sa.Column("start_token", sa.String(length=32)))
        table.drop_constraint(op.f("ck_vms_wanted"), type_="check")
    with op.batch_alter_table("vms") as table:
        table.create_check_constraint(
            op.f("ck_vms_wanted"), "wanted IN ('started', 'stopped', 'destroyed')"
        )
        table.create_check_constraint(
            op.f("ck_vms_stopped_wanted_if_cached"), "cached OR wanted <> 'stopped'"
        )
        table.create_check_constraint(op.f("ck_vms_run"), "run >= 1 OR cached AND run = 0")
        table.alter_column("cached", server_default=None)
        table.alter_column("run", server_default=None)


def downgrade() -> None:
    raise NotImplementedError("sealed environments cannot be read by what came before")
