"""The tables of functions: their versions and code, instances, invocations, secrets.

Whoever works at a row claims it: ``claimed_by`` is a server's process, and after
``claimed_until_ms`` another may claim it. ``user_id`` is an end user of the account's, empty for
the account itself. Times are unix milliseconds. What is sealed is bound to its row's id.
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

from cakework.domain.functions import FunctionKind, Runtime, VersionState
from cakework.domain.invocations import FINAL, InvocationState
from cakework.server.store.models import Base

SERVER_ID = 32


def _one_of(column: str, words: type[StrEnum] | frozenset[InvocationState]) -> str:
    return f"{column} IN ({', '.join(repr(str(word.value)) for word in sorted(words))})"


CLAIM = "(claimed_by IS NULL) = (claimed_until_ms IS NULL)"
LEASE = "(leased_by IS NULL) = (leased_until_ms IS NULL)"
_FINAL = _one_of("state", FINAL)
WAITS = text("invocations.state IN ('queued', 'waiting')")
"""What waits to be started: said in the words of the indexes that hold nothing else."""
OPEN = text("invocations.state IN ('queued', 'running', 'waiting')")
"""What a trigger made that has not ended, in the words of the index of that."""
BY_TURN = "INDEXED BY ix_invocations_waiting_turn"
BY_ACCOUNT = "INDEXED BY ix_invocations_waiting_account_id"
BY_TRIGGER = "INDEXED BY ix_invocations_open_trigger_id"
BY_REPLAY = "INDEXED BY ix_invocations_replay_ms"
"""Hints for SQLite, which would take the index that says more of states."""
ROW_BYTES = 1_024
"""What an invocation counts besides its event, result and error: its attempts, and indexes."""
_IN_INDEX = text("state IN ('queued', 'waiting')")
_OPEN_IN_INDEX = text("state IN ('queued', 'running', 'waiting') AND trigger_id IS NOT NULL")


def _of_waiting(name: str, *columns: str) -> Index:
    return Index(name, *columns, sqlite_where=_IN_INDEX, postgresql_where=_IN_INDEX)


class LayerState(StrEnum):
    """Where the dependencies of versions are: being installed, there, or impossible; gone: they
    were there, and no version needs them at present."""

    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"
    GONE = "gone"


class InstanceState(StrEnum):
    """What an instance is at: being made; without work; at work; to go when it has none."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"


