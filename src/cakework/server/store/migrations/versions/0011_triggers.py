"""Automations: triggers, events, what came in at webhooks; what made an invocation; and what VMs
reach."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_OPEN = sa.text("state IN ('queued', 'running', 'waiting') AND trigger_id IS NOT NULL")
_UNFINISHED = "after IS NOT NULL"
_TYPE = "type IN ('cron', 'event', 'lifecycle', 'webhook')"
_EGRESS = "egress IN ('internet', 'none')"


def upgrade() -> None:
    with op.batch_alter_table("vms") as table:
        table.add_column(
            sa.Column("egress", sa.String(length=8), nullable=False, server_default="internet")
        )
    with op.batch_alter_table("vms") as table:
        table.create_check_constraint(op.f("ck_vms_egress"), _EGRESS)
        table.alter_column("egress", server_default=None)
    for column in (
        sa.Column("trigger_id", sa.String(length=30), nullable=True),
        sa.Column("scheduled_ms", sa.BigInteger(), nullable=True),
        sa.Column("event_id", sa.String(length=30), nullable=True),
        sa.Column("retry", sa.Text(), nullable=True),
        sa.Column("limited", sa.Boolean(), nullable=True),
        sa.Column("handler", sa.String(length=12), nullable=True),
    ):
        op.add_column("invocations", column)
    op.create_index(
        "ix_invocations_trigger_id_created_ms_id",
        "invocations",
        ["trigger_id", "created_ms", "id"],
    )
    op.create_index(
        "ix_invocations_occurrence", "invocations", ["trigger_id", "scheduled_ms"], unique=True
    )
    op.create_index(
        "ix_invocations_open_trigger_id",
        "invocations",
        ["trigger_id"],
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    op.create_index("ix_invocations_event_id", "invocations", ["event_id"])
    _count_masks()
    _make_triggers()
    _make_events()
    op.create_table(
        "webhook_arrivals",
        sa.Column("trigger_id", sa.String(length=30), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("invocation_id", sa.String(length=30), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["trigger_id"],
            ["triggers.id"],
            name=op.f("fk_webhook_arrivals_trigger_id_triggers"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("trigger_id", "digest", name=op.f("pk_webhook_arrivals")),
    )
    op.create_index("ix_webhook_arrivals_created_ms", "webhook_arrivals", ["created_ms"])
    op.create_index(
        "ix_webhook_arrivals_trigger_id_created_ms",
        "webhook_arrivals",
        ["trigger_id", "created_ms"],
    )
    _make_flow()


def downgrade() -> None:
    for table in ("flow_members", "flow_meters", "flow_tickets"):
        op.drop_table(table)
    op.drop_table("webhook_arrivals")
    op.drop_table("events")
    op.drop_table("triggers")
    op.drop_index("ix_function_masks_account_id_bytes", "function_masks")
    with op.batch_alter_table("function_masks") as table:
        table.drop_column("bytes")
        table.drop_column("account_id")
    op.drop_index("ix_invocations_event_id", "invocations")
    op.drop_index("ix_invocations_open_trigger_id", "invocations")
    op.drop_index("ix_invocations_occurrence", "invocations")
    op.drop_index("ix_invocations_trigger_id_created_ms_id", "invocations")
    with op.batch_alter_table("invocations") as table:
        for column in ("handler", "limited", "retry", "event_id", "scheduled_ms", "trigger_id"):
            table.drop_column(column)
    with op.batch_alter_table("vms") as table:
        table.drop_constraint(op.f("ck_vms_egress"), type_="check")
        table.drop_column("egress")


def _count_masks() -> None:
    op.add_column("function_masks", sa.Column("account_id", sa.String(length=64), nullable=True))
    op.add_column(
        "function_masks", sa.Column("bytes", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.execute(
        "UPDATE function_masks SET bytes = length(sealed), account_id = "
        "(SELECT account_id FROM vms WHERE vms.id = function_masks.vm_id)"
    )
    op.create_index("ix_function_masks_account_id_bytes", "function_masks", ["account_id", "bytes"])


def _make_triggers() -> None:
    op.create_table(
        "triggers",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("function_id", sa.String(length=29), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("external_id", sa.String(length=128), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("managed_by", sa.String(length=8), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("filter", sa.Text(), nullable=True),
        sa.Column("retry", sa.Text(), nullable=True),
        sa.Column("limits", sa.Text(), nullable=True),
        sa.Column("on_failure", sa.String(length=29), nullable=True),
        sa.Column("pause_after", sa.Integer(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("paused_reason", sa.Text(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing", sa.Boolean(), nullable=False),
        sa.Column("next_ms", sa.BigInteger(), nullable=True),
        sa.Column("door", sa.LargeBinary(), nullable=True),
        sa.Column("door_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("former_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("former_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("refused_why", sa.Text(), nullable=True),
        sa.Column("refused_ms", sa.BigInteger(), nullable=True),
        sa.Column("request_token", sa.String(length=32), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(_TYPE, name=op.f("ck_triggers_type")),
        sa.CheckConstraint("failures >= 0", name=op.f("ck_triggers_failures")),
        sa.CheckConstraint("(door IS NULL) = (door_sealed IS NULL)", name=op.f("ck_triggers_door")),
        sa.CheckConstraint(
            "(former_sealed IS NULL) = (former_until_ms IS NULL)",
            name=op.f("ck_triggers_former_until"),
        ),
        sa.CheckConstraint("updated_ms >= created_ms", name=op.f("ck_triggers_times")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_triggers_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["function_id"],
            ["functions.id"],
            name=op.f("fk_triggers_function_id_functions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_triggers")),
        sa.UniqueConstraint("door", name=op.f("uq_triggers_door")),
        sa.UniqueConstraint("request_token", name=op.f("uq_triggers_request_token")),
    )
    for name, columns, unique in (
        ("account_id_created_ms_id", ["account_id", "created_ms", "id"], False),
        ("function_id", ["function_id"], False),
        ("account_id_type", ["account_id", "type"], False),
        ("next_ms", ["next_ms"], False),
        ("external_id", ["function_id", "external_id"], True),
    ):
        op.create_index(f"ix_triggers_{name}", "triggers", columns, unique=unique)
    op.create_index(
        "ix_triggers_active",
        "triggers",
        ["account_id", "type", "updated_ms", "id"],
        sqlite_where=sa.text("enabled = 1 AND paused_reason IS NULL"),
        postgresql_where=sa.text("enabled AND paused_reason IS NULL"),
    )


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=256), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("event_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("made", sa.Integer(), nullable=False),
        sa.Column("after", sa.String(length=30), nullable=True),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("cause_id", sa.String(length=30), nullable=True),
        sa.Column("request_token", sa.String(length=32), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_events_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    for name, columns, unique in (
        ("digest", ["account_id", "digest"], True),
        ("account_id_created_ms_id", ["account_id", "created_ms", "id", "bytes"], False),
        ("account_id_type", ["account_id", "type", "created_ms", "id"], False),
        ("created_ms", ["created_ms"], False),
    ):
        op.create_index(f"ix_events_{name}", "events", columns, unique=unique)
    op.create_index(
        "ix_events_unfinished",
        "events",
        ["account_id", "created_ms", "id"],
        sqlite_where=sa.text(_UNFINISHED),
        postgresql_where=sa.text(_UNFINISHED),
    )


def _make_flow() -> None:
    op.create_table(
        "flow_tickets",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("function_id", sa.String(length=29), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("invocation_id", sa.String(length=30), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("scope_id", sa.String(length=30), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("ready_ms", sa.BigInteger(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('held', 'later', 'line', 'timer')", name=op.f("ck_flow_tickets_state")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_flow_tickets_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_flow_tickets")),
    )
    for name, columns, unique in (
        ("invocation_id", ["invocation_id", "stage"], True),
        ("key_turn", ["key", "state", "turn", "ready_ms", "seq"], False),
        ("key_user_id", ["key", "state", "user_id", "turn"], False),
        ("state_account_id", ["state", "account_id", "ready_ms", "seq"], False),
        ("scope_id", ["scope_id"], False),
    ):
        op.create_index(f"ix_flow_tickets_{name}", "flow_tickets", columns, unique=unique)
    op.create_table(
        "flow_meters",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_flow_meters_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_flow_meters")),
    )
    op.create_index("ix_flow_meters_account_id", "flow_meters", ["account_id"])
    op.create_index("ix_flow_meters_until_us", "flow_meters", ["until_us"])
    op.create_table(
        "flow_members",
        sa.Column("invocation_id", sa.String(length=30), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("event_sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_flow_members_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["invocation_id"],
            ["invocations.id"],
            name=op.f("fk_flow_members_invocation_id_invocations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("invocation_id", "number", name=op.f("pk_flow_members")),
    )
