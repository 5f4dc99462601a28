"""The tables. Rules that must always hold are constraints here, not checks in code.

Times are unix milliseconds. ``request_token`` names the idempotent request that made a row,
so that the same request, carried on after a crash, finds what it made.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cakework.domain.builds import BuildStatus
from cakework.domain.images import ImageSource
from cakework.domain.imports import ImportStatus
from cakework.domain.snapshots import (
    IDLE_TIMEOUT_S_MAX,
    IDLE_TIMEOUT_S_MIN,
    SnapshotKind,
    SnapshotState,
)
from cakework.domain.vms import (
    CPU_MAX,
    CPU_MIN,
    MEMORY_MB_MAX,
    MEMORY_MB_MIN,
    PORT_MAX,
    PORT_MIN,
    VOLUME_GB_MAX,
    EndCause,
    VmRole,
    VmState,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


_Words = (
    type[BuildStatus]
    | type[EndCause]
    | type[ImageSource]
    | type[ImportStatus]
    | type[SnapshotKind]
    | type[SnapshotState]
    | type[VmRole]
    | type[VmState]
)


def _one_of(column: str, words: _Words) -> str:
    return f"{column} IN ({', '.join(repr(str(word.value)) for word in words)})"


class Base(DeclarativeBase):
    """What all tables share: how their constraints are named."""

    metadata = MetaData(naming_convention=NAMES)


class AccountRow(Base):
    """Who things belong to. Its id is the name it was made with."""

    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class ApiKeyRow(Base):
    """An API key: the hash it is found by, and the first letters, for display."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16))
    hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    revoked_ms: Mapped[int | None] = mapped_column(BigInteger)