class FunctionRow(Base):
    """A function. ``settings`` are :class:`~cakework.domain.functions.FunctionSettings` as JSON.

    ``last_version`` is the highest number given to a version; ``asked_seq`` counts the wishes to
    have a version live, and ``live_seq`` is the one that made the present one live. ``env_sealed``
    holds the settings' variables, which are not in ``settings``; ``min_instances`` is in them, too,
    to be found by.
    """

    __tablename__ = "functions"
    __table_args__ = (
        CheckConstraint(_one_of("kind", FunctionKind), name="kind"),
        CheckConstraint(_one_of("runtime", Runtime), name="runtime"),
        CheckConstraint("live_version <= last_version", name="live_version"),
        CheckConstraint("updated_ms >= created_ms", name="times"),
        Index("ix_functions_name", "account_id", "user_id", "name", unique=True),
        Index("ix_functions_account_id_created_ms_id", "account_id", "created_ms", "id"),
    )

    id: Mapped[str] = mapped_column(String(29), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    user_id: Mapped[str] = mapped_column(String(128), default="")
    name: Mapped[str] = mapped_column(String(63))
    kind: Mapped[str] = mapped_column(String(16), default=FunctionKind.FUNCTION)
    runtime: Mapped[str] = mapped_column(String(16))
    hostname: Mapped[str] = mapped_column(String(253), unique=True)
    settings: Mapped[str] = mapped_column(Text)
    min_instances: Mapped[int] = mapped_column(default=0)
    env_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    live_version: Mapped[int | None] = mapped_column()
    last_version: Mapped[int] = mapped_column(default=0)
    asked_seq: Mapped[int] = mapped_column(default=0)
    live_seq: Mapped[int] = mapped_column(default=0)
    request_token: Mapped[str | None] = mapped_column(String(32), unique=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class LayerRow(Base):
    """Dependencies of versions: an image of the account's, by runtime and what was locked.

    ``build_id`` is chosen with the record, and that build has the log; ``image_id`` is there when
    it is ``ready``.
    """

    __tablename__ = "function_layers"
    __table_args__ = (
        CheckConstraint(_one_of("runtime", Runtime), name="runtime"),
        CheckConstraint(_one_of("state", LayerState), name="state"),
        CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="error_iff_failed"),
        CheckConstraint("state <> 'ready' OR image_id IS NOT NULL", name="image_if_ready"),
        Index("ix_function_layers_digest", "account_id", "runtime", "digest", unique=True),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    runtime: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(71))
    state: Mapped[str] = mapped_column(String(16), default=LayerState.BUILDING)
    error: Mapped[str | None] = mapped_column(Text)
    build_id: Mapped[str] = mapped_column(String(36), unique=True)
    image_id: Mapped[str | None] = mapped_column(String(26))
    used_ms: Mapped[int] = mapped_column(BigInteger)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class RuntimeVmRow(Base):
    """The VM of a layer whose program is the runtime's adapter, up and without code.

    Its "ready" snapshot is what versions begin from, on one host and for one shape.
    """

    __tablename__ = "function_runtime_vms"
    __table_args__ = (
        Index(
            *("ix_function_runtime_vms_shape", "layer_id", "cpu", "memory_mb", "node_id"),
            unique=True,
        ),
    )

    vm_id: Mapped[str] = mapped_column(String(14), primary_key=True)
    node_id: Mapped[str] = mapped_column(String(128))
    layer_id: Mapped[str] = mapped_column(ForeignKey("function_layers.id"))
    cpu: Mapped[int] = mapped_column()
    memory_mb: Mapped[int] = mapped_column()
    used_ms: Mapped[int] = mapped_column(BigInteger)


class VersionRow(Base):
    """A version of a function. Instances are forked from the "ready" snapshot of VM ``vm_id``.

    ``made_with`` tells of the settings that this VM has (``FunctionSettings.made_with``).
    ``error`` says why it failed; ``handlers`` are the kinds of handlers that it has, in words
    parted by spaces, known when it is ready. ``shelved``: nothing is kept of it but its source, and
    it is made anew before it is live again. ``since_ms`` is when it was last asked for. ``fresh``
    is a day, for dependencies as they were then. ``asked_seq``: see :class:`FunctionRow`.
    """

    __tablename__ = "function_versions"
    __table_args__ = (
        CheckConstraint(_one_of("state", VersionState), name="state"),
        CheckConstraint(_one_of("runtime", Runtime), name="runtime"),
        CheckConstraint("number >= 1", name="number"),
        CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="error_if_failed"),
        CheckConstraint(CLAIM, name="claim"),
        Index("ix_function_versions_state", "state"),
    )

    function_id: Mapped[str] = mapped_column(
        ForeignKey("functions.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(16), default=VersionState.BUILDING)
    error: Mapped[str | None] = mapped_column(Text)
    runtime: Mapped[str] = mapped_column(String(16))
    entry: Mapped[str] = mapped_column(Text)
    signature: Mapped[str | None] = mapped_column(String(16))
    handlers: Mapped[str | None] = mapped_column(Text)
    source_digest: Mapped[str] = mapped_column(String(71), index=True)
    layer_id: Mapped[str] = mapped_column(ForeignKey("function_layers.id"), index=True)
    build_id: Mapped[str] = mapped_column(String(36), index=True)
    vm_id: Mapped[str | None] = mapped_column(String(14))
    made_with: Mapped[str | None] = mapped_column(String(64))
    snapshot_error: Mapped[str | None] = mapped_column(Text)
    promote: Mapped[bool] = mapped_column(default=True)
    asked_seq: Mapped[int] = mapped_column(default=0)
    shelved: Mapped[bool] = mapped_column(default=False)
    fresh: Mapped[str | None] = mapped_column(String(10))
    since_ms: Mapped[int] = mapped_column(BigInteger)
    message: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str | None] = mapped_column(String(160))
    request_token: Mapped[str | None] = mapped_column(String(32), unique=True)
    claimed_by: Mapped[str | None] = mapped_column(String(SERVER_ID))
    claimed_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class SourceRow(Base):
    """Code as it was sent, once for an account, by the digest of what is in it.

    ``sealed`` are its files, as the runtime's adapter takes them, compressed.
    """

    __tablename__ = "function_sources"
    __table_args__ = (CheckConstraint("bytes >= 0", name="bytes"),)

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    bytes: Mapped[int] = mapped_column(BigInteger)
    used_ms: Mapped[int] = mapped_column(BigInteger)


class DraftRow(Base):
    """What an editor saves of a function; ``edition`` counts its saves, from 1."""

    __tablename__ = "function_drafts"

    function_id: Mapped[str] = mapped_column(
        ForeignKey("functions.id", ondelete="CASCADE"), primary_key=True
    )
    edition: Mapped[int] = mapped_column()
    source_digest: Mapped[str] = mapped_column(String(71), index=True)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class TrialRow(Base):
    """Code that is run once, for the invocation whose id it has; gone when that has ended.

    ``vm_id`` is the instance that was last begun for it. After ``until_ms`` it is given up.
    """

    __tablename__ = "function_trials"
    __table_args__ = (
        CheckConstraint(_one_of("runtime", Runtime), name="runtime"),
        CheckConstraint(CLAIM, name="claim"),
        Index("ix_function_trials_account_id", "account_id"),
    )

    id: Mapped[str] = mapped_column(
        ForeignKey("invocations.id", ondelete="CASCADE"), primary_key=True
    )
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    function_id: Mapped[str] = mapped_column(String(29))
    runtime: Mapped[str] = mapped_column(String(16))
    entry: Mapped[str] = mapped_column(Text)
    signature: Mapped[str | None] = mapped_column(String(16))
    source_digest: Mapped[str] = mapped_column(String(71), index=True)
    layer_id: Mapped[str] = mapped_column(ForeignKey("function_layers.id"), index=True)
    fresh: Mapped[str | None] = mapped_column(String(10))
    vm_id: Mapped[str | None] = mapped_column(String(14))
    claimed_by: Mapped[str | None] = mapped_column(String(SERVER_ID))
    claimed_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    until_ms: Mapped[int] = mapped_column(BigInteger)


class InstanceRow(Base):
    """A VM that runs a version. Of ``user_id`` alone, where that is not empty.

    ``served`` counts its invocations; ``until_ms`` is when it goes whatever it is at. While it is
    lent, to the router ``leased_by``, that has all its places.
    """

    __tablename__ = "function_instances"
    __table_args__ = (
        CheckConstraint(_one_of("state", InstanceState), name="state"),
        CheckConstraint("running >= 0", name="running"),
        CheckConstraint(CLAIM, name="claim"),
        CheckConstraint(LEASE, name="lease"),
        Index("ix_function_instances_version", "function_id", "version", "state"),
        Index("ix_function_instances_leased_by", "leased_by"),
    )

    vm_id: Mapped[str] = mapped_column(String(14), primary_key=True)
    function_id: Mapped[str] = mapped_column(String(29))
    version: Mapped[int] = mapped_column()
    user_id: Mapped[str] = mapped_column(String(128), default="")
    made_with: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), default=InstanceState.STARTING)
    running: Mapped[int] = mapped_column(default=0)
    served: Mapped[int] = mapped_column(default=0)
    claimed_by: Mapped[str | None] = mapped_column(String(SERVER_ID))
    claimed_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    leased_by: Mapped[str | None] = mapped_column(String(32))
    leased_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    used_ms: Mapped[int] = mapped_column(BigInteger)
    until_ms: Mapped[int] = mapped_column(BigInteger)


