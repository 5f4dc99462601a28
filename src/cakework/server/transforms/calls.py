"""One call of a transform: records go in and results come out, in the order of the records.

    records ──▶ handed over, two groups at once ──▶ told ──▶ written, in order

The next records are read while an instance is at those before, and no more is read than is taken.
An instance is taken with the first record and held to the last. One that is lost under way takes
with it what it had; the rest goes to another, unless a failure ends the call.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import structlog

from cakework.domain import routes as wire
from cakework.domain.direct import ABORTED_S, LATER_S
from cakework.domain.errors import (
    CakeworkError,
    ConcurrencyExceeded,
    HandlerFailed,
    HandlerTimeout,
    InvalidRequest,
    NoHandler,
    NoLiveVersion,
    NoRoom,
    QuotaExceeded,
    ResultTooLarge,
    TooSlow,
    Unavailable,
)
from cakework.domain.functions import FunctionSettings
from cakework.domain.ids import InvocationId, new_invocation_id
from cakework.domain.invocations import InvocationState, Reason
from cakework.server.clock import Clock
from cakework.server.functions.adapter import Adapter, Context, HandlerError, NoAnswer
from cakework.server.functions.masks import Masks
from cakework.server.store.function_models import FunctionRow
from cakework.server.transforms.formats import BadResult, Writer
from cakework.server.transforms.groups import OUTS_MAX, Failed, Group
from cakework.server.transforms.holds import Hold, Holds
from cakework.server.transforms.sources import Source

AHEAD = 2
"""Groups that are handed over and not written yet."""
BEGUN_S = 0.05
"""After which it is on record that a call is under way."""
STREAM_S = 3_600.0
"""What a call may take in all."""
INSTANCES_MAX = 10
"""That may be lost in one call."""
WRITTEN_BYTES = 64 * 1024
"""Of results that are written at once."""
SHARE = 0.1
"""Of the time that there is for a group, what one is made to take by those before it."""
_NOT_HAD = (
    *(NoLiveVersion, NoHandler, ConcurrencyExceeded, NoRoom, QuotaExceeded, Unavailable),
    TimeoutError,
)
_ERRORS = {Reason.TIMEOUT: HandlerTimeout, Reason.RESULT_TOO_LARGE: ResultTooLarge}
_log = structlog.stdlib.get_logger(__name__)
Emit = Callable[[bytes], Awaitable[None]]


class CallerGone(Exception):
    """Nobody waits for the answer any more."""


class RecordFailed(Exception):
    """A record failed, and with it the call: ``error`` is what is told of it."""

    def __init__(self, number: int, error: CakeworkError, why: HandlerError) -> None:
        super().__init__(error.detail)
        self.number = number
        self.error = error
        self.why = why


@dataclass(slots=True)
class Counts:
    """Records of a call: handed over, or passed without; results; records of which nothing came;
    records that failed."""

    taken: int = 0
    out: int = 0
    dropped: int = 0
    failed: int = 0

    def told(self) -> dict[str, dict[str, int]]:
        """Return them as the invocation's result."""
        counts = asdict(self)
        return {"records": {"in": counts.pop("taken"), **counts}}


