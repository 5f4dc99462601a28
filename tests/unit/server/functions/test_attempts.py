"""An answer that comes just before the deadline, by stand-ins: what is left of the time is none."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cakework.domain.functions import FunctionSettings
from cakework.domain.invocations import InvocationState
from cakework.server.functions.adapter import Answer, HandlerError
from cakework.server.functions.attempts import Attempts
from cakework.server.functions.starts import Job
from cakework.server.store.function_models import InvocationRow

pytestmark = pytest.mark.anyio
NOW_MS = 1_000_000
PATIENCE_S = 60.0


class Instance:
    """Answers at once; its attempt is over when it is let, if it ever is."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    @asynccontextmanager
    async def invoke(self, *_: object, **__: object) -> AsyncGenerator["Instance"]:
        yield self

    async def read(self) -> Answer:
        return Answer(outcome="ok", result=42, duration_ms=1)

    async def idle(self) -> None:
        await self.over.wait()


class Parts:
    """All that attempts need besides, for one invocation."""

    def __init__(self) -> None:
        self.row = InvocationRow(
            id="inv_1",
            account_id="a",
            function_id="fn_1",
            user_id="",
            trigger="api",
            kind="queued",
            state=InvocationState.RUNNING,
            attempt=1,
            unreached=0,
            max_attempts=1,
            event_sealed=b"",
            kept_bytes=0,
            vm_id="0" * 14,
            deadline_ms=NOW_MS,
            cancel=False,
            created_ms=NOW_MS,
            updated_ms=NOW_MS,
        )
        self.removed = asyncio.Event()
        self.ended = asyncio.Event()

    async def together(self, work: Callable[[Any], Any], whose: str) -> Any:
        """Do work on the one row."""
        return work(self)

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[Any]:
        async def scalar(_: object) -> InvocationRow | None:
            return self.scalar(_)

        async def execute(_: object) -> None:
            """Find no attempt to write of."""

        yield SimpleNamespace(scalar=scalar, execute=execute)

    def scalar(self, _: object) -> InvocationRow | None:
        """Find it while it runs."""
        return self.row if self.row.state == InvocationState.RUNNING else None

    def get(self, *_: object) -> None:
        """Find nothing else."""

    async def remove(self, *_: object) -> None:
        self.removed.set()

    def on_end(self, *_: object) -> None:
        self.ended.set()

    def attempts(self, instance: Instance) -> Attempts:
        instances = SimpleNamespace(remove=self.remove, give_back=nothing)
        marks = SimpleNamespace(begin=a_line, end=a_line, first_of=no_marks, write_end=nothing)
        others: dict[str, Any] = {
            "sealer": SimpleNamespace(seal=sealed),
            "invocations": SimpleNamespace(event=sealed),
            "endings": SimpleNamespace(tell=nothing),
            "masks": SimpleNamespace(error=unmasked),
            **dict.fromkeys(("functions", "starts", "machines", "flow", "gatherings")),
        }
        return Attempts(
            database=cast("Any", self),
            server_id="s",
            instances=cast("Any", instances),
            adapter=cast("Any", instance),
            marks=cast("Any", marks),
            on_end=self.on_end,
            clock=lambda: NOW_MS,
            hint=nothing,
            **others,
        )


def nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def sealed(*_: object) -> bytes:
    return b"{}"


def no_marks(_: object) -> dict[str, int]:
    return {}


async def a_line(*_: object, **__: object) -> int:
    return 1


async def unmasked(_: object, error: HandlerError) -> HandlerError:
    return error


async def test_an_answer_in_the_last_moment_counts() -> None:
    """Whether nothing of it runs any more is waited for without regard to the deadline, before it
    is settled."""
    parts, instance = Parts(), Instance()
    parts.attempts(instance).begin(Job(parts.row, FunctionSettings(), alone=False))
    await asyncio.sleep(0)
    instance.over.set()
    async with asyncio.timeout(PATIENCE_S):
        await parts.ended.wait()
    assert (parts.row.state, parts.row.reason) == (InvocationState.SUCCEEDED, None)


async def test_what_goes_on_after_the_deadline_takes_its_instance_with_it() -> None:
    """The answer counts all the same."""
    parts = Parts()
    parts.attempts(Instance()).begin(Job(parts.row, FunctionSettings(), alone=False))
    async with asyncio.timeout(PATIENCE_S):
        await parts.removed.wait()
    assert (parts.row.state, parts.row.reason) == (InvocationState.SUCCEEDED, None)
    assert parts.ended.is_set()
