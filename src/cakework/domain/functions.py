"""Functions: a name, settings, and versions of code that instances run.

    source ──▶ building ◀─▶ ready ──▶ retired     a version; its number never comes again
                   └──────▶ failed ─────▲         the live version stays what it was

A version has code and dependencies and never changes; which of them is live does. An instance is a
microVM that runs one version. What an instance may serve one after the other is its *isolation*.
"""

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    model_validator,
)

from cakework.domain.configured import Configured
from cakework.domain.flow import Debounce, Limits
from cakework.domain.vms import (
    CPU_DEFAULT,
    CPU_MAX,
    CPU_MIN,
    MEMORY_MB_DEFAULT,
    MEMORY_MB_MAX,
    MEMORY_MB_MIN,
    VmEgress,
)

NAME_PATTERN = r"^[a-z0-9-]{1,63}$"
USER_ID_PATTERN = r"^[A-Za-z0-9._:@-]{1,128}$"
UPPER_CASE_PATTERN = r"^[A-Z][A-Z0-9_]{0,127}$"
OURS = "CAKEWORK_"
"""Names of secrets and variables that begin so are the platform's."""
ENV_BYTES_MAX = 64 * 1024
SECRETS_MAX = 100
LABELS_MAX = 32
DIRECT_TIMEOUT_S = 60
"""What requests to its URL may take at most unless a function says otherwise."""
TRANSFORM_TIMEOUT_MS = 1_000
TRANSFORM_BATCH = 500


class FunctionKind(StrEnum):
    """What a function is for."""

    FUNCTION = "function"
    TRANSFORM = "transform"


class Runtime(StrEnum):
    """What runs a version's code; ``image`` brings its own server."""

    PYTHON_313 = "python3.13"
    PYTHON_311 = "python3.11"
    NODE_24 = "node24"
    IMAGE = "image"


NEWEST = {"python": Runtime.PYTHON_313, "node": Runtime.NODE_24}
"""Names that mean the newest of a language, as of the deploy."""


OnError = Literal["fail", "pass", "drop"]
"""What becomes of a record that a transform fails at: an error; the record as it came; nothing."""
Unit = Literal["record", "batch"]
"""What a transform's handler is called with."""
TRANSFORM_FIELDS = {
    "on_error": "onError",
    "unit": "unit",
    "max_batch": "maxBatch",
    "timeout_ms": "timeoutMs",
}
"""Settings that transforms alone have, with their names on the wire."""


class VersionState(StrEnum):
    """Where a version is in its life."""

    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"
    RETIRED = "retired"


VERSION_TRANSITIONS: dict[VersionState, frozenset[VersionState]] = {
    VersionState.BUILDING: frozenset({VersionState.READY, VersionState.FAILED}),
    VersionState.READY: frozenset({VersionState.BUILDING, VersionState.RETIRED}),
    VersionState.FAILED: frozenset({VersionState.RETIRED}),
    VersionState.RETIRED: frozenset(),
}


class Isolation(StrEnum):
    """Whose invocations an instance may serve one after the other.

    ``function``: any of its version's. ``user``: those of one end user. ``invocation``: one.
    """

    FUNCTION = "function"
    USER = "user"
    INVOCATION = "invocation"


RetryOn = Literal["error", "timeout", "crash", "interrupted"]


class RetryPolicy(Configured):
    """When queued work is tried again. Delays and ``max_age`` are in seconds.

    The delay before attempt n+1 is ``min_delay · factor^(n-1)``, at most ``max_delay``, times a
    random number from 0.5 to 1. No attempt starts later than ``max_age`` after acceptance.
    """

    max_attempts: int = Field(
        default=4, ge=1, le=20, description="Attempts of one invocation, the first included."
    )
    min_delay: float = Field(
        default=5, ge=1, le=86_400, description="Seconds before the second attempt."
    )
    factor: float = Field(
        default=4, ge=1, le=100, description="How many times longer each delay is than the last."
    )
    max_delay: float = Field(default=600, ge=1, le=86_400, description="Longest delay, in seconds.")
    max_age: int = Field(
        default=21_600,
        ge=1,
        le=604_800,
        description="Seconds after it was taken, after which no attempt of an invocation begins.",
    )
    on: Annotated[tuple[RetryOn, ...], Field(max_length=4)] = Field(
        default=("error", "timeout", "crash", "interrupted"),
        description="After which ends of an attempt another follows.",
    )

    @model_validator(mode="after")
    def _check_delays(self) -> "RetryPolicy":
        if self.min_delay > self.max_delay:
            raise ValueError("minDelay is above maxDelay")
        return self