class InvocationRow(Base):
    """An invocation. ``attempt`` is the number of the last that began, 0 for none.

    ``version`` is what the last attempt runs on, and with ``pinned`` what all do. ``next_ms``:
    no attempt begins before. ``vm_id`` runs the attempt under way. What is ``queued`` and failed
    or expired is a dead letter until ``settled_ms`` says that somebody replayed or discarded it.
    ``replay_ms``: when it is to be replayed, where somebody asked for that. ``kept_bytes`` is what
    it counts in its account (:meth:`weight`). ``trigger_id`` made it, for its occurrence at
    ``scheduled_ms`` or for the event ``event_id``; ``retry`` is that trigger's policy as JSON, in
    the place of the function's. ``handler`` is what a replay goes to: what the first went to.
    ``limited``: it has, or had, tickets of flow control (``flow_models.py``).
    """

    __tablename__ = "invocations"
    __table_args__ = (
        CheckConstraint(_one_of("state", InvocationState), name="state"),
        CheckConstraint("kind IN ('direct', 'queued')", name="kind"),
        CheckConstraint("attempt >= 0", name="attempt"),
        CheckConstraint("(state = 'running') = (vm_id IS NOT NULL)", name="vm_iff_running"),
        CheckConstraint(f"({_FINAL}) = (ended_ms IS NOT NULL)", name="ended_iff_final"),
        CheckConstraint("state <> 'running' OR deadline_ms IS NOT NULL", name="deadline"),
        CheckConstraint("updated_ms >= created_ms", name="times"),
        CheckConstraint(CLAIM, name="claim"),
        Index("ix_invocations_state_next_ms", "state", "next_ms"),
        _of_waiting("ix_invocations_waiting_account_id", "account_id"),
        _of_waiting("ix_invocations_waiting_turn", "function_id", "user_id", "next_ms", "id"),
        Index("ix_invocations_function_id_created_ms_id", "function_id", "created_ms", "id"),
        Index("ix_invocations_account_id_created_ms_id", "account_id", "created_ms", "id"),
        Index("ix_invocations_account_id_updated_ms_id", "account_id", "updated_ms", "id"),
        Index("ix_invocations_replay_ms", "replay_ms", "account_id", "id"),
        Index("ix_invocations_vm_id", "vm_id"),
        Index("ix_invocations_ended_ms", "ended_ms"),
        Index("ix_invocations_trigger_id_created_ms_id", "trigger_id", "created_ms", "id"),
        Index("ix_invocations_occurrence", "trigger_id", "scheduled_ms", unique=True),
        Index(
            *("ix_invocations_open_trigger_id", "trigger_id"),
            sqlite_where=_OPEN_IN_INDEX,
            postgresql_where=_OPEN_IN_INDEX,
        ),
        Index("ix_invocations_event_id", "event_id"),
        Index(
            *("ix_invocations_account_id_ended_ms_kept_bytes", "account_id"),
            *("ended_ms", "kept_bytes"),
        ),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    function_id: Mapped[str] = mapped_column(String(29))
    user_id: Mapped[str] = mapped_column(String(128), default="")
    trigger: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str] = mapped_column(String(8))
    state: Mapped[str] = mapped_column(String(16), default=InvocationState.QUEUED)
    reason: Mapped[str | None] = mapped_column(String(24))
    version: Mapped[int | None] = mapped_column()
    pinned: Mapped[bool] = mapped_column(default=False)
    attempt: Mapped[int] = mapped_column(default=0)
    unreached: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int | None] = mapped_column()
    event_sealed: Mapped[bytes] = mapped_column(LargeBinary)
    event_bytes: Mapped[int] = mapped_column(BigInteger)
    kept_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    result_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    result_type: Mapped[str | None] = mapped_column(String(255))
    error: Mapped[str | None] = mapped_column(Text)
    vm_id: Mapped[str | None] = mapped_column(String(14))
    deadline_ms: Mapped[int | None] = mapped_column(BigInteger)
    cancel: Mapped[bool] = mapped_column(default=False)
    next_ms: Mapped[int] = mapped_column(BigInteger)
    ttl_ms: Mapped[int | None] = mapped_column(BigInteger)
    depth: Mapped[int] = mapped_column(default=0)
    replay_of: Mapped[str | None] = mapped_column(String(30))
    cause_id: Mapped[str | None] = mapped_column(String(30))
    trigger_id: Mapped[str | None] = mapped_column(String(30))
    scheduled_ms: Mapped[int | None] = mapped_column(BigInteger)
    event_id: Mapped[str | None] = mapped_column(String(30))
    retry: Mapped[str | None] = mapped_column(Text)
    limited: Mapped[bool | None] = mapped_column()
    handler: Mapped[str | None] = mapped_column(String(12))
    request_token: Mapped[str | None] = mapped_column(String(32), unique=True)
    claimed_by: Mapped[str | None] = mapped_column(String(SERVER_ID))
    claimed_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    settled_ms: Mapped[int | None] = mapped_column(BigInteger)
    replay_ms: Mapped[int | None] = mapped_column(BigInteger)
    ended_ms: Mapped[int | None] = mapped_column(BigInteger)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)

    def weight(self) -> int:
        """Return how many bytes are kept of it, read whole, with what is beside it."""
        sealed = len(self.event_sealed) + len(self.result_sealed or b"")
        return ROW_BYTES + sealed + len(self.error or "")


