"""The runtime's adapter in an instance: what the server asks of it. See docs/dev/runtimes.md.

It is reached on its control port through the node's dial socket, like any port of a VM. What it
answers is the user's word: bounded, and parsed as such.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import httpcore2
import httpx2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from cakework.dialer import Dialer, DialFailed
from cakework.domain.errors import CakeworkError
from cakework.domain.ids import VmId
from cakework.domain.invocations import Outcome, Reason
from cakework.server.node.connections import StreamConnection, told_as

CONTROL_PORT = 8079
PORT = 8080
"""Where the adapter serves direct work."""
CALLER = "cakework"
ANSWER_S = 10.0
LOAD_S = 60.0
RESULT_BYTES_MAX = 1 << 20
LINE_BYTES_MAX = 2 * RESULT_BYTES_MAX
"""Of an answer: a result in base64, and what is around it."""
ERROR_CHARS_MAX = 16_384
CONNECTIONS_KEPT = 256
KEPT_S = 60.0


class _Told(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


_T = TypeVar("_T", bound=_Told)


class HandlerError(_Told):
    """What a handler raised, for people: ``stack`` has the user's frames alone."""

    type: str = "Error"
    message: str = ""
    stack: str | None = None
    retriable: bool = True
    retry_after: float | None = Field(default=None, ge=0)

    @field_validator("type", "message", "stack")
    @classmethod
    def _cut(cls, text: str | None) -> str | None:
        return text and text[:ERROR_CHARS_MAX]


class Loaded(_Told):
    """How the adapter is after code was given to it."""

    state: Literal["ready", "failed", "empty"]
    handlers: list[str] = Field(default_factory=list[str])
    hooks: list[str] = Field(default_factory=list[str])
    error: HandlerError | None = None


class Answer(_Told):
    """What came of an attempt: ``result`` is JSON, or ``result_base64`` bytes of a type."""

    outcome: Literal["ok", "error"]
    result: Any = None
    result_base64: str | None = None
    content_type: str | None = Field(default=None, max_length=255)
    reason: str | None = None
    error: HandlerError | None = None
    duration_ms: float = Field(default=0, ge=0)

    def told(self) -> Outcome:
        """Return how the attempt ended."""
        if self.outcome == "ok":
            return Outcome()
        reasons = {
            "non_retriable": Reason.NON_RETRIABLE,
            "bad_answer": Reason.BAD_ANSWER,
            "result_too_large": Reason.RESULT_TOO_LARGE,
            "no_handler": Reason.NO_HANDLER,
            "canceled": Reason.CANCELED_BY_CALLER,
        }
        reason = reasons.get(self.reason or "", Reason.HANDLER_ERROR)
        wait_s = self.error.retry_after if self.error else None
        return Outcome(reason, wait_s or 0.0)


