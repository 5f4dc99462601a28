"""Alembic's entry: runs migrations on the connection that the server hands over."""

from alembic import context

from cakework.server.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transaction_per_migration=False,
)
context.run_migrations()