def policy_of(retry: str | None, otherwise: RetryPolicy) -> RetryPolicy:
    """Return the policy that goes for an invocation: what its trigger brought, as JSON, or that of
    its function."""
    return otherwise if retry is None else RetryPolicy.model_validate_json(retry)


class FailureHandler(Configured):
    """The function that is told of queued work that failed for good."""

    function_id: str = Field(max_length=29, description="Id of the function.")


Method = Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,32}$")]
Origin = Annotated[str, StringConstraints(pattern=r"^(\*|https?://[^\s/,]{1,255})$")]


class CorsSettings(Configured):
    """Which origins' pages may read what a function answers; ``*`` is any."""

    origins: Annotated[tuple[Origin, ...], Field(min_length=1, max_length=32)] = Field(
        description="Pages of these origins may read the answers; `*`: of all."
    )


class HttpSettings(Configured):
    """Who may come in at a function's URL, and how."""

    auth: Literal["none", "key"] = Field(
        default="none", description="`key`: a request has an API key of the account in `X-Api-Key`."
    )
    methods: Annotated[tuple[Method, ...], Field(min_length=1, max_length=16)] | None = Field(
        default=None, description="Methods that the function takes; all if absent."
    )
    cors: CorsSettings | None = Field(
        default=None, description="Which origins' pages may read the answers; none if absent."
    )


def _check_secret_name(name: str) -> str:
    if name.startswith(OURS):
        raise ValueError(f"names that begin with {OURS} are the platform's")
    return name


SecretName = Annotated[
    str, StringConstraints(pattern=UPPER_CASE_PATTERN), AfterValidator(_check_secret_name)
]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]{1,63}$")]
LabelValue = Annotated[str, StringConstraints(max_length=255)]


