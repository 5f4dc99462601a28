"""The tables of automations: triggers, events, and what came in at webhooks.

Times are unix milliseconds. ``user_id`` is an end user of the account's, empty for the account
itself. What is sealed is bound to its row's id.
"""

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from cakework.domain.triggers import TriggerType
from cakework.server.store.models import Base

_UNFINISHED = "after IS NOT NULL"


def _one_of(column: str, words: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(str(word.value)) for word in sorted(words))})"


class TriggerRow(Base):
    """A trigger. ``config`` is what its type wants, ``filter``, ``retry`` and ``limits`` are as
    they were given, all JSON.

    ``next_ms`` is when a schedule is due, None for whatever has none. ``digest`` tells what a
    declaration with an ``external_id`` said. ``paused_reason``: why it is paused by itself.
    ``failures`` counts invocations in a row that failed for good, and ``failing`` says that the
    last did. ``door`` is the mark of the secret in a webhook's URL, ``door_sealed`` that itself;
    ``former_sealed`` is the secret before, which is taken until ``former_until_ms``.
    ``refused`` counts what came in and was not signed.
    """

    __tablename__ = "triggers"
    __table_args__ = (
        CheckConstraint(_one_of("type", TriggerType), name="type"),
        CheckConstraint("failures >= 0", name="failures"),
        CheckConstraint("(door IS NULL) = (door_sealed IS NULL)", name="door"),
        CheckConstraint("(former_sealed IS NULL) = (former_until_ms IS NULL)", name="former_until"),
        CheckConstraint("updated_ms >= created_ms", name="times"),
        Index("ix_triggers_account_id_created_ms_id", "account_id", "created_ms", "id"),
        Index("ix_triggers_function_id", "function_id"),
        Index("ix_triggers_account_id_type", "account_id", "type"),
        Index(
            *("ix_triggers_active", "account_id", "type", "updated_ms", "id"),
            sqlite_where=text("enabled = 1 AND paused_reason IS NULL"),
            postgresql_where=text("enabled AND paused_reason IS NULL"),
        ),
        Index("ix_triggers_next_ms", "next_ms"),
        Index("ix_triggers_external_id", "function_id", "external_id", unique=True),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    function_id: Mapped[str] = mapped_column(ForeignKey("functions.id", ondelete="CASCADE"))
    user_id: Mapped[str] = mapped_column(String(128), default="")
    type: Mapped[str] = mapped_column(String(16))
    name: Mapped[str | None] = mapped_column(String(255))
    external_id: Mapped[str | None] = mapped_column(String(128))
    digest: Mapped[str | None] = mapped_column(String(64))
    managed_by: Mapped[str] = mapped_column(String(8), default="api")
    config: Mapped[str] = mapped_column(Text)
    filter: Mapped[str | None] = mapped_column(Text)
    retry: Mapped[str | None] = mapped_column(Text)
    limits: Mapped[str | None] = mapped_column(Text)
    on_failure: Mapped[str | None] = mapped_column(String(29))
    pause_after: Mapped[int | None] = mapped_column()
    enabled: Mapped[bool] = mapped_column(default=True)
    paused_reason: Mapped[str | None] = mapped_column(Text)
    failures: Mapped[int] = mapped_column(default=0)
    failing: Mapped[bool] = mapped_column(default=False)
    next_ms: Mapped[int | None] = mapped_column(BigInteger)
    door: Mapped[bytes | None] = mapped_column(LargeBinary, unique=True)
    door_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    secret_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    former_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    former_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    refused: Mapped[int] = mapped_column(default=0)
    refused_why: Mapped[str | None] = mapped_column(Text)
    refused_ms: Mapped[int | None] = mapped_column(BigInteger)
    request_token: Mapped[str | None] = mapped_column(String(32), unique=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class EventRow(Base):
    """An event that somebody emitted, sealed whole. ``digest`` tells its source and id.

    It has led to ``made`` invocations. While ``after`` is not None, triggers whose ids are above it
    are still to be looked at, and the loop does that. ``depth`` is that of the work it makes.
    ``bytes`` is what it counts in its account. ``request_token`` names the idempotent request that
    it came with.
    """

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_digest", "account_id", "digest", unique=True),
        Index("ix_events_account_id_created_ms_id", "account_id", "created_ms", "id", "bytes"),
        Index("ix_events_account_id_type", "account_id", "type", "created_ms", "id"),
        Index(
            *("ix_events_unfinished", "account_id", "created_ms", "id"),
            sqlite_where=text(_UNFINISHED),
            postgresql_where=text(_UNFINISHED),
        ),
        Index("ix_events_created_ms", "created_ms"),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    user_id: Mapped[str] = mapped_column(String(128), default="")
    digest: Mapped[str] = mapped_column(String(64))
    type: Mapped[str] = mapped_column(String(256))
    subject: Mapped[str | None] = mapped_column(Text)
    event_sealed: Mapped[bytes] = mapped_column(LargeBinary)
    bytes: Mapped[int] = mapped_column(BigInteger)
    made: Mapped[int] = mapped_column(default=0)
    after: Mapped[str | None] = mapped_column(String(30))
    depth: Mapped[int] = mapped_column(default=0)
    cause_id: Mapped[str | None] = mapped_column(String(30))
    request_token: Mapped[str | None] = mapped_column(String(32))
    created_ms: Mapped[int] = mapped_column(BigInteger)


class ArrivalRow(Base):
    """What came in at a webhook, by the digest of the provider's id of it, so that it is done once.
    It led to ``invocation_id``."""

    __tablename__ = "webhook_arrivals"
    __table_args__ = (
        Index("ix_webhook_arrivals_created_ms", "created_ms"),
        Index("ix_webhook_arrivals_trigger_id_created_ms", "trigger_id", "created_ms"),
    )

    trigger_id: Mapped[str] = mapped_column(
        ForeignKey("triggers.id", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    invocation_id: Mapped[str | None] = mapped_column(String(30))
    created_ms: Mapped[int] = mapped_column(BigInteger)