class Call:
    """One call, for ``function`` with its ``settings`` of now.

    ``began_s``: the time for the first group counts from here; None: from when it is handed over.
    """

    def __init__(
        self,
        function: FunctionRow,
        settings: FunctionSettings,
        holds: Holds,
        adapter: Adapter,
        masks: Masks,
        clock: Clock,
        *,
        began_s: float | None = None,
    ) -> None:
        self.id: InvocationId = new_invocation_id()
        self.start = ""
        self.counts = Counts()
        self._function = function
        self._settings = settings
        self._on_error = settings.on_error or "fail"
        self._unit = settings.unit or "record"
        self._holds = holds
        self._adapter = adapter
        self._masks = masks
        self._clock = clock
        self._whole = began_s is not None
        self._due_s = None if began_s is None else began_s + settings.transform_timeout_s
        self._at_once = settings.records_at_once
        if self._unit == "record" and not self._whole:
            self._at_once = 1
        self._taking = asyncio.Lock()
        self._slots = asyncio.Semaphore(AHEAD)
        self._hold: Hold | None = None
        self._first: wire.Visit | None = None
        self._lost = 0
        self._without = False
        self._orders = 0
        self._open = 0
        self._idle_since_s = asyncio.get_running_loop().time()
        self._groups: list[Group] = []
        """Those of which something may still run."""
        self._why: Failed | None = None
        self._begun: asyncio.TimerHandle | None = None

    def idle_since_s(self) -> float:
        """Return since when no records are at work, as the loop's time; infinity if some are."""
        return math.inf if self._open else self._idle_since_s

    @property
    def word(self) -> str:
        """What has become of the records, so far."""
        if not self.counts.failed or self._on_error == "fail":
            return "applied"
        return "passed" if self._on_error == "pass" else "dropped"

    async def run(
        self, source: Source, writer: Writer, emit: Emit, gone: asyncio.Event | None = None
    ) -> None:
        """Take all records of ``source`` through the transform; ``emit`` is given what is written.

        Raises:
            CallerGone: ``gone`` was set, or the invocation was given up.
            RecordFailed: a record did, and that ends the call.
            BadRecord, TooSlow: of the source.
            CakeworkError: there is no instance to be had, or more is answered than may be.
        """
        work = asyncio.create_task(self._work(source, writer, emit))
        cut = self._holds.watch(self.id)
        watching = {asyncio.create_task(each.wait()) for each in (cut, gone) if each is not None}
        why: Failed | None = None
        try:
            async with asyncio.timeout(STREAM_S):
                await asyncio.wait({work, *watching}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise CallerGone
            await work
            why = self._why if self.counts.failed == self.counts.taken else None
        except TimeoutError as error:
            told = HandlerError(type="Timeout", message=f"It took longer than {STREAM_S:.0f} s.")
            why = Failed(Reason.TIMEOUT, told, broken=True)
            raise HandlerTimeout(told.message) from error
        except (CallerGone, RecordFailed, CakeworkError) as error:
            why = self._of(error)
            raise
        finally:
            self._holds.forget(self.id)
            for task in (work, *watching):
                task.cancel()
            await asyncio.gather(work, *watching, return_exceptions=True)
            if self._begun is not None:
                self._begun.cancel()
            self._end(why)

    def _of(self, error: Exception) -> Failed:
        """Return how a call ended with ``error``, for the record."""
        match error:
            case RecordFailed() if self._why is not None:
                return self._why
            case CallerGone():
                return Failed(Reason.CANCELED_BY_CALLER, HandlerError(), broken=True)
            case InvalidRequest() | TooSlow():
                return Failed(Reason.CANCELED_BY_CALLER, _as_error(error))
            case ResultTooLarge():
                return Failed(Reason.RESULT_TOO_LARGE, _as_error(error))
            case _:
                return Failed(Reason.INTERRUPTED, HandlerError(message=str(error)))

    async def _work(self, source: Source, writer: Writer, emit: Emit) -> None:
        groups: asyncio.Queue[Group | Exception | None] = asyncio.Queue()
        sending = asyncio.create_task(self._send(source, groups))
        try:
            while (group := await groups.get()) is not None:
                if isinstance(group, Exception):
                    raise group
                await self._settle(group, writer, emit)
                self._open -= 1
                self._idle_since_s = asyncio.get_running_loop().time()
                self._slots.release()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(
        self, source: Source, groups: "asyncio.Queue[Group | Exception | None]"
    ) -> None:
        try:
            while True:
                await self._slots.acquire()
                records = await source.take(self._at_once)
                if not records:
                    break
                group = Group(self.counts.taken + 1, records)
                self.counts.taken += len(records)
                self._open += 1
                await self._hand_over(group)
                groups.put_nowait(group)
            groups.put_nowait(None)
        except Exception as error:
            groups.put_nowait(error)

    async def _hand_over(self, group: Group) -> None:
        async with self._taking:
            if self._hold is None and not self._without:
                await self._take()
        if self._hold is not None:
            self._ask(group, self._hold)

    def _ask(self, group: Group, hold: Hold) -> None:
        self._orders += 1
        name = self.id if self._orders == 1 else f"{self.id}.{self._orders}"
        deadline_ms = self._clock() + round(self._settings.transform_timeout_s * 1000)
        function = self._function
        context = Context(
            name, 1, 1, deadline_ms, function.id, hold.version, function.user_id, None
        )
        group.hold = hold
        group.ask(self._adapter, self._unit, context, function.account_id)
        self._groups = [each for each in self._groups if each.task and not each.task.done()]
        self._groups.append(group)

    async def _take(self) -> None:
        """Take an instance; where there is none, let records pass if they may."""
        try:
            async with asyncio.timeout_at(self._due_s):
                hold = await self._holds.take(self._function.id)
        except _NOT_HAD as error:
            if self._on_error == "pass":
                detail = error.detail if isinstance(error, CakeworkError) else "It took too long."
                _log.warning("transform.passed", function_id=self._function.id, detail=detail)
                self._without = True
                return
            if isinstance(error, TimeoutError):
                raise HandlerTimeout("No instance was there within timeoutMs.") from error
            raise
        self._hold, self.start = hold, self.start or hold.start
        if self._first is None:
            self._first = self._visit(hold)
            loop = asyncio.get_running_loop()
            self._begun = loop.call_later(BEGUN_S, self._holds.note, [self._first])
        else:
            self._holds.note([self._first.model_copy(update={"vm_id": hold.vm_id})])

    def _visit(self, hold: Hold) -> wire.Visit:
        function, now = self._function, self._clock()
        return wire.Visit(
            id=self.id,
            account_id=function.account_id,
            function_id=function.id,
            version=hold.version,
            vm_id=hold.vm_id,
            start=hold.start,
            method="POST",
            path=f"/v1/transforms/{function.id}/apply",
            began_ms=now,
            deadline_ms=now + round(STREAM_S * 1000),
            trigger="transform",
        )

    async def _settle(self, group: Group, writer: Writer, emit: Emit) -> None:
        """Write what comes of a group, when it does; what is left of it is handed over again."""
        while group.records:
            if group.hold is None:
                await emit(await self._failed(group.number, group.records, None, writer))
                return
            loop = asyncio.get_running_loop()
            due_s = self._due_s or loop.time() + self._settings.transform_timeout_s
            self._due_s = None
            try:
                answer, results = await group.told(due_s)
            except Failed as failed:
                if failed.broken:
                    self._lose(group.hold)
                await emit(await self._failed(group.number, group.records, failed, writer))
                return
            if self._unit == "batch":
                results, parts = results[:1], [group.records]
            else:
                self._adapt(answer.duration_ms / 1000 / len(results))
                parts = [[record] for record in group.records[: len(results)]]
            await self._write(group, parts, results, writer, emit)
            done = sum(len(part) for part in parts)
            group = Group(group.number + done, group.records[done:])
            if group.records:
                await self._hand_over(group)

    def _adapt(self, each_s: float) -> None:
        """Have as many records in a group as take a share of its time: more and more at first."""
        if not self._whole:
            room = SHARE * self._settings.transform_timeout_s / max(each_s, 1e-6)
            most = min(self._settings.records_at_once, 2 * self._at_once)
            self._at_once = max(1, min(most, round(room)))

    async def _write(
        self,
        group: Group,
        parts: list[list[bytes]],
        results: list[Any],
        writer: Writer,
        emit: Emit,
    ) -> None:
        lines, number = bytearray(), group.number
        for records, result in zip(parts, results, strict=True):
            try:
                told = self._lines(records, result, writer)
            except Failed as failed:
                if self._on_error == "fail" and lines:
                    await emit(bytes(lines))
                    lines.clear()
                told = await self._failed(number, records, failed, writer, group.hold)
            lines += told
            number += len(records)
            if len(lines) > WRITTEN_BYTES:
                await emit(bytes(lines))
                lines.clear()
        if lines:
            await emit(bytes(lines))

    def _lines(self, records: list[bytes], result: Any, writer: Writer) -> bytes:
        if isinstance(result, HandlerError):
            raise Failed(_reason(result), result)
        outs = cast("list[Any]", result)
        if len(outs) > OUTS_MAX * len(records):
            why = f"It answered {len(outs)} results, and {OUTS_MAX} of a record are taken."
            raise Failed(Reason.RESULT_TOO_LARGE, _error("ResultTooLarge", why))
        try:
            lines = writer.results(outs)
        except BadResult as error:
            raise Failed(Reason.BAD_ANSWER, _error("BadResult", str(error))) from error
        self.counts.out += len(outs)
        self.counts.dropped += 0 if outs else len(records)
        return lines

    async def _failed(
        self,
        number: int,
        records: list[bytes],
        failed: Failed | None,
        writer: Writer,
        hold: Hold | None = None,
    ) -> bytes:
        """Return what is written for records that failed. Raises RecordFailed."""
        self.counts.failed += len(records)
        if failed is not None:
            if hold is not None:
                failed.error = await self._masks.error(hold.vm_id, failed.error)
            self._why = self._why or failed
        is_over = self._lost > INSTANCES_MAX
        if self._on_error == "drop" and not is_over:
            return b""
        if self._on_error == "pass":
            self._without |= is_over
            try:
                lines = b"".join([writer.unchanged(record) for record in records])
            except BadResult as error:
                failed = Failed(Reason.BAD_ANSWER, _error("BadResult", str(error)))
            else:
                self.counts.out += len(records)
                return lines
        if failed is None:
            raise TypeError("what was not handed over can only pass")
        error = failed.error
        detail = f"Record {number} failed: {error.type}: {error.message}"
        kind = _ERRORS.get(failed.reason, HandlerFailed)
        raise RecordFailed(number, kind(detail), error)

    def _lose(self, hold: Hold) -> None:
        """Have an instance go that is of no more use; where the call ends with it, then."""
        if self._hold is not hold:
            return
        self._lost += 1
        if self._on_error != "fail":
            self._hold = None
            self._holds.give_back(hold, again=False, visit=None)

    def _end(self, why: Failed | None) -> None:
        """Put a call on record that is over, and have its instance given back."""
        if self._first is None:
            if self._hold is not None:
                self._holds.give_back(self._hold, again=True, visit=None)
            return
        state = InvocationState.SUCCEEDED if why is None else InvocationState.FAILED
        if why is not None and why.reason is Reason.CANCELED_BY_CALLER:
            state = InvocationState.CANCELED
        visit = self._first.model_copy(
            update={
                "state": state,
                "reason": None if why is None else why.reason,
                "error": _told_of(why),
                "ended_ms": max(self._first.began_ms, self._clock()),
                "result": self.counts.told(),
            }
        )
        hold, self._hold = self._hold, None
        if hold is None:
            self._holds.note([visit])
            return
        left = [each for each in self._groups if each.hold is hold and each.task is not None]
        self._holds.go_on(self._let_go(hold, visit, left, why))

    async def _let_go(
        self, hold: Hold, visit: wire.Visit, groups: list[Group], why: Failed | None
    ) -> None:
        """Give an instance back when nothing of a call runs in it any more."""
        tasks = [each.task for each in groups if each.task is not None]
        broken = why is not None and (why.broken or hold.over.is_set())
        given_up = why is not None and why.reason is Reason.CANCELED_BY_CALLER
        if any(not task.done() for task in tasks):
            if not broken:
                self._holds.note([visit])
            if why is not None and (given_up or not broken):
                await asyncio.gather(*(self._abort(hold, each) for each in groups))
            if given_up or not broken:
                wait_s = LATER_S if why is None else ABORTED_S
                await asyncio.wait(tasks, timeout=wait_s)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        again = not broken and all(each is True for each in ended)
        self._holds.give_back(hold, again=again, visit=visit)

    async def _abort(self, hold: Hold, group: Group) -> None:
        if group.task is not None and not group.task.done():
            with contextlib.suppress(NoAnswer):
                await self._adapter.abort(hold.vm_id, group.name, 1)


def _reason(error: HandlerError) -> Reason:
    return Reason.HANDLER_ERROR if error.retriable else Reason.NON_RETRIABLE


def _error(type_: str, message: str) -> HandlerError:
    return HandlerError(type=type_, message=message, retriable=False)


def _as_error(error: CakeworkError) -> HandlerError:
    return _error(type(error).__name__, error.detail)


def _told_of(why: Failed | None) -> dict[str, Any] | None:
    if why is None or not why.error.message:
        return None
    return why.error.model_dump(by_alias=True, exclude_none=True)
