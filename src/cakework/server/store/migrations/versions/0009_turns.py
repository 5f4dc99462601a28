"""Due deliveries are looked for endpoint by endpoint, so that a long queue hides no other."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_webhook_deliveries_endpoint_id_next_ms",
        "webhook_deliveries",
        ["endpoint_id", "next_ms"],
    )
    op.drop_index("ix_webhook_deliveries_next_ms", "webhook_deliveries")


def downgrade() -> None:
    op.create_index("ix_webhook_deliveries_next_ms", "webhook_deliveries", ["next_ms"])
    op.drop_index("ix_webhook_deliveries_endpoint_id_next_ms", "webhook_deliveries")
