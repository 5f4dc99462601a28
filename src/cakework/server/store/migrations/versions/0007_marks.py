"""Idempotent requests are known again by a mark with a key, and not by a bare digest."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The key is not in the store, so what was kept for a day at the most cannot be marked here.
    op.execute("DELETE FROM idempotency")


def downgrade() -> None:
    op.execute("DELETE FROM idempotency")
