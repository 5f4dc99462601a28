"""Attempts: each is run once, however often it is asked for, and answered always alike."""

import asyncio
import contextvars
import json
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from inspect import isawaitable
from typing import Any, cast

from cakework_functions.calling import BadAnswer, ResultTooLarge, called, encoded, encoded_bytes
from cakework_functions.context import Context, Later
from cakework_functions.http import Response
from cakework_runtime.applications import Applications
from cakework_runtime.binary_events import BinaryEvent
from cakework_runtime.failure import Failure, describe, show
from cakework_runtime.handlers import Handlers
from cakework_runtime.http1 import Exchange
from cakework_runtime.records import outputs, transformed

KEPT_MAX_BYTES = 16 * 1024 * 1024
"""Of answers that have been given; the oldest go, and only their ids are kept."""
CURRENT: contextvars.ContextVar["Attempt | None"] = contextvars.ContextVar(
    "cakework_attempt", default=None
)
ORDER: dict[str, tuple[str, ...]] = {
    "event": ("event",),
    "scheduled": ("scheduled", "event"),
    "failure": ("failed", "event"),
    "transform": ("transform", "transformBatch"),
}
Key = tuple[str, int]


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt, or one direct request: what runs for it, and what came of it."""

    key: Key
    context: Context
    answer: asyncio.Future[bytes]
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[Any] | None = None
    later: set[asyncio.Future[Any]] = field(default_factory=set[asyncio.Future[Any]])
    failed_later: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    aborted: bool = False


class Invocations:
    """What runs in this process, and what has been answered."""

    def __init__(
        self,
        handlers: Handlers,
        applications: Applications,
        threads: Executor,
        concurrency: int,
        secrets: dict[str, str],
    ) -> None:
        self._handlers = handlers
        self._applications = applications
        self._threads = threads
        self._turns = asyncio.Semaphore(concurrency)
        self._secrets = secrets
        self._attempts: dict[Key, Attempt] = {}
        self._forgotten: set[Key] = set()
        self._kept_bytes = 0
        self._running: set[Attempt] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._nothing_runs = asyncio.Event()
        self._nothing_runs.set()

    def begin(self, order: dict[str, Any]) -> Attempt | None:
        """Return the attempt that ``order`` means, begun by it or before; None: long over.

        Raises:
            KeyError, TypeError, ValueError: it is no order.
        """
        kind, told = order["kind"], order["context"]
        event: Any = order.get("event")
        key = (str(told["invocationId"]), int(told["attempt"]))
        if kind not in ORDER:
            raise ValueError(f"{kind} is no kind of work")
        if kind == "transform" and not isinstance(event["records"], list):
            raise TypeError("records are a list")
        if key in self._forgotten:
            return None
        if key not in self._attempts:
            attempt = self._attempt(key, told)
            self._attempts[key] = attempt
            unit = order.get("unit", "record")
            running = asyncio.create_task(self._run(attempt, kind, event, unit))
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)
        return self._attempts[key]

    def abort(self, key: Key) -> bool:
        """Give up an attempt; tell whether it was under way."""
        attempt = self._attempts.get(key)
        if attempt is None or attempt.answer.done():
            return False
        self._abort(attempt)
        return True

    async def until_idle(self) -> None:
        """Return when nothing runs, neither for queued nor for direct work."""
        await self._nothing_runs.wait()

    @asynccontextmanager
    async def direct(self, told: dict[str, Any], exchange: Exchange) -> AsyncGenerator[Context]:
        """Hold a turn for a direct request, which is given up when its client goes."""
        attempt = self._attempt((str(told["invocationId"]), 1), told)
        attempt.task = asyncio.current_task()
        watching = asyncio.create_task(self._watch(attempt, exchange))
        try:
            async with self._turn(attempt):
                try:
                    yield attempt.context
                finally:
                    watching.cancel()
                    await self._settle(attempt)
        finally:
            watching.cancel()

    async def _watch(self, attempt: Attempt, exchange: Exchange) -> None:
        await exchange.gone.wait()
        if not exchange.complete:
            self._abort(attempt)

    def _abort(self, attempt: Attempt) -> None:
        attempt.aborted = True
        attempt.context.signal.set()
        if attempt.task is not None:
            attempt.task.cancel()

    def _attempt(self, key: Key, told: dict[str, Any]) -> Attempt:
        loop = asyncio.get_running_loop()
        later: list[Callable[[Later], None]] = []
        context = Context(
            invocation_id=key[0],
            attempt=key[1],
            max_attempts=int(told.get("maxAttempts", 1)),
            deadline=_time(told.get("deadline")),
            function_id=told.get("functionId"),
            version=told.get("version"),
            user_id=told.get("userId"),
            traceparent=told.get("traceparent"),
            secrets=self._secrets,
            later=lambda work: later[0](work),
        )
        attempt = Attempt(key, context, loop.create_future())
        later.append(lambda work: _later(loop, attempt, work))
        return attempt

    @asynccontextmanager
    async def _turn(self, attempt: Attempt) -> AsyncGenerator[None]:
        self._running.add(attempt)
        self._nothing_runs.clear()
        token = CURRENT.set(attempt)
        try:
            async with self._turns:
                yield
        finally:
            CURRENT.reset(token)
            self._running.discard(attempt)
            if not self._running:
                self._nothing_runs.set()

    async def _run(self, attempt: Attempt, kind: str, event: Any, unit: str) -> None:
        try:
            async with self._turn(attempt):
                await self._answer(attempt, kind, event, unit)
                await self._settle(attempt)
        finally:
            # However it came to this, those who wait are answered.
            if not attempt.answer.done():
                self._keep(attempt, _failed(_given_up(), 0.0, True))
            attempt.idle.set()

    async def _answer(self, attempt: Attempt, kind: str, event: Any, unit: str) -> None:
        began = time.monotonic()
        try:
            if attempt.aborted:
                raise asyncio.CancelledError
            # A task of its own: what is not even an Exception stays in it.
            attempt.task = asyncio.create_task(self._outcome(attempt.context, kind, event, unit))
            done, failed = await attempt.task
        except asyncio.CancelledError as error:
            done, failed = b"", error
        if isinstance(failed, asyncio.CancelledError) and attempt.aborted:
            failed = _given_up()
        if failed is not None:
            if not isinstance(failed, Failure):
                show(failed)
            done = _failed(failed, time.monotonic() - began, attempt.aborted)
        else:
            took = b',"durationMs":%.3f}' % ((time.monotonic() - began) * 1000)
            done = b'{"outcome":"ok",' + done[1:-1] + took
        self._keep(attempt, done)

    async def _outcome(
        self, context: Context, kind: str, event: Any, unit: str
    ) -> tuple[bytes, BaseException | None]:
        try:
            return await self._result(context, kind, event, unit), None
        except BaseException as error:
            return b"", error

    async def _result(self, context: Context, kind: str, event: Any, unit: str) -> bytes:
        if kind == "transform":
            return await self._transform(context, event, unit)
        function = self._handlers.get(*ORDER[kind])
        if function is not None:
            return _encoded(await called(function, event, context, threads=self._threads))
        if self._handlers.http is not None and self._handlers.http_form != "rest":
            exchange = BinaryEvent(event)
            await self._applications.serve(exchange, context)
            return exchange.result()
        raise Failure("NoHandler", f"this version has no handler for {kind}")

    async def _transform(self, context: Context, event: Any, unit: str) -> bytes:
        records = cast("list[Any]", event["records"])
        one, many = self._handlers.get("transform"), self._handlers.get("transformBatch")
        if one is None and many is None:
            raise Failure("NoHandler", "this version has no handler for transform")
        if unit == "batch":
            if many is not None:
                answer = await called(many, records, context, threads=self._threads)
                return encoded({"out": outputs(answer)})
            results = [await self._record(cast("Any", one), each, context) for each in records]
            return encoded({"out": [out for result in results for out in result]})
        function = cast("Any", one or many)
        return await transformed(function, records, context, self._threads, each=one is not None)

    async def _record(self, function: Any, record: Any, context: Context) -> list[Any]:
        answer = await called(function, record, context, threads=self._threads)
        return outputs(answer)

    def _keep(self, attempt: Attempt, answer: bytes) -> None:
        attempt.answer.set_result(answer)
        self._kept_bytes += len(answer)
        for key, each in list(self._attempts.items()):
            if self._kept_bytes <= KEPT_MAX_BYTES:
                break
            if each.idle.is_set():
                self._kept_bytes -= len(each.answer.result())
                self._forgotten.add(key)
                del self._attempts[key]

    async def _settle(self, attempt: Attempt) -> None:
        """Wait for what the handler left to ``wait_until``."""
        await asyncio.sleep(0)
        while attempt.later:
            for each in list(attempt.later):
                attempt.later.discard(each)
                _, failed = await asyncio.shield(_quietly(each))
                if failed is not None:
                    show(failed)
                    attempt.failed_later.append(describe(failed))


def _encoded(answer: Any) -> bytes:
    if not isinstance(answer, Response):
        return encoded(answer)
    whole = answer.completed()
    if whole.body is not None and not isinstance(whole.body, bytes):
        raise BadAnswer("an answer to an event cannot be a stream")
    kind = next((v for k, v in whole.headers if k.lower() == "content-type"), "")
    return encoded_bytes(whole.body or b"", kind or "application/octet-stream")


def _given_up() -> Failure:
    return Failure("Canceled", "it was given up", True)


def _failed(error: BaseException, took_s: float, aborted: bool) -> bytes:
    told = describe(error)
    reason = "handler_error" if told["retriable"] else "non_retriable"
    if aborted:
        reason = "canceled"
    elif isinstance(error, BadAnswer):
        reason = "bad_answer"
    elif isinstance(error, ResultTooLarge):
        reason = "result_too_large"
    elif isinstance(error, Failure) and error.type == "NoHandler":
        reason = "no_handler"
    answer = {"outcome": "error", "reason": reason, "error": told}
    return json.dumps({**answer, "durationMs": round(took_s * 1000, 3)}).encode()


def _time(text: Any) -> datetime | None:
    return None if text is None else datetime.fromisoformat(str(text)).astimezone(UTC)


def _later(loop: asyncio.AbstractEventLoop, attempt: Attempt, work: Later) -> None:
    """Take work that goes on after the answer; may be called in any thread."""
    context = contextvars.copy_context()

    def take() -> None:
        if isinstance(work, asyncio.Future):
            future = cast("asyncio.Future[Any]", work)
        elif isinstance(work, Future):
            future = asyncio.wrap_future(cast("Future[Any]", work))
        elif isawaitable(work):
            future = context.run(lambda: asyncio.ensure_future(_guarded(cast("Any", work))))
        else:
            future = loop.run_in_executor(None, partial(cast("Any", context.run), _called, work))
        attempt.later.add(future)

    if asyncio._get_running_loop() is loop:
        take()
    else:
        loop.call_soon_threadsafe(take)


async def _guarded(work: Any) -> Any:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"{type(error).__name__} in wait_until") from error


def _called(work: Any) -> Any:
    try:
        return work()
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"{type(error).__name__} in wait_until") from error


async def _quietly(future: asyncio.Future[Any]) -> tuple[Any, BaseException | None]:
    try:
        return await future, None
    except (Exception, asyncio.CancelledError) as error:
        return None, error
