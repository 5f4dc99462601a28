"""One call: what is sent, until when, what its answer means, and when it is tried again.

Nothing here sends or waits; both clients do that around it.
"""

import json
import random
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast
from urllib.parse import quote
from uuid import uuid4

from cakework_client.errors import (
    ApiError,
    CakeworkError,
    ConnectionFailed,
    InvalidId,
    TimedOut,
    UnexpectedAnswer,
    error_of,
)
from cakework_client.models import InvocationResult
from cakework_client.wire import Answer, read

if TYPE_CHECKING:
    import httpx2

A = TypeVar("A", bound=Answer)
REFUSED = (429, 503)
"""Statuses of a request that was not carried out and may be later."""
BROKEN = (502, 504)
"""Statuses of a proxy that lost the server: the request may have been carried out."""
PAUSE_S = 0.25
PAUSE_MAX_S = 8.0
STEP_MAX_S = 3600.0
"""Longest silence of a connection, however long a call may take."""


class Options(TypedDict, total=False):
    """What every call takes besides its own parameters.

    ``timeout``: seconds within which it must be done, with all tries and pauses; the client's
    own if absent.
    """

    timeout: float


class PostOptions(Options, total=False):
    """What every call with POST takes besides its own parameters.

    ``idempotency_key``: the work is done once for all calls with the same one, within 24 hours.
    One is made for each call if absent, so that trying again does no work twice.
    """

    idempotency_key: str


@dataclass(frozen=True, slots=True)
class Form:
    """A form with an archive in it (RFC 7578)."""

    content: bytes = field(repr=False)
    content_type: str

    @classmethod
    def of(cls, archive: bytes, fields: Mapping[str, Any]) -> "Form":
        """Return the form with these fields; truths are written as JSON writes them."""
        boundary = uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            f"{json.dumps(value) if isinstance(value, bool) else value}\r\n"
            for name, value in fields.items()
        ]
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="archive"; '
            'filename="archive.tar.gz"\r\nContent-Type: application/gzip\r\n\r\n'
        )
        content = "".join(parts).encode() + head.encode() + archive
        content += f"\r\n--{boundary}--\r\n".encode()
        return cls(content, f"multipart/form-data; boundary={boundary}")


