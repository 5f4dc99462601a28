"""What a handler is told about the work that it does."""

import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NotRequired, TypedDict

Later = Awaitable[Any] | Future[Any] | Callable[[], Any]
"""Work that goes on after the answer: an awaitable, a thread pool's future, or what is called."""

LOG = logging.getLogger("function")


class Event(TypedDict):
    """A CloudEvent, as a plain dictionary. It may have extensions beside these."""

    id: str
    type: str
    source: str
    specversion: str
    time: NotRequired[str]
    subject: NotRequired[str]
    datacontenttype: NotRequired[str]
    data: NotRequired[Any]
    data_base64: NotRequired[str]


class Signal(threading.Event):
    """Set when the work is given up: canceled, or its caller has gone."""

    @property
    def aborted(self) -> bool:
        """Tell whether the work is given up."""
        return self.is_set()


def _wait_nowhere(work: Later) -> None:
    raise RuntimeError("wait_until is not there: this context was made by hand")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One attempt at one invocation.

    ``deadline`` is in UTC. ``secrets`` are those that the function names. ``signal`` is set when
    the work is given up; an asynchronous handler is cancelled as well.
    """

    invocation_id: str
    attempt: int = 1
    max_attempts: int = 1
    deadline: datetime | None = None
    function_id: str | None = None
    version: int | None = None
    user_id: str | None = None
    traceparent: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    signal: Signal = field(default_factory=Signal, repr=False)
    log: logging.Logger = field(default=LOG, repr=False)
    later: Callable[[Later], None] = field(default=_wait_nowhere, repr=False)

    def wait_until(self, work: Later) -> None:
        """Let ``work`` go on after the answer, for 30 s at most; until it ends this VM stays."""
        self.later(work)

    def remaining_s(self) -> float:
        """Return how many seconds are left until the deadline; infinite without one."""
        if self.deadline is None:
            return float("inf")
        return (self.deadline - datetime.now(UTC)).total_seconds()

    # The names that they have in JavaScript, and in the documentation of events.

    @property
    def invocationId(self) -> str:  # noqa: N802
        """Return ``invocation_id``."""
        return self.invocation_id

    @property
    def maxAttempts(self) -> int:  # noqa: N802
        """Return ``max_attempts``."""
        return self.max_attempts

    @property
    def functionId(self) -> str | None:  # noqa: N802
        """Return ``function_id``."""
        return self.function_id

    @property
    def userId(self) -> str | None:  # noqa: N802
        """Return ``user_id``."""
        return self.user_id

    def waitUntil(self, work: Later) -> None:  # noqa: N802
        """Do as ``wait_until``."""
        self.later(work)