@dataclass(frozen=True, slots=True)
class Code:
    """What an instance is given to run: ``files`` as JSON (see sources.py)."""

    files: bytes = field(repr=False)
    entry: str
    signature: str = ""
    concurrency: int = 1
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler is told of the attempt."""

    invocation_id: str
    attempt: int
    max_attempts: int
    deadline_ms: int
    function_id: str
    version: int
    user_id: str = ""
    traceparent: str | None = None

    def told(self) -> dict[str, Any]:
        """Return it as the adapter takes it."""
        deadline = datetime.fromtimestamp(self.deadline_ms / 1000, UTC)
        return {
            "invocationId": self.invocation_id,
            "attempt": self.attempt,
            "maxAttempts": self.max_attempts,
            "deadline": deadline.isoformat(timespec="milliseconds"),
            "functionId": self.function_id,
            "version": self.version,
            "userId": self.user_id or None,
            "traceparent": self.traceparent,
        }


class NoAnswer(CakeworkError):
    """The adapter cannot be reached, or does not speak as it should.

    ``reached``: what was asked may have been begun.
    """

    def __init__(self, detail: str, *, reached: bool) -> None:
        super().__init__(detail)
        self.reached = reached


@dataclass(slots=True)
class Running:
    """An attempt under way: its answer, then whether the instance has nothing more of it."""

    answer: Answer
    lines: AsyncIterator[bytes]

    async def idle(self) -> None:
        """Return when nothing of the attempt runs any more. Raises NoAnswer."""
        try:
            await anext(self.lines)
        except StopAsyncIteration as error:
            raise NoAnswer("The instance went before it was done.", reached=True) from error


class Adapter:
    """Asks adapters. ``close()`` when done."""

    def __init__(self, dialer: Dialer) -> None:
        self._client = httpx2.AsyncClient(
            transport=_Dialed(dialer), headers={"user-agent": CALLER}, timeout=ANSWER_S
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def load(self, vm_id: VmId, code: Code) -> Loaded:
        """Give code to an instance that has none, and have it imported. Raises NoAnswer."""
        head = {
            "entry": code.entry,
            "signature": code.signature,
            "concurrency": code.concurrency,
            "env": dict(code.env),
        }
        body = json.dumps(head)[:-1].encode() + b', "files": ' + code.files + b"}"
        return await self._asked(vm_id, "/load", body, Loaded, LOAD_S)

    async def give_secrets(self, vm_id: VmId, secrets: Mapping[str, str]) -> None:
        """Give the secrets that the function may see, in place of those before."""
        body = json.dumps({"secrets": dict(secrets)}).encode()
        await self._asked(vm_id, "/secrets", body, _Told, ANSWER_S)

    async def abort(self, vm_id: VmId, invocation_id: str, attempt: int) -> None:
        """Ask for an attempt to be given up."""
        body = json.dumps({"invocationId": invocation_id, "attempt": attempt}).encode()
        await self._asked(vm_id, "/abort", body, _Told, ANSWER_S)

    @asynccontextmanager
    async def invoke(
        self, vm_id: VmId, kind: str, event: bytes, context: Context
    ) -> AsyncGenerator[Running]:
        """Run an attempt, or wait for the one that runs: the same is never run twice.

        ``event`` is JSON. There is no time limit but the caller's. Raises NoAnswer.
        """
        head = json.dumps({"kind": kind, "context": context.told()})
        body = head[:-1].encode() + b', "event": ' + event + b"}"
        with _answering():
            async with self._client.stream(
                "POST",
                _url(vm_id, "/invoke"),
                content=body,
                headers={"content-type": "application/json"},
                timeout=httpx2.Timeout(ANSWER_S, read=None),
            ) as response:
                if response.status_code != 200:
                    raise NoAnswer(f"The instance answered {response.status_code}.", reached=True)
                lines = _lines(response.aiter_raw())
                first = await anext(lines, b"")
                yield Running(_parsed(first, Answer), lines)

    async def _asked(
        self, vm_id: VmId, path: str, body: bytes, shape: type[_T], timeout_s: float
    ) -> _T:
        with _answering():
            async with (
                asyncio.timeout(timeout_s),
                self._client.stream(
                    "POST",
                    _url(vm_id, path),
                    content=body,
                    headers={"content-type": "application/json"},
                    timeout=timeout_s,
                ) as response,
            ):
                whole = b"".join([line async for line in _lines(response.aiter_raw())])
                if response.status_code != 200:
                    raise NoAnswer(f"{path} was answered {response.status_code}.", reached=True)
                return _parsed(whole, shape)


class _Dialed(httpx2.AsyncHTTPTransport):
    """Speaks HTTP/1.1 to VMs: the host of a URL is a VM's id."""

    def __init__(self, dialer: Dialer) -> None:
        super().__init__(verify=False, trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=None,
            max_keepalive_connections=CONNECTIONS_KEPT,
            keepalive_expiry=KEPT_S,
            network_backend=_Dialing(dialer),
        )


class _Dialing(httpcore2.AsyncNetworkBackend):
    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - what the client calls it
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        with told_as(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            async with asyncio.timeout(timeout):
                try:
                    dialed = await self._dialer.dial(host, port)
                except DialFailed as error:
                    raise OSError(str(error)) from error
                try:
                    return StreamConnection(*await asyncio.open_connection(sock=dialed))
                except BaseException:
                    dialed.close()
                    raise


@contextmanager
def _answering() -> Generator[None]:
    """Tell of what goes wrong between here and the adapter by one name."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise NoAnswer("The instance cannot be reached.", reached=False) from error
    except (httpx2.TransportError, TimeoutError) as error:
        raise NoAnswer("The instance does not answer.", reached=True) from error


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield lines, without what ends them. Raises NoAnswer for one that is too long."""
    kept = bytearray()
    async for chunk in chunks:
        kept += chunk
        while (end := kept.find(b"\n")) >= 0:
            yield bytes(kept[:end])
            del kept[: end + 1]
        if len(kept) > LINE_BYTES_MAX:
            raise NoAnswer("The instance answers without end.", reached=True)
    if kept:
        yield bytes(kept)


def _parsed(line: bytes, shape: type[_T]) -> _T:
    try:
        return shape.model_validate_json(line)
    except ValidationError as error:
        raise NoAnswer(
            "The instance's answer is not one of its runtime's.", reached=True
        ) from error


def _url(vm_id: VmId, path: str) -> str:
    return f"http://{vm_id}:{CONTROL_PORT}{path}"