class AttemptRow(Base):
    """One run of a handler for an invocation. ``outcome`` is a reason, ``succeeded``, or None
    while it goes on. Lines of its VM's log above ``first_line`` up to ``last_line`` are its own
    (see ``functions/marks.py``).
    """

    __tablename__ = "attempts"
    __table_args__ = (
        CheckConstraint("attempt >= 1", name="attempt"),
        CheckConstraint("(outcome IS NULL) = (ended_ms IS NULL)", name="ended_iff_outcome"),
        Index("ix_attempts_vm_id", "vm_id"),
    )

    invocation_id: Mapped[str] = mapped_column(
        ForeignKey("invocations.id", ondelete="CASCADE"), primary_key=True
    )
    attempt: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    vm_id: Mapped[str] = mapped_column(String(14))
    start: Mapped[str] = mapped_column(String(8))
    outcome: Mapped[str | None] = mapped_column(String(24))
    duration_ms: Mapped[int | None] = mapped_column()
    first_line: Mapped[int | None] = mapped_column(BigInteger)
    last_line: Mapped[int | None] = mapped_column(BigInteger)
    started_ms: Mapped[int] = mapped_column(BigInteger)
    ended_ms: Mapped[int | None] = mapped_column(BigInteger)


class FunctionVmRow(Base):
    """A VM of a version or an instance, as long as its log may be kept: longer than its record."""

    __tablename__ = "function_vms"
    __table_args__ = (Index("ix_function_vms_function_id", "function_id"),)

    vm_id: Mapped[str] = mapped_column(String(14), primary_key=True)
    function_id: Mapped[str] = mapped_column(String(29))
    version: Mapped[int] = mapped_column()
    created_ms: Mapped[int] = mapped_column(BigInteger)


class SecretRow(Base):
    """A secret of an account's, of an end user's (``user_id``) or of a function's alone."""

    __tablename__ = "function_secrets"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(128), primary_key=True, default="")
    function_id: Mapped[str] = mapped_column(String(29), primary_key=True, default="")
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    fingerprint: Mapped[str] = mapped_column(String(16))
    shared: Mapped[bool] = mapped_column(default=False)
    updated_ms: Mapped[int] = mapped_column(BigInteger)
    used_ms: Mapped[int | None] = mapped_column(BigInteger)


class MaskRow(Base):
    """Values of secrets that were given to a VM, which what it prints is not to show. ``bytes`` is
    what they count in its account."""

    __tablename__ = "function_masks"
    __table_args__ = (Index("ix_function_masks_account_id_bytes", "account_id", "bytes"),)

    vm_id: Mapped[str] = mapped_column(String(14), primary_key=True)
    account_id: Mapped[str | None] = mapped_column(String(64))
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