class FunctionSettings(Configured):
    """What may be changed about a function at any time; the next attempt sees it.

    ``memory`` is in MB. ``timeout`` and ``idle_timeout`` are in seconds. ``isolation`` None: as
    follows from whose the function is (:func:`isolation_of`). With ``secrets_at_init`` code that
    runs at import has the secrets, and there is no snapshot, which would hold them. ``egress`` is
    another for a transform that was made without one (:func:`settings_for`).
    """

    memory: int = Field(
        default=MEMORY_MB_DEFAULT,
        ge=MEMORY_MB_MIN,
        le=MEMORY_MB_MAX,
        description="Memory of an instance in MB.",
    )
    cpu: int = Field(
        default=CPU_DEFAULT, ge=CPU_MIN, le=CPU_MAX, description="CPUs of an instance."
    )
    timeout: int | None = Field(
        default=None,
        ge=1,
        le=900,
        description="Seconds that an attempt may take; if absent 300, and 60 for requests to its "
        "URL.",
    )
    concurrency: int = Field(
        default=1, ge=1, le=100, description="Invocations at once in one instance."
    )
    max_instances: int = Field(default=10, ge=1, le=200, description="Instances at once, at most.")
    min_instances: int = Field(
        default=0, ge=0, le=10, description="Instances that are kept though they have no work."
    )
    isolation: Isolation | None = Field(
        default=None,
        description="Whose invocations an instance may serve one after the other; for an end "
        "user's function `function` if absent, and those for end users are kept apart in any case.",
    )
    idle_timeout: int = Field(
        default=60, ge=1, le=3600, description="Seconds without work after which an instance goes."
    )
    snapshot: Literal["ready", "none"] = Field(
        default="ready", description="`ready`: instances begin where the code is imported."
    )
    egress: VmEgress = Field(
        default="internet",
        description="`none`: the code reaches nothing outside its VM, at import too; a transform "
        "that is made without it has `none`.",
    )
    env_vars: dict[str, str] = Field(
        default_factory=dict[str, str],
        repr=False,
        description="Environment of the code, 64 KiB in all; not for secrets.",
    )
    secrets: Annotated[tuple[SecretName, ...], Field(max_length=SECRETS_MAX)] = Field(
        default=(), description="Names of secrets that the code may see."
    )
    secrets_at_init: bool = Field(
        default=False,
        description="Whether code has its secrets at import, too; then there is no snapshot.",
    )
    http: HttpSettings = Field(
        default=HttpSettings(), description="Who may come in at the function's URL, and how."
    )
    retry: RetryPolicy = Field(
        default=RetryPolicy(), description="When queued work is tried again."
    )
    limits: Limits = Field(
        default=(),
        description="Flow control: how much of its queued work runs at once, how soon, how often.",
    )
    on_failure: FailureHandler | None = Field(
        default=None, description="The function that is told of work that failed for good."
    )
    labels: Annotated[dict[Label, LabelValue], Field(max_length=LABELS_MAX)] = Field(
        default_factory=dict[str, str], description="Words of yours for it, and their values."
    )
    on_error: OnError | None = Field(
        default=None,
        description="Transforms: what becomes of a record that fails. `fail` (if absent): an "
        "error; `pass`: it is answered as it came; `drop`: it is left out.",
    )
    unit: Unit | None = Field(
        default=None,
        description="Transforms: whether the handler is called with each `record` (if absent), or "
        "with a `batch` of them.",
    )
    max_batch: int | None = Field(
        default=None,
        ge=1,
        le=1_000,
        description="Transforms: records that are handed over at once, at most; 500 if absent.",
    )
    timeout_ms: int | None = Field(
        default=None,
        ge=50,
        le=30_000,
        description="Transforms: milliseconds that a call may take, in streams what is handed over "
        "at once; 1000 if absent.",
    )

    @model_validator(mode="after")
    def _check(self) -> "FunctionSettings":
        if self.min_instances > self.max_instances:
            raise ValueError("minInstances is above maxInstances")
        if both := self.env_vars.keys() & set(self.secrets):
            raise ValueError(f"{min(both)} is among envVars and among secrets")
        for rule in self.limits:
            if isinstance(rule, Debounce) and rule.period > self.retry.max_age:
                raise ValueError("limits: the debounce's period is above retry.maxAge")
        size = sum(len(name.encode()) + len(value.encode()) for name, value in self._env())
        if size > ENV_BYTES_MAX:
            raise ValueError(f"envVars take {size} bytes, and {ENV_BYTES_MAX} are allowed")
        return self

    @property
    def queued_timeout_s(self) -> int:
        """How long an attempt of queued work may take."""
        return 300 if self.timeout is None else self.timeout

    @property
    def direct_timeout_s(self) -> int:
        """How long direct work may take."""
        return DIRECT_TIMEOUT_S if self.timeout is None else self.timeout

    @property
    def records_at_once(self) -> int:
        """How many records a transform is handed at once, at most."""
        return TRANSFORM_BATCH if self.max_batch is None else self.max_batch

    @property
    def transform_timeout_s(self) -> float:
        """How long a transform may take for what it is handed at once."""
        return (TRANSFORM_TIMEOUT_MS if self.timeout_ms is None else self.timeout_ms) / 1000

    @property
    def has_snapshot(self) -> bool:
        """Whether instances begin from a snapshot of their version."""
        return self.snapshot == "ready" and not self.secrets_at_init

    @property
    def made_with(self) -> str:
        """What tells instances apart that were made with other settings than these."""
        variables = sorted(self.env_vars.items())
        told: list[object] = [self.cpu, self.memory, self.concurrency, variables]
        told.append(self.secrets_at_init)
        if self.egress != "internet":
            # What was made by a version without this setting had that.
            told.append(self.egress)
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def shown(self, kind: FunctionKind) -> "FunctionSettings":
        """Return these settings with the defaults of those that only a kind has."""
        if kind is not FunctionKind.TRANSFORM:
            return self
        return self.model_copy(
            update={
                "on_error": self.on_error or "fail",
                "unit": self.unit or "record",
                "max_batch": self.records_at_once,
                "timeout_ms": round(self.transform_timeout_s * 1000),
            }
        )

    def changed(self, patch: "FunctionSettings") -> "FunctionSettings":
        """Return these settings with those that ``patch`` was given, whole fields at a time."""
        given = {name: getattr(patch, name) for name in patch.model_fields_set}
        return FunctionSettings.model_validate(self._given() | given)

    def _given(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.model_fields_set}

    def _env(self) -> list[tuple[str, str]]:
        return list(self.env_vars.items())


def settings_for(kind: FunctionKind, given: FunctionSettings) -> FunctionSettings:
    """Return the settings that a function of ``kind`` is made with, of those that were ``given``:
    transforms reach nothing unless they are to."""
    if kind is FunctionKind.TRANSFORM and "egress" not in given.model_fields_set:
        return given.changed(FunctionSettings(egress="none"))
    return given


def isolation_of(settings: FunctionSettings, owner: str, user_id: str) -> Isolation:
    """Return what an instance may serve, for an invocation of ``user_id`` (empty: of the account).

    A function of an end user's (``owner``) is that user's alone; one of the account's that is
    invoked for end users keeps them apart whatever its settings say.
    """
    chosen = settings.isolation
    if chosen is Isolation.INVOCATION:
        return chosen
    if not owner and user_id:
        return Isolation.USER
    return chosen or Isolation.FUNCTION
