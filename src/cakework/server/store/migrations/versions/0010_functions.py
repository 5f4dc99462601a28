"""Functions: versions, their code and dependencies, instances, invocations, secrets."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_CAUSE = "cause IN ('exited', 'out_of_memory', 'stopped', 'died', 'lost')"
_ROLE = "role IN ('own', 'runtime', 'version', 'instance')"


def upgrade() -> None:
    with op.batch_alter_table("vms") as table:
        table.add_column(
            sa.Column("role", sa.String(length=12), nullable=False, server_default="own")
        )
        table.add_column(sa.Column("cause", sa.String(length=16), nullable=True))
    with op.batch_alter_table("vms") as table:
        table.create_check_constraint(op.f("ck_vms_role"), _ROLE)
        table.create_check_constraint(op.f("ck_vms_cause"), _CAUSE)
        table.alter_column("role", server_default=None)
    op.create_table(
        "function_instances",
        sa.Column("vm_id", sa.String(length=14), nullable=False),
        sa.Column("function_id", sa.String(length=29), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("made_with", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("served", sa.Integer(), nullable=False),
        sa.Column("claimed_by", sa.String(length=32), nullable=True),
        sa.Column("claimed_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("leased_by", sa.String(length=32), nullable=True),
        sa.Column("leased_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("used_ms", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('busy', 'draining', 'idle', 'starting')",
            name=op.f("ck_function_instances_state"),
        ),
        sa.CheckConstraint(
            "(claimed_by IS NULL) = (claimed_until_ms IS NULL)",
            name=op.f("ck_function_instances_claim"),
        ),
        sa.CheckConstraint(
            "(leased_by IS NULL) = (leased_until_ms IS NULL)",
            name=op.f("ck_function_instances_lease"),
        ),
        sa.CheckConstraint("running >= 0", name=op.f("ck_function_instances_running")),
        sa.PrimaryKeyConstraint("vm_id", name=op.f("pk_function_instances")),
    )
    op.create_index(
        "ix_function_instances_version",
        "function_instances",
        ["function_id", "version", "state"],
        unique=False,
    )
    op.create_index(
        "ix_function_instances_leased_by", "function_instances", ["leased_by"], unique=False
    )
    op.create_table(
        "function_layers",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("runtime", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("build_id", sa.String(length=36), nullable=False),
        sa.Column("image_id", sa.String(length=26), nullable=True),
        sa.Column("used_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(state = 'failed') = (error IS NOT NULL)",
            name=op.f("ck_function_layers_error_iff_failed"),
        ),
        sa.CheckConstraint(
            "runtime IN ('image', 'node24', 'python3.11', 'python3.13')",
            name=op.f("ck_function_layers_runtime"),
        ),
        sa.CheckConstraint(
            "state <> 'ready' OR image_id IS NOT NULL",
            name=op.f("ck_function_layers_image_if_ready"),
        ),
        sa.CheckConstraint(
            "state IN ('building', 'failed', 'gone', 'ready')",
            name=op.f("ck_function_layers_state"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_function_layers_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_function_layers")),
        sa.UniqueConstraint("build_id", name=op.f("uq_function_layers_build_id")),
    )
    op.create_index(
        "ix_function_layers_digest",
        "function_layers",
        ["account_id", "runtime", "digest"],
        unique=True,
    )
    op.create_table(
        "function_secrets",
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("function_id", sa.String(length=29), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.String(length=16), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_function_secrets_account_id")
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "user_id", "function_id", "name", name=op.f("pk_function_secrets")
        ),
    )
    op.create_table(
        "function_sources",
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("bytes >= 0", name=op.f("ck_function_sources_bytes")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_function_sources_account_id")
        ),
        sa.PrimaryKeyConstraint("account_id", "digest", name=op.f("pk_function_sources")),
    )
    op.create_table(
        "functions",
        sa.Column("id", sa.String(length=29), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("runtime", sa.String(length=16), nullable=False),
        sa.Column("hostname", sa.String(length=253), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("min_instances", sa.Integer(), nullable=False),
        sa.Column("env_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("live_version", sa.Integer(), nullable=True),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.Column("asked_seq", sa.Integer(), nullable=False),
        sa.Column("live_seq", sa.Integer(), nullable=False),
        sa.Column("request_token", sa.String(length=32), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('function', 'transform')", name=op.f("ck_functions_kind")),
        sa.CheckConstraint(
            "runtime IN ('image', 'node24', 'python3.11', 'python3.13')",
            name=op.f("ck_functions_runtime"),
        ),
        sa.CheckConstraint("live_version <= last_version", name=op.f("ck_functions_live_version")),
        sa.CheckConstraint("updated_ms >= created_ms", name=op.f("ck_functions_times")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_functions_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_functions")),
        sa.UniqueConstraint("hostname", name=op.f("uq_functions_hostname")),
        sa.UniqueConstraint("request_token", name=op.f("uq_functions_request_token")),
    )
    op.create_index(
        "ix_functions_account_id_created_ms_id",
        "functions",
        ["account_id", "created_ms", "id"],
        unique=False,
    )
    op.create_index(
        "ix_functions_name", "functions", ["account_id", "user_id", "name"], unique=True
    )
    op.create_table(
        "invocations",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("function_id", sa.String(length=29), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("trigger", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=24), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("unreached", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=True),
        sa.Column("event_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("event_bytes", sa.BigInteger(), nullable=False),
        sa.Column("kept_bytes", sa.BigInteger(), nullable=False),
        sa.Column("result_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("result_type", sa.String(length=255), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("vm_id", sa.String(length=14), nullable=True),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=True),
        sa.Column("cancel", sa.Boolean(), nullable=False),
        sa.Column("next_ms", sa.BigInteger(), nullable=False),
        sa.Column("ttl_ms", sa.BigInteger(), nullable=True),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("replay_of", sa.String(length=30), nullable=True),
        sa.Column("cause_id", sa.String(length=30), nullable=True),
        sa.Column("request_token", sa.String(length=32), nullable=True),
        sa.Column("claimed_by", sa.String(length=32), nullable=True),
        sa.Column("claimed_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("settled_ms", sa.BigInteger(), nullable=True),
        sa.Column("replay_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(state = 'running') = (vm_id IS NOT NULL)", name=op.f("ck_invocations_vm_iff_running")
        ),
        sa.CheckConstraint(
            "(state IN ('canceled', 'expired', 'failed', 'skipped', 'succeeded')) = "
            "(ended_ms IS NOT NULL)",
            name=op.f("ck_invocations_ended_iff_final"),
        ),
        sa.CheckConstraint("kind IN ('direct', 'queued')", name=op.f("ck_invocations_kind")),
        sa.CheckConstraint(
            "state <> 'running' OR deadline_ms IS NOT NULL", name=op.f("ck_invocations_deadline")
        ),
        sa.CheckConstraint(
            "state IN ('canceled', 'expired', 'failed', 'queued', 'running', 'skipped', "
            "'succeeded', 'waiting')",
            name=op.f("ck_invocations_state"),
        ),
        sa.CheckConstraint(
            "(claimed_by IS NULL) = (claimed_until_ms IS NULL)", name=op.f("ck_invocations_claim")
        ),
        sa.CheckConstraint("attempt >= 0", name=op.f("ck_invocations_attempt")),
        sa.CheckConstraint("updated_ms >= created_ms", name=op.f("ck_invocations_times")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_invocations_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invocations")),
        sa.UniqueConstraint("request_token", name=op.f("uq_invocations_request_token")),
    )
    waiting = sa.text("state IN ('queued', 'waiting')")
    for name, columns in (
        ("account_id", ["account_id"]),
        ("turn", ["function_id", "user_id", "next_ms", "id"]),
    ):
        op.create_index(
            f"ix_invocations_waiting_{name}",
            "invocations",
            columns,
            unique=False,
            sqlite_where=waiting,
            postgresql_where=waiting,
        )
    op.create_index(
        "ix_invocations_account_id_created_ms_id",
        "invocations",
        ["account_id", "created_ms", "id"],
        unique=False,
    )
    op.create_index(
        "ix_invocations_account_id_updated_ms_id",
        "invocations",
        ["account_id", "updated_ms", "id"],
        unique=False,
    )
    op.create_index(
        "ix_invocations_replay_ms",
        "invocations",
        ["replay_ms", "account_id", "id"],
        unique=False,
    )
    op.create_index("ix_invocations_ended_ms", "invocations", ["ended_ms"], unique=False)
    op.create_index(
        "ix_invocations_account_id_ended_ms_kept_bytes",
        "invocations",
        ["account_id", "ended_ms", "kept_bytes"],
        unique=False,
    )
    op.create_index(
        "ix_invocations_function_id_created_ms_id",
        "invocations",
        ["function_id", "created_ms", "id"],
        unique=False,
    )
    op.create_index(
        "ix_invocations_state_next_ms", "invocations", ["state", "next_ms"], unique=False
    )
    op.create_index("ix_invocations_vm_id", "invocations", ["vm_id"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("invocation_id", sa.String(length=30), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("vm_id", sa.String(length=14), nullable=False),
        sa.Column("start", sa.String(length=8), nullable=False),
        sa.Column("outcome", sa.String(length=24), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("first_line", sa.BigInteger(), nullable=True),
        sa.Column("last_line", sa.BigInteger(), nullable=True),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(outcome IS NULL) = (ended_ms IS NULL)", name=op.f("ck_attempts_ended_iff_outcome")
        ),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_attempts_attempt")),
        sa.ForeignKeyConstraint(
            ["invocation_id"],
            ["invocations.id"],
            name=op.f("fk_attempts_invocation_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("invocation_id", "attempt", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_vm_id", "attempts", ["vm_id"], unique=False)
    op.create_table(
        "function_vms",
        sa.Column("vm_id", sa.String(length=14), nullable=False),
        sa.Column("function_id", sa.String(length=29), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("vm_id", name=op.f("pk_function_vms")),
    )
    op.create_index("ix_function_vms_function_id", "function_vms", ["function_id"], unique=False)
    op.create_table(
        "function_drafts",
        sa.Column("function_id", sa.String(length=29), nullable=False),
        sa.Column("edition", sa.Integer(), nullable=False),
        sa.Column("source_digest", sa.String(length=71), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["function_id"],
            ["functions.id"],
            name=op.f("fk_function_drafts_function_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("function_id", name=op.f("pk_function_drafts")),
    )
    op.create_index(
        op.f("ix_function_drafts_source_digest"), "function_drafts", ["source_digest"], unique=False
    )
    op.create_table(
        "function_runtime_vms",
        sa.Column("vm_id", sa.String(length=14), nullable=False),
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("layer_id", sa.String(length=30), nullable=False),
        sa.Column("cpu", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["layer_id"], ["function_layers.id"], name=op.f("fk_function_runtime_vms_layer_id")
        ),
        sa.PrimaryKeyConstraint("vm_id", name=op.f("pk_function_runtime_vms")),
    )
    op.create_index(
        "ix_function_runtime_vms_shape",
        "function_runtime_vms",
        ["layer_id", "cpu", "memory_mb", "node_id"],
        unique=True,
    )
    op.create_table(
        "function_versions",
        sa.Column("function_id", sa.String(length=29), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("runtime", sa.String(length=16), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("signature", sa.String(length=16), nullable=True),
        sa.Column("handlers", sa.Text(), nullable=True),
        sa.Column("source_digest", sa.String(length=71), nullable=False),
        sa.Column("layer_id", sa.String(length=30), nullable=False),
        sa.Column("build_id", sa.String(length=36), nullable=False),
        sa.Column("vm_id", sa.String(length=14), nullable=True),
        sa.Column("made_with", sa.String(length=64), nullable=True),
        sa.Column("snapshot_error", sa.Text(), nullable=True),
        sa.Column("promote", sa.Boolean(), nullable=False),
        sa.Column("asked_seq", sa.Integer(), nullable=False),
        sa.Column("shelved", sa.Boolean(), nullable=False),
        sa.Column("fresh", sa.String(length=10), nullable=True),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("created_by", sa.String(length=160), nullable=True),
        sa.Column("request_token", sa.String(length=32), nullable=True),
        sa.Column("claimed_by", sa.String(length=32), nullable=True),
        sa.Column("claimed_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "runtime IN ('image', 'node24', 'python3.11', 'python3.13')",
            name=op.f("ck_function_versions_runtime"),
        ),
        sa.CheckConstraint(
            "state <> 'failed' OR error IS NOT NULL",
            name=op.f("ck_function_versions_error_if_failed"),
        ),
        sa.CheckConstraint(
            "state IN ('building', 'failed', 'ready', 'retired')",
            name=op.f("ck_function_versions_state"),
        ),
        sa.CheckConstraint(
            "(claimed_by IS NULL) = (claimed_until_ms IS NULL)",
            name=op.f("ck_function_versions_claim"),
        ),
        sa.CheckConstraint("number >= 1", name=op.f("ck_function_versions_number")),
        sa.ForeignKeyConstraint(
            ["function_id"],
            ["functions.id"],
            name=op.f("fk_function_versions_function_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["layer_id"], ["function_layers.id"], name=op.f("fk_function_versions_layer_id")
        ),
        sa.PrimaryKeyConstraint("function_id", "number", name=op.f("pk_function_versions")),
        sa.UniqueConstraint("request_token", name=op.f("uq_function_versions_request_token")),
    )
    op.create_index(
        op.f("ix_function_versions_build_id"), "function_versions", ["build_id"], unique=False
    )
    op.create_index(
        op.f("ix_function_versions_layer_id"), "function_versions", ["layer_id"], unique=False
    )
    op.create_index(
        op.f("ix_function_versions_source_digest"),
        "function_versions",
        ["source_digest"],
        unique=False,
    )
    op.create_index("ix_function_versions_state", "function_versions", ["state"], unique=False)
    op.create_table(
        "function_trials",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("account_id", sa.String(length=64), nullable=False),
        sa.Column("function_id", sa.String(length=29), nullable=False),
        sa.Column("runtime", sa.String(length=16), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("signature", sa.String(length=16), nullable=True),
        sa.Column("source_digest", sa.String(length=71), nullable=False),
        sa.Column("layer_id", sa.String(length=30), nullable=False),
        sa.Column("fresh", sa.String(length=10), nullable=True),
        sa.Column("vm_id", sa.String(length=14), nullable=True),
        sa.Column("claimed_by", sa.String(length=32), nullable=True),
        sa.Column("claimed_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "runtime IN ('image', 'node24', 'python3.11', 'python3.13')",
            name=op.f("ck_function_trials_runtime"),
        ),
        sa.CheckConstraint(
            "(claimed_by IS NULL) = (claimed_until_ms IS NULL)",
            name=op.f("ck_function_trials_claim"),
        ),
        sa.ForeignKeyConstraint(
            ["id"], ["invocations.id"], name=op.f("fk_function_trials_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_function_trials_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["layer_id"], ["function_layers.id"], name=op.f("fk_function_trials_layer_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_function_trials")),
    )
    op.create_index(
        "ix_function_trials_account_id", "function_trials", ["account_id"], unique=False
    )
    op.create_index(
        op.f("ix_function_trials_source_digest"), "function_trials", ["source_digest"], unique=False
    )
    op.create_index(
        op.f("ix_function_trials_layer_id"), "function_trials", ["layer_id"], unique=False
    )

    # What VMs print of secrets.
    op.create_table(
        "function_masks",
        sa.Column("vm_id", sa.String(length=14), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("vm_id", name=op.f("pk_function_masks")),
    )

    # What endpoints of webhooks were not told of.
    op.add_column(
        "webhook_endpoints",
        sa.Column("missed", sa.BigInteger(), nullable=False, server_default="0"),
    )


def downgrade() -> None:
    op.drop_column("webhook_endpoints", "missed")
    op.drop_table("function_masks")
    op.drop_index(op.f("ix_function_trials_layer_id"), table_name="function_trials")
    op.drop_index(op.f("ix_function_trials_source_digest"), table_name="function_trials")
    op.drop_index("ix_function_trials_account_id", table_name="function_trials")
    op.drop_table("function_trials")
    op.drop_index("ix_function_versions_state", table_name="function_versions")
    op.drop_index(op.f("ix_function_versions_source_digest"), table_name="function_versions")
    op.drop_index(op.f("ix_function_versions_layer_id"), table_name="function_versions")
    op.drop_index(op.f("ix_function_versions_build_id"), table_name="function_versions")
    op.drop_table("function_versions")
    op.drop_index("ix_function_runtime_vms_shape", table_name="function_runtime_vms")
    op.drop_table("function_runtime_vms")
    op.drop_index(op.f("ix_function_drafts_source_digest"), table_name="function_drafts")
    op.drop_table("function_drafts")
    op.drop_index("ix_function_vms_function_id", table_name="function_vms")
    op.drop_table("function_vms")
    op.drop_index("ix_attempts_vm_id", table_name="attempts")
    op.drop_table("attempts")
    op.drop_index("ix_invocations_vm_id", table_name="invocations")
    op.drop_index("ix_invocations_state_next_ms", table_name="invocations")
    op.drop_index("ix_invocations_function_id_created_ms_id", table_name="invocations")
    op.drop_index("ix_invocations_ended_ms", table_name="invocations")
    op.drop_index("ix_invocations_account_id_ended_ms_kept_bytes", table_name="invocations")
    op.drop_index("ix_invocations_replay_ms", table_name="invocations")
    op.drop_index("ix_invocations_account_id_updated_ms_id", table_name="invocations")
    op.drop_index("ix_invocations_account_id_created_ms_id", table_name="invocations")
    op.drop_table("invocations")
    op.drop_index("ix_functions_name", table_name="functions")
    op.drop_index("ix_functions_account_id_created_ms_id", table_name="functions")
    op.drop_table("functions")
    op.drop_table("function_sources")
    op.drop_table("function_secrets")
    op.drop_index("ix_function_layers_digest", table_name="function_layers")
    op.drop_table("function_layers")
    op.drop_index("ix_function_instances_leased_by", table_name="function_instances")
    op.drop_index("ix_function_instances_version", table_name="function_instances")
    op.drop_table("function_instances")
    with op.batch_alter_table("vms") as table:
        table.drop_constraint(op.f("ck_vms_cause"), type_="check")
        table.drop_column("cause")
        table.drop_constraint(op.f("ck_vms_role"), type_="check")
        table.drop_column("role")
