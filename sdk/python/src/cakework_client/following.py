"""Following a log through broken connections: how far it has come, and whether to go on."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from cakework_client.calls import BROKEN, REFUSED, Deadline, pause_s, segment
from cakework_client.errors import ApiError, CakeworkError, ConnectionFailed
from cakework_client.models import FunctionLogLine, Invocation, LogLine
from cakework_client.wire import read

BUILD_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
QUIET_S = 45.0
"""Longest silence of a stream that lives: the server says something every 15 s."""
FOREVER_S = 1e9
GIVEN_MAX = 1_000
"""Invocations that are remembered, so that none is given out twice."""
FAILURES_MAX = 8
"""Tries in a row without a word before the server counts as gone: about half a minute."""


def log_path(source_id: str) -> str:
    """Return where the log of something is, by its id: a build's is a UUID."""
    if source_id.startswith("fn_"):
        return f"/v1/functions/{segment(source_id)}/logs"
    if source_id.startswith("inv_"):
        return f"/v1/invocations/{segment(source_id)}/logs"
    if BUILD_ID.fullmatch(source_id):
        return f"/v1/image/build/{source_id.lower()}/logs"
    return f"/v1/vm/{segment(source_id)}/logs"


def lines_of(source_id: str) -> type[LogLine]:
    """Return what the lines of a log are: those of functions say more."""
    return FunctionLogLine if source_id.startswith(("fn_", "inv_")) else LogLine


@dataclass(slots=True)
class Following:
    """How far the following of one log has come."""

    timeout_s: float
    retries: int
    last_id: int = 0
    ended: bool = False
    begun: bool = False
    failures: int = 0
    kind: type[LogLine] = LogLine
    deadline: Deadline = field(init=False)
    _rest: bytes = b""

    def __post_init__(self) -> None:
        self.deadline = Deadline(self.timeout_s, QUIET_S)

    @property
    def headers(self) -> dict[str, str]:
        """What the next connection asks for: everything behind the last line."""
        go_on = {"Last-Event-ID": str(self.last_id)} if self.last_id else {}
        return {"Accept": "text/event-stream", "Cache-Control": "no-store", **go_on}

    def take(self, chunk: bytes) -> Iterator[LogLine]:
        """Note bytes of the stream; yield the lines that they bring, if they are new ones.

        Raises:
            TimedOut: There is no time left.
            ConnectionFailed: They are not what the server sends.
        """
        for event in self.events(chunk):
            yield from self._line(event)

    def events(self, chunk: bytes) -> Iterator[dict[str, str]]:
        """Note bytes of the stream; yield the fields of the events that they bring.

        Raises:
            TimedOut, ConnectionFailed: As :meth:`take`.
        """
        self.deadline.check()
        *events, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        try:
            for event in events:
                found = fields_of(event.decode())
                if found:
                    self.begun, self.failures = True, 0
                yield found
        except ValueError as error:
            raise ConnectionFailed(f"The stream is garbled: {error}.", sent=True) from error

    def _line(self, event: dict[str, str]) -> Iterator[LogLine]:
        if event.get("event") == "end":
            self.ended = True
        elif event.get("data"):
            line = read(self.kind, json.loads(event["data"]))
            if line.id > self.last_id:
                self.last_id = line.id
                yield line

    def pause_s(self, failure: CakeworkError | None) -> float:
        """Return how long to wait before the next connection.

        Raises:
            CakeworkError: The failure, when there is no going on.
        """
        self.deadline.check()
        self._rest = b""
        self.failures += 1
        if failure is not None and not _passes(failure):
            raise failure
        if self.failures > (FAILURES_MAX if self.begun else self.retries):
            raise failure or ConnectionFailed("The log's stream ends again and again.", sent=True)
        wanted = pause_s(self.failures) if failure or self.failures > 1 else 0.0
        if isinstance(failure, ApiError):
            wanted += failure.retry_after_s or 0.0
        return min(wanted, max(self.deadline.left_s, 0.0))


@dataclass(slots=True)
class FollowingInvocations(Following):
    """How far the following of invocations has come. Behind a broken connection the last ones are
    told again: what was given out is not given out twice."""

    given: dict[str, Invocation] = field(default_factory=dict[str, Invocation])

    def changed(self, chunk: bytes) -> Iterator[Invocation]:
        """Note bytes of the stream; yield the invocations that they bring, each as it is now.

        Raises:
            TimedOut, ConnectionFailed: As :meth:`take`.
        """
        for event in self.events(chunk):
            if event.get("id", "").isdecimal():
                self.last_id = max(self.last_id, int(event["id"]))
            if not event.get("data"):
                continue
            found = read(Invocation, json.loads(event["data"]))
            if self.given.get(found.id) != found:
                self.given.pop(found.id, None)
                self.given[found.id] = found
                if len(self.given) > GIVEN_MAX:
                    self.given.pop(next(iter(self.given)))
                yield found


def fields_of(event: str) -> dict[str, str]:
    """Return the fields of a server-sent event; none of one that is a comment."""
    parts = [line.partition(":") for line in event.split("\n")]
    return {name: value.removeprefix(" ") for name, _, value in parts if name}


def _passes(failure: CakeworkError) -> bool:
    if isinstance(failure, ApiError):
        return failure.status in (*REFUSED, *BROKEN)
    return isinstance(failure, ConnectionFailed)
