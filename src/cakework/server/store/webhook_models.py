"""The tables of webhooks: endpoints, events, and the delivery of each event to each endpoint.

    pending ──▶ succeeded   (answered 2xx)
       └──────▶ failed      (tried for the last time, or the endpoint was disabled)

A delivery is claimed for an attempt with a lease: a token, and a time after which another may
claim it. Times are unix milliseconds.
"""

from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from cakework.server.store.models import Base


class DeliveryStatus(StrEnum):
    """Where a delivery is in its life."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class WebhookEndpointRow(Base):
    """Where an account wants to be told. ``events`` is None for every event.

    ``disabled_reason`` is there exactly when nothing is sent to it. ``former_sealed`` holds the
    secrets before this one, and until when each of them signs too. ``missed`` counts the ends of
    invocations that it was not told of, since very many deliveries were pending.
    """

    __tablename__ = "webhook_endpoints"
    __table_args__ = (CheckConstraint("updated_ms >= created_ms", name="times"),)

    id: Mapped[str] = mapped_column(String(29), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    events: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    secret_sealed: Mapped[bytes] = mapped_column(LargeBinary)
    former_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    request_token: Mapped[str | None] = mapped_column(String(32), unique=True)
    missed: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class WebhookEventRow(Base):
    """What happened, as it is sent: ``body`` is the same to every endpoint, at every attempt."""

    __tablename__ = "webhook_events"

    id: Mapped[str] = mapped_column(String(30), primary_key=True)
    type: Mapped[str] = mapped_column(String(40))
    body: Mapped[str] = mapped_column(Text)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class WebhookDeliveryRow(Base):
    """An event on its way to an endpoint, and how the last attempt went.

    ``next_ms`` is when the next attempt is due, None when there is none.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'succeeded', 'failed')", name="status"),
        CheckConstraint("(status = 'pending') = (next_ms IS NOT NULL)", name="due_iff_pending"),
        CheckConstraint("(lease_token IS NULL) = (lease_until_ms IS NULL)", name="lease_is_whole"),
        CheckConstraint("attempts >= 0", name="attempts"),
        Index("ix_webhook_deliveries_endpoint_id_id", "endpoint_id", "id"),
        Index("ix_webhook_deliveries_endpoint_id_next_ms", "endpoint_id", "next_ms"),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id"))
    event_id: Mapped[str] = mapped_column(ForeignKey("webhook_events.id"), index=True)
    status: Mapped[str] = mapped_column(String(16), default=DeliveryStatus.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    next_ms: Mapped[int | None] = mapped_column(BigInteger)
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    attempted_ms: Mapped[int | None] = mapped_column(BigInteger)
    response_status: Mapped[int | None] = mapped_column(SmallInteger)
    response_body: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    request_token: Mapped[str | None] = mapped_column(String(32), unique=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)