class BuildRow(Base):
    """A build. ``image_id`` is chosen when it is asked for; the image is there once it succeeded.

    ``accepted`` says that the node has taken the order, ``log_complete`` that every line of
    its log is stored.
    """

    __tablename__ = "builds"
    __table_args__ = (
        CheckConstraint(_one_of("status", BuildStatus), name="status"),
        CheckConstraint(_one_of("source", ImageSource), name="source"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_iff_failed"),
        CheckConstraint("updated_ms >= created_ms", name="times"),
        Index("ix_builds_account_id_status", "account_id", "status"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    image_id: Mapped[str] = mapped_column(String(26), unique=True)
    status: Mapped[str] = mapped_column(String(16), default=BuildStatus.CREATED)
    source: Mapped[str] = mapped_column(String(16), default=ImageSource.FILES)
    error: Mapped[str | None] = mapped_column(Text)
    accepted: Mapped[bool] = mapped_column(default=False)
    log_complete: Mapped[bool] = mapped_column(default=False)
    request_token: Mapped[str | None] = mapped_column(String(32), unique=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class ImageRow(Base):
    """An image that VMs can be started from, until it is deleted.

    ``build_id`` is the build it came from, as long as that is on record.
    """

    __tablename__ = "images"
    __table_args__ = (
        CheckConstraint("size_bytes >= 0", name="size"),
        CheckConstraint(_one_of("source", ImageSource), name="source"),
        CheckConstraint("deleted_ms >= created_ms", name="deleted"),
    )

    id: Mapped[str] = mapped_column(String(26), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    source: Mapped[str] = mapped_column(String(16))
    build_id: Mapped[str | None] = mapped_column(ForeignKey("builds.id"), unique=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    deleted_ms: Mapped[int | None] = mapped_column(BigInteger)


class ImportRow(Base):
    """An import of an image. Its id is the image's, which is there once it succeeded.

    ``deleted_ms`` is for those that failed; of others the image is deleted.
    """

    __tablename__ = "imports"
    __table_args__ = (
        CheckConstraint(_one_of("status", ImportStatus), name="status"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_iff_failed"),
        CheckConstraint("updated_ms >= created_ms", name="times"),
        CheckConstraint("deleted_ms >= created_ms", name="deleted"),
        Index("ix_imports_account_id_status", "account_id", "status"),
    )

    id: Mapped[str] = mapped_column(String(26), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    image_uri: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(16), default=ImportStatus.IMPORTING)
    error: Mapped[str | None] = mapped_column(Text)
    request_token: Mapped[str | None] = mapped_column(String(32), unique=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)
    deleted_ms: Mapped[int | None] = mapped_column(BigInteger)


class VmRow(Base):
    """A VM. ``wanted`` is the state it is on its way to; ``stopped`` is for cached ones alone.

    ``role`` is what it is for: a VM of the account's own, or one of a function's (see
    function_models.py), which the account sees as the function alone.

    ``run`` counts its starts, ``start_token`` names the idempotent request that the last came
    from. ``env_sealed`` is there as long as the VM may have to be started with it.
    ``log_complete`` says that every line of its runs is stored. ``reason``, ``exit_code`` and
    ``cause`` tell how the last run ended.

    ``snapshot`` is the kind, with ``ready`` and its state and error; ``hooks`` are the
    :class:`~cakework.domain.orders.Hooks` as JSON. ``memory_kept``: its next start goes on where
    it was stopped, for the reason ``rest_reason``. Of forks, ``fork_of`` is the VM they began
    from and ``fork_batch`` names those started together. ``egress`` is what it reaches
    (:data:`~cakework.domain.vms.VmEgress`).
    """

    __tablename__ = "vms"
    __table_args__ = (
        CheckConstraint(_one_of("state", VmState), name="state"),
        CheckConstraint(_one_of("role", VmRole), name="role"),
        CheckConstraint(_one_of("cause", EndCause), name="cause"),
        CheckConstraint("wanted IN ('started', 'stopped', 'destroyed')", name="wanted"),
        CheckConstraint("cached OR wanted <> 'stopped'", name="stopped_wanted_if_cached"),
        CheckConstraint("run >= 1 OR cached AND run = 0", name="run"),
        CheckConstraint("state <> 'destroyed' OR wanted = 'destroyed'", name="destroyed_wanted"),
        CheckConstraint(f"cpu BETWEEN {CPU_MIN} AND {CPU_MAX}", name="cpu"),
        CheckConstraint(f"memory_mb BETWEEN {MEMORY_MB_MIN} AND {MEMORY_MB_MAX}", name="memory"),
        CheckConstraint(f"port BETWEEN {PORT_MIN} AND {PORT_MAX}", name="port"),
        CheckConstraint(f"volume_gb BETWEEN 0 AND {VOLUME_GB_MAX}", name="volume"),
        CheckConstraint("updated_ms >= created_ms", name="times"),
        CheckConstraint(_one_of("snapshot", SnapshotKind), name="snapshot"),
        CheckConstraint(_one_of("snapshot_state", SnapshotState), name="snapshot_state"),
        CheckConstraint(
            "(snapshot = 'ready') = (snapshot_state IS NOT NULL)", name="snapshot_state_iff_ready"
        ),
        CheckConstraint("snapshot = 'boot' OR cached AND volume_gb = 0", name="snapshot_fits"),
        CheckConstraint(
            "(snapshot_error IS NOT NULL) = (coalesce(snapshot_state, '') = 'failed')",
            name="snapshot_error_iff_failed",
        ),
        CheckConstraint("NOT auto_start OR cached AND port IS NOT NULL", name="auto_start"),
        CheckConstraint(
            f"idle_timeout_s BETWEEN {IDLE_TIMEOUT_S_MIN} AND {IDLE_TIMEOUT_S_MAX}",
            name="idle_timeout_s",
        ),
        CheckConstraint(
            "idle_timeout_s IS NULL OR cached AND port IS NOT NULL",
            name="idle_timeout",
        ),
        CheckConstraint(
            "NOT memory_kept OR cached AND state IN ('stopped', 'created')", name="memory_kept"
        ),
        CheckConstraint("(fork_of IS NULL) = (fork_batch IS NULL)", name="fork"),
        CheckConstraint("egress IN ('internet', 'none')", name="egress"),
        Index("ix_vms_account_id_created_ms_id", "account_id", "created_ms", "id"),
        Index("ix_vms_state", "state"),
        Index("ix_vms_fork_batch", "fork_batch"),
        Index("ix_vms_snapshot_state", "snapshot_state"),
    )

    id: Mapped[str] = mapped_column(String(14), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), index=True)
    role: Mapped[str] = mapped_column(String(12), default=VmRole.OWN)
    hostname: Mapped[str] = mapped_column(String(253), unique=True)
    cpu: Mapped[int] = mapped_column(SmallInteger)
    memory_mb: Mapped[int] = mapped_column()
    port: Mapped[int | None] = mapped_column()
    volume_gb: Mapped[int] = mapped_column(default=0)
    cached: Mapped[bool] = mapped_column(default=False)
    run: Mapped[int] = mapped_column(default=1)
    env_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    state: Mapped[str] = mapped_column(String(16), default=VmState.CREATED)
    wanted: Mapped[str] = mapped_column(String(16), default=VmState.STARTED)
    reason: Mapped[str | None] = mapped_column(Text)
    exit_code: Mapped[int | None] = mapped_column()
    cause: Mapped[str | None] = mapped_column(String(16))
    log_complete: Mapped[bool] = mapped_column(default=False)
    request_token: Mapped[str | None] = mapped_column(String(32), unique=True)
    start_token: Mapped[str | None] = mapped_column(String(32))
    snapshot: Mapped[str] = mapped_column(String(8), default=SnapshotKind.BOOT)
    snapshot_state: Mapped[str | None] = mapped_column(String(8))
    snapshot_error: Mapped[str | None] = mapped_column(Text)
    hooks: Mapped[str | None] = mapped_column(Text)
    auto_start: Mapped[bool] = mapped_column(default=False)
    idle_timeout_s: Mapped[int | None] = mapped_column()
    memory_kept: Mapped[bool] = mapped_column(default=False)
    rest_reason: Mapped[str | None] = mapped_column(Text)
    fork_of: Mapped[str | None] = mapped_column(String(14))
    fork_batch: Mapped[str | None] = mapped_column(String(32))
    egress: Mapped[str] = mapped_column(String(8), default="internet")
    created_ms: Mapped[int] = mapped_column(BigInteger)
    updated_ms: Mapped[int] = mapped_column(BigInteger)


class IdempotencyRow(Base):
    """A POST that came with an Idempotency-Key; without ``status`` it is not answered yet."""

    __tablename__ = "idempotency"
    __table_args__ = (
        CheckConstraint("(status IS NULL) = (body IS NULL)", name="answer_is_whole"),
        Index("ix_idempotency_created_ms", "created_ms"),
    )

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    token: Mapped[str] = mapped_column(String(32), unique=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    status: Mapped[int | None] = mapped_column(SmallInteger)
    content_type: Mapped[str | None] = mapped_column(String(100))
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_ms: Mapped[int] = mapped_column(BigInteger)


class NodeCursorRow(Base):
    """How far a node's journal is applied to these tables. A new node id starts at 0."""

    __tablename__ = "node_cursors"

    node_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    cursor: Mapped[int] = mapped_column(BigInteger)


class WaitlistRow(Base):
    """Somebody who asked on the landing page for news, by an address in lower case."""

    __tablename__ = "waitlist"

    email: Mapped[str] = mapped_column(String(254), primary_key=True)
    created_ms: Mapped[int] = mapped_column(BigInteger)
