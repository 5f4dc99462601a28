"""The tables of flow control: what is held and why, how fast things went, what is gathered.

``key`` is the mark of a rule's key: of the account, whose rule it is, and the value in the event.
Times are unix milliseconds unless they say otherwise.
"""

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from cakework.server.store.models import Base


class TicketState(StrEnum):
    """Where an invocation is with one of its rules.

    later   one before has to let it pass first
    timer   it passes at ``ready_ms``
    line    it waits for a place of its key, behind who was ready earlier
    held    it has a place
    """

    LATER = "later"
    TIMER = "timer"
    LINE = "line"
    HELD = "held"


_STATES = ", ".join(repr(str(state.value)) for state in sorted(TicketState))


class TicketRow(Base):
    """A rule that an invocation has to pass yet, or has a place of; they apply by ``stage``.

    ``seq`` tells who came first. ``scope_id`` is the function or the trigger whose the rule is, and
    ``rule`` is that as JSON, empty for a delay that was asked for with the invocation.
    ``turn`` is by what round of those who wait in its line it is served (``passages.py``).
    ``since_ms``: when the first came of what is debounced. ``size`` events are gathered, of
    ``bytes`` in all.
    """

    __tablename__ = "flow_tickets"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        Index("ix_flow_tickets_invocation_id", "invocation_id", "stage", unique=True),
        Index("ix_flow_tickets_key_turn", "key", "state", "turn", "ready_ms", "seq"),
        Index("ix_flow_tickets_key_user_id", "key", "state", "user_id", "turn"),
        Index("ix_flow_tickets_state_account_id", "state", "account_id", "ready_ms", "seq"),
        Index("ix_flow_tickets_scope_id", "scope_id"),
    )

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    function_id: Mapped[str] = mapped_column(String(29))
    user_id: Mapped[str] = mapped_column(String(128))
    invocation_id: Mapped[str] = mapped_column(String(30))
    stage: Mapped[int] = mapped_column()
    scope_id: Mapped[str] = mapped_column(String(30))
    rule: Mapped[str] = mapped_column(Text)
    key: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(8))
    turn: Mapped[int] = mapped_column(BigInteger, default=0)
    ready_ms: Mapped[int] = mapped_column(BigInteger)
    since_ms: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int] = mapped_column(default=0)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class MeterRow(Base):
    """How fast something of a key went: all that came is accounted for until ``until_us``, in unix
    microseconds. When that is over it says nothing any more."""

    __tablename__ = "flow_meters"
    __table_args__ = (
        Index("ix_flow_meters_account_id", "account_id"),
        Index("ix_flow_meters_until_us", "until_us"),
    )

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    until_us: Mapped[int] = mapped_column(BigInteger)


class MemberRow(Base):
    """An event that is gathered for an invocation, sealed: its first one is in that itself."""

    __tablename__ = "flow_members"

    invocation_id: Mapped[str] = mapped_column(
        ForeignKey("invocations.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    event_sealed: Mapped[bytes] = mapped_column(LargeBinary)
