"""The runtime's adapter in an instance: what the server asks of it. See docs/dev/runtimes.md.

It is reached on its control port through the node's dial socket, like any port of a VM. What it
answers is the user's word: bounded in bytes, time and depth, and parsed as such. It answers without
chunks, with no answer before the answer, and is asked without cookies.
"""

import asyncio
import base64
import json
import math
import re
from collections import OrderedDict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Container,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Any, Literal, TypeVar
from weakref import WeakSet

import httpcore2
import httpx2
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel, to_pascal

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
TYPE_CHARS_MAX = 256
MESSAGE_CHARS_MAX = 8_192
STACK_CHARS_MAX = 32_768
"""Of an error; the runtimes' adapters cut theirs shorter (docs/dev/runtimes.md)."""
ANSWER_BYTES_MAX = 256 << 10
"""Of an answer to anything but an attempt."""
LARGE_BYTES = 128 << 10
"""Of an answer: to read more takes time in which the server does nothing else."""
REST = 4
"""So many times as long as one large answer took, an account's next one waits: so all of its
together take a fifth of the server's time."""
ACCOUNTS_MAX = 1_000
CONNECTION_BYTES_MAX = LINE_BYTES_MAX + (256 << 10)
"""Of all that comes in answer to one request: head, lines, and what is around them."""
DURATION_MS_MAX = 86_400_000
RETRY_AFTER_S_MAX = 7 * 86_400
CONNECTIONS_KEPT = 256
KEPT_S = 60.0
GONE = 410
_STATUS = len(b"HTTP/1.1 ")
_CONTENT_TYPE = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")