@dataclass(frozen=True, slots=True)
class Call:
    """A request of the API."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    body: Any = None
    idempotency_key: str | None = None
    more: Mapping[str, str] = field(default_factory=dict[str, str])
    form: Form | None = None
    once: bool = False
    """Whether it must not be done twice."""

    @classmethod
    def of(
        cls,
        method: str,
        path: str,
        options: PostOptions | Options,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        more: Mapping[str, str] | None = None,
        form: Form | None = None,
    ) -> "Call":
        """Return a call; one with POST gets a key of its own unless ``options`` has one."""
        key = cast("PostOptions", options).get("idempotency_key")
        if method == "POST" and key is None:
            key = str(uuid4())
        return cls(method, path, params or {}, body, key, more or {}, form)

    @property
    def headers(self) -> dict[str, str]:
        """What it says besides what every request says."""
        keyed = {"Idempotency-Key": self.idempotency_key} if self.idempotency_key else {}
        if self.form is not None:
            return {**self.more, **keyed, "Content-Type": self.form.content_type}
        typed = {} if self.body is None else {"Content-Type": "application/json"}
        return {**self.more, **keyed, **typed}

    @property
    def content(self) -> bytes | None:
        """Its body as bytes."""
        if self.form is not None:
            return self.form.content
        return None if self.body is None else json.dumps(self.body).encode()

    @property
    def repeatable(self) -> bool:
        """Whether doing it twice is as doing it once."""
        return self.method in ("GET", "POST") and not self.once


class Deadline(Mapping[str, float]):
    """The time by which a call must be done, and the timeouts of an HTTP request under it.

    HTTP asks a mapping for the longest connect, write, read and wait for a connection; each
    gets what is left when it is asked for, so that all together take no longer.
    """

    def __init__(self, timeout_s: float, step_s: float = STEP_MAX_S) -> None:
        self._at = time.monotonic() + timeout_s
        self._step_s = step_s

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self._at - time.monotonic()

    def check(self) -> None:
        """Raise TimedOut when nothing is left."""
        if self.left_s <= 0:
            raise TimedOut("The call was not done within its timeout.")

    def __getitem__(self, step: str) -> float:
        return min(max(self.left_s, 0.001), self._step_s)

    def __iter__(self) -> Iterator[str]:
        return iter(("connect", "pool", "read", "write"))

    def __len__(self) -> int:
        return 4


@dataclass(slots=True)
class Tries:
    """When a call is tried again."""

    call: Call
    retries: int
    deadline: Deadline
    failures: int = 0

    def pause_s(self, failure: CakeworkError) -> float | None:
        """Return how long to wait before the next try, None to give up."""
        self.failures += 1
        if self.failures > self.retries or not self._may_try_again(failure):
            return None
        wanted = pause_s(self.failures)
        if isinstance(failure, ApiError) and failure.retry_after_s is not None:
            wanted += failure.retry_after_s
        return wanted if wanted < self.deadline.left_s else None

    def _may_try_again(self, failure: CakeworkError) -> bool:
        if isinstance(failure, ConnectionFailed):
            return self.call.repeatable or not failure.sent
        if not isinstance(failure, ApiError):
            return False
        return failure.status in REFUSED or (failure.status in BROKEN and self.call.repeatable)


def pause_s(failures: int) -> float:
    """Return a pause that grows with the failures in a row, and is never twice the same."""
    longest = min(PAUSE_S * 2 ** (failures - 1), PAUSE_MAX_S)
    return random.uniform(longest / 2, longest)  # noqa: S311


@contextmanager
def named(deadline: Deadline, url: str) -> Generator[None]:
    """Raise what HTTP raises as this package's errors."""
    import httpx2

    try:
        yield
    except httpx2.TimeoutException as error:
        deadline.check()
        raise ConnectionFailed(f"{url} is silent.", sent=True) from error
    except (httpx2.ConnectError, httpx2.UnsupportedProtocol, httpx2.ProxyError) as error:
        raise ConnectionFailed(f"Cannot reach {url}: {_told(error)}.", sent=False) from error
    except httpx2.TransportError as error:
        broke = f"The connection to {url} broke: {_told(error)}."
        raise ConnectionFailed(broke, sent=True) from error


def _told(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def segment(value: str) -> str:
    """Return an id as a part of a path.

    Raises:
        InvalidId: It would be no part of its own.
    """
    if value in ("", ".", ".."):
        raise InvalidId(f"{value!r} is no id.")
    return quote(value, safe="")


def answer(kind: type[A], response: "httpx2.Response", body: bytes) -> A:
    """Return what a good response says.

    Raises:
        UnexpectedAnswer: It is not what the API answers with.
    """
    try:
        return read(kind, json.loads(body))
    except (ValueError, TypeError) as error:
        raise unexpected(response, f"{type(error).__name__}: {error}") from error


def read_result(response: "httpx2.Response", body: bytes) -> InvocationResult:
    """Return what a good response has, as it is."""
    return InvocationResult(body, response.headers.get("Content-Type", ""))


def refusal(response: "httpx2.Response", body: bytes) -> ApiError:
    """Return what a response that is not good says."""
    try:
        problem: object = json.loads(body)
        if isinstance(problem, dict) and "code" in problem and "detail" in problem:
            found = cast("dict[str, Any]", problem)
            return error_of({**found, "status": response.status_code}, retry_after_s(response))
    except (ValueError, TypeError):
        pass
    return unexpected(response, response.reason_phrase)


def unexpected(response: "httpx2.Response", why: str) -> UnexpectedAnswer:
    """Return the error of a response that is not Cakework's."""
    problem = {
        "status": response.status_code,
        "code": UnexpectedAnswer.code,
        "detail": f"{response.url} answered {response.status_code}, not as Cakework does: {why}.",
        "requestId": response.headers.get("X-Request-Id"),
    }
    return UnexpectedAnswer(problem, retry_after_s=retry_after_s(response))


def retry_after_s(response: "httpx2.Response") -> float | None:
    """Return the Retry-After of a response; Cakework gives it in seconds."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None