class _Told(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


_T = TypeVar("_T", bound=_Told)


def _up_to(chars: int) -> AfterValidator:
    return AfterValidator(lambda text: text[:chars])


def _between(least: float, most: float) -> AfterValidator:
    """Bring a number within bounds; what is none is the least."""
    return AfterValidator(
        lambda number: least if math.isnan(number) else min(max(number, least), most)
    )


class HandlerError(_Told):
    """What a handler raised, for people: ``stack`` has the user's frames alone."""

    type: Annotated[str, _up_to(TYPE_CHARS_MAX)] = "Error"
    message: Annotated[str, _up_to(MESSAGE_CHARS_MAX)] = ""
    stack: Annotated[str, _up_to(STACK_CHARS_MAX)] | None = None
    retriable: bool = True
    retry_after: Annotated[float, _between(0, RETRY_AFTER_S_MAX)] | None = None


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
    content_type: str | None = None
    reason: str | None = None
    error: HandlerError | None = None
    duration_ms: Annotated[float, _between(0, DURATION_MS_MAX)] = 0

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

    ``reached``: what was asked may have been begun. ``reason`` is what that is for an attempt.
    """

    def __init__(self, detail: str, *, reached: bool, reason: Reason = Reason.CRASH) -> None:
        super().__init__(detail)
        self.reached = reached
        self.reason = reason

    def told(self) -> Answer:
        """Return it as the answer of an attempt."""
        return _failed(self.reason, self.detail)


@dataclass(slots=True)
class Running:
    """An attempt that was answered: with what, then whether the instance has nothing more of it."""

    read: Callable[[], Awaitable[Answer]]
    """Returns the answer, when it is its account's turn. Raises NoAnswer."""
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
        self._rests: OrderedDict[str, float] = OrderedDict()
        """Until when no large answer is read, by account."""
        self._open: WeakSet[_Untrusted] = WeakSet()
        self._client = httpx2.AsyncClient(
            transport=_Dialed(dialer, self._open),
            headers={"user-agent": CALLER},
            timeout=ANSWER_S,
            # A client keeps, for as long as it lives, whatever it is told to.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    @property
    def connected(self) -> set[str]:
        """VMs to which there is a connection."""
        return {stream.vm_id for stream in self._open}

    def hang_up(self, vm_ids: Container[str]) -> None:
        """Break the connections to VMs that are gone off: nothing comes of them any more, and
        where the machine ended before its kernel could say so nobody else tells."""
        for stream in list(self._open):
            if stream.vm_id in vm_ids:
                stream.abort()

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
        self, vm_id: VmId, kind: str, event: bytes, context: Context, account: str = ""
    ) -> AsyncGenerator[Running]:
        """Run an attempt of ``account``'s, or wait for the one that runs: the same is never run
        twice.

        ``event`` is JSON. There is no time limit but the caller's. Raises NoAnswer.
        """
        head = json.dumps({"kind": kind, "context": context.told()})
        body = head[:-1].encode() + b', "event": ' + event + b"}"
        async with self._invoked(vm_id, body, account, _checked) as running:
            yield running

    @asynccontextmanager
    async def transform(
        self,
        vm_id: VmId,
        records: Sequence[bytes],
        unit: str,
        context: Context,
        account: str = "",
    ) -> AsyncGenerator[Running]:
        """The same for records, each of them JSON. Of the answer the size of the line alone is
        bounded: what is in it is to be looked at. Raises NoAnswer.
        """
        head = json.dumps({"kind": "transform", "unit": unit, "context": context.told()})
        body = head[:-1].encode() + b', "event": {"records": [' + b",".join(records) + b"]}}"
        async with self._invoked(vm_id, body, account, _as_it_is) as running:
            yield running

    @asynccontextmanager
    async def _invoked(
        self, vm_id: VmId, body: bytes, account: str, checked: Callable[[Answer], Answer]
    ) -> AsyncGenerator[Running]:
        with _answering():
            async with self._client.stream(
                "POST",
                _url(vm_id, "/invoke"),
                content=body,
                headers={"content-type": "application/json"},
                timeout=httpx2.Timeout(ANSWER_S, read=None),
            ) as response:
                if response.status_code == GONE:
                    why = "The answer is not kept any more."
                    raise NoAnswer(why, reached=True, reason=Reason.INTERRUPTED)
                _check(response)
                lines = _lines(response.aiter_raw())
                first = await anext(lines, b"")
                if not first:
                    raise NoAnswer("The instance went before it answered.", reached=True)
                yield Running(partial(self._read, first, account, checked), lines)

    async def _read(self, line: bytes, account: str, checked: Callable[[Answer], Answer]) -> Answer:
        """Return what a line says, in its account's turn if that takes long. Raises NoAnswer."""
        if len(line) <= LARGE_BYTES:
            return checked(_parsed(line, Answer))
        loop = asyncio.get_running_loop()
        # Others that wait may be before this one, which puts it off.
        while (rest_s := self._rests.get(account, 0.0) - loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(rest_s)
        began = loop.time()
        try:
            return checked(_parsed(line, Answer))
        finally:
            ended = loop.time()
            self._rests[account] = ended + REST * (ended - began)
            self._rests.move_to_end(account)
            if len(self._rests) > ACCOUNTS_MAX:
                self._rests.popitem(last=False)

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
                _check(response)
                whole = bytearray()
                async for chunk in response.aiter_raw():
                    whole += chunk
                    if len(whole) > ANSWER_BYTES_MAX:
                        raise NoAnswer(f"{path} is answered without end.", reached=True)
                return _parsed(bytes(whole), shape)


class _Dialed(httpx2.AsyncHTTPTransport):
    """Speaks HTTP/1.1 to VMs: the host of a URL is a VM's id."""

    def __init__(self, dialer: Dialer, streams: WeakSet["_Untrusted"]) -> None:
        super().__init__(verify=False, trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=None,
            max_keepalive_connections=CONNECTIONS_KEPT,
            keepalive_expiry=KEPT_S,
            network_backend=_Dialing(dialer, streams),
        )


class _Dialing(httpcore2.AsyncNetworkBackend):
    def __init__(self, dialer: Dialer, streams: WeakSet["_Untrusted"]) -> None:
        self._dialer = dialer
        self._streams = streams

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
                    stream = _Untrusted(host, *await asyncio.open_connection(sock=dialed))
                except BaseException:
                    dialed.close()
                    raise
        self._streams.add(stream)
        return stream


class _Untrusted(StreamConnection):
    """A connection to who may send what he likes: one answer to a request, of so many bytes.

    A client passes over answers before the answer (1xx), as many as come.
    """

    def __init__(
        self, vm_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(reader, writer)
        self.vm_id = vm_id
        self._left = CONNECTION_BYTES_MAX
        self._begun = b""

    def abort(self) -> None:
        """Break it off: whoever reads sees the end."""
        self._writer.transport.abort()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send ``buffer``, of a request that may be answered."""
        self._left, self._begun = CONNECTION_BYTES_MAX, b""
        await super().write(buffer, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Return what has come. Raises ReadError for what no adapter sends."""
        came = await super().read(max_bytes, timeout)
        self._left -= len(came)
        self._begun += came[: _STATUS + 1 - len(self._begun)]
        if self._left < 0 or self._begun[_STATUS:] == b"1":
            raise httpcore2.ReadError("an answer without end, or before the answer")
        return came


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
        looked = len(kept)
        kept += chunk
        while (end := kept.find(b"\n", looked)) >= 0:
            yield bytes(kept[:end])
            del kept[: end + 1]
            looked = 0
        if len(kept) > LINE_BYTES_MAX:
            why = "The instance answers without end."
            raise NoAnswer(why, reached=True, reason=Reason.RESULT_TOO_LARGE)
    if kept:
        yield bytes(kept)


def _parsed(line: bytes, shape: type[_T]) -> _T:
    try:
        return shape.model_validate_json(line)
    except ValidationError as error:
        why = "The instance's answer is not one of its runtime's."
        raise NoAnswer(why, reached=True, reason=Reason.BAD_ANSWER) from error


def _check(response: httpx2.Response) -> None:
    """Raise NoAnswer for an answer that no adapter gives."""
    if response.status_code != 200:
        raise NoAnswer(f"The instance answered {response.status_code}.", reached=True)
    if "transfer-encoding" in response.headers:
        # Each chunk is work for the client, however small it is.
        why = "The instance answers in chunks."
        raise NoAnswer(why, reached=True, reason=Reason.BAD_ANSWER)


def _as_it_is(answer: Answer) -> Answer:
    return answer


def _checked(answer: Answer) -> Answer:
    """Return an answer, or what is wrong with its result, for adapters may be tampered with."""
    if answer.outcome != "ok":
        return answer
    try:
        if answer.result_base64 is not None:
            size = len(base64.b64decode(answer.result_base64, validate=True))
        else:
            told = json.dumps(answer.result, ensure_ascii=False, allow_nan=False)
            size = len(told.encode())
    except (ValueError, RecursionError):
        return _failed(Reason.BAD_ANSWER, "The result is neither JSON nor bytes.")
    if size > RESULT_BYTES_MAX:
        why = f"The result has {size} bytes, and {RESULT_BYTES_MAX} are allowed."
        return _failed(Reason.RESULT_TOO_LARGE, why)
    if not _CONTENT_TYPE.fullmatch(answer.content_type or ""):
        return answer.model_copy(update={"content_type": None})
    return answer


def _failed(reason: Reason, why: str) -> Answer:
    error = HandlerError(type=to_pascal(reason.value), message=why, retriable=False)
    return Answer(outcome="error", reason=reason, error=error)


def _url(vm_id: VmId, path: str) -> str:
    return f"http://{vm_id}:{CONTROL_PORT}{path}"
