"""Attempts: each is seen to its end, and settled once.

    begun ──▶ given to its instance ──▶ answered ──▶ settled ──▶ nothing of it runs ──▶ place free
                  └──▶ no answer, too late, failed ──▶ noted ──▶ instance ended ──▶ settled

An attempt is given to its instance again by whoever has its claim: the adapter runs it once and
answers alike. What did not end well takes its instance with it, and is settled when that is gone:
so no attempt that follows meets what this one left. How it ended is noted before, where that is
known: afterwards nobody can ask. Of what broke off without a word the end of the VM tells.
"""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog
from sqlalchemy import Select, Update, and_, or_, select, update
from sqlalchemy.orm import Session

from cakework.domain.errors import CakeworkError
from cakework.domain.functions import FunctionSettings, Isolation, isolation_of, policy_of
from cakework.domain.ids import VmId
from cakework.domain.invocations import (
    FINAL,
    STARTABLE,
    Again,
    Ended,
    InvocationState,
    Outcome,
    Reason,
    Work,
    after,
    handler_of,
    reason_of,
)
from cakework.domain.steps import Step
from cakework.domain.vms import EndCause, VmState
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.functions.adapter import (
    Adapter,
    Answer,
    Context,
    HandlerError,
    NoAnswer,
    Running,
)
from cakework.server.functions.flow import Flow, lock
from cakework.server.functions.functions import Functions
from cakework.server.functions.gatherings import Gatherings, failed_of
from cakework.server.functions.instances import CRASH_TOLD_S, Instances
from cakework.server.functions.invocations import (
    Endings,
    Found,
    Invocations,
    OnEnd,
    most_attempts,
)
from cakework.server.functions.leases import CLAIM_MS, RENEW_S
from cakework.server.functions.machines import Machines
from cakework.server.functions.marks import Marks
from cakework.server.functions.masks import Masks
from cakework.server.functions.starts import Job, Starts
from cakework.server.store.database import Database
from cakework.server.store.function_models import (
    AttemptRow,
    FunctionRow,
    InstanceRow,
    InvocationRow,
)
from cakework.server.store.sealing import SEAL_BYTES, Sealer
from cakework.server.store.values import storable

FRESH_MS = 2_000
TOGETHER_S = 0.01
"""How long is waited after an answer to hear that nothing of the attempt runs any more, and where
its lines end."""
SOON_S = 0.05
"""How long work waits for the place of an attempt that was answered, until it has an instance
started: about as long as a start takes, so that it waits twice as long at most."""
LATER_S = 30.0
"""How long what a handler left to ``waitUntil`` may go on after its answer."""
SUCCEEDED = "succeeded"
_PARTLY = Answer(
    outcome="error",
    error=HandlerError(type="PartlyFailed", message="The handler names events that failed."),
)
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing of an attempt runs any more. ``last_line`` is where its log ends; None: the guest did
    not say, and the instance serves no more."""

    last_line: int | None


class Attempts:
    """The attempts that this process sees to their ends."""

    def __init__(
        self,
        database: Database,
        server_id: str,
        sealer: Sealer,
        functions: Functions,
        invocations: Invocations,
        instances: Instances,
        starts: Starts,
        machines: Machines,
        adapter: Adapter,
        marks: Marks,
        endings: Endings,
        masks: Masks,
        flow: Flow,
        gatherings: Gatherings,
        on_end: OnEnd,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """Work as the process ``server_id``; ``hint`` says that a place is free that is wanted."""
        self._database = database
        self._server_id = server_id
        self._sealer = sealer
        self._functions = functions
        self._invocations = invocations
        self._instances = instances
        self._starts = starts
        self._machines = machines
        self._adapter = adapter
        self._marks = marks
        self._endings = endings
        self._masks = masks
        self._flow = flow
        self._gatherings = gatherings
        self._on_end = on_end
        self._clock = clock
        self._hint = hint
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._held: dict[tuple[str, int], str] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._answers: dict[tuple[str, int], tuple[str, float]] = {}
        """Of attempts that were answered and whose places are not free yet: instance, and time."""
        self._renewed_ms = 0

    def begin(self, job: Job) -> None:
        """See an attempt to its end, from now on, unless that is done."""
        if job.key in self._running:
            return
        task = asyncio.create_task(self._guarded(job))
        self._running[job.key] = task
        self._held[job.key] = job.vm_id
        task.add_done_callback(lambda _: self._forget(job))

    def soon_free(self) -> set[str]:
        """Return instances with a place that is about to be free, as far as this process knows."""
        since = asyncio.get_running_loop().time() - SOON_S
        return {vm_id for vm_id, answered in self._answers.values() if answered > since}

    def _forget(self, job: Job) -> None:
        self._running.pop(job.key, None)
        self._held.pop(job.key, None)

    async def close(self) -> None:
        """Let go of what runs: it goes on in its instances, and the next process takes it up."""
        tasks = [*self._running.values(), *self._ending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._marks.close()
        async with self._database.writing() as session:
            await session.execute(
                update(InvocationRow)
                .where(InvocationRow.claimed_by == self._server_id)
                .values(claimed_by=None, claimed_until_ms=None)
            )

    async def take_up(self) -> None:
        """Keep the claims of what runs, and take up what nobody sees to any more."""
        now = self._clock()
        lost = or_(
            InvocationRow.claimed_by.is_(None),
            # What was claimed a moment ago is about to be begun by whoever did it.
            and_(
                InvocationRow.claimed_by == self._server_id,
                InvocationRow.claimed_until_ms < now + CLAIM_MS - FRESH_MS,
            ),
            InvocationRow.claimed_until_ms < now,
        )
        # Direct work is its router's (lendings.py).
        running = InvocationRow.state == InvocationState.RUNNING, InvocationRow.kind == "queued"
        async with self._database.reading() as session:
            rows = list(await session.scalars(select(InvocationRow).where(*running, lost)))
        ours = [row for row in rows if (row.id, row.attempt) in self._running]
        await self._renew([row.id for row in ours if _is_short(row, now)])
        if self._held and self._renewed_ms < now - RENEW_S * 1000:
            await self._instances.renew(set(self._held.values()))
            self._renewed_ms = now
        for row in rows:
            if (row.id, row.attempt) not in self._running:
                await self._renew([row.id])
                await self._take_up(row)

    async def give_up(self) -> None:
        """End what was canceled: its instances go."""
        query = select(InvocationRow).where(
            InvocationRow.state == InvocationState.RUNNING, InvocationRow.cancel
        )
        async with self._database.reading() as session:
            rows = list(await session.scalars(query))
        for row in rows:
            vm_id = row.vm_id
            if vm_id and (row.id, row.attempt) in self._running and vm_id not in self._ending:
                task = asyncio.create_task(self._end(VmId(vm_id)))
                self._ending[vm_id] = task
                task.add_done_callback(lambda _, vm_id=vm_id: self._ending.pop(vm_id, None))

    async def _end(self, vm_id: VmId) -> None:
        try:
            await self._machines.end(vm_id)
        except CakeworkError as error:
            _log.info("attempt.not_ended", vm_id=vm_id, detail=error.detail)

    async def not_started(self, instance: InstanceRow, why: str) -> None:
        """Note that an instance failed that the oldest due work of a function was to have: that
        is no attempt, and a crash when it comes too often."""
        query = (
            select(InvocationRow)
            .where(
                InvocationRow.function_id == instance.function_id,
                InvocationRow.state.in_(STARTABLE),
                InvocationRow.next_ms <= self._clock(),
            )
            .order_by(InvocationRow.next_ms, InvocationRow.id)
            .limit(1)
            .with_for_update()
        )
        if instance.user_id:
            query = query.where(InvocationRow.user_id == instance.user_id)
        now = self._clock()
        async with self._database.writing() as session:
            # Before the row is locked: who has the flow may want to change that.
            await session.run_sync(lock)
            function = await session.get(FunctionRow, instance.function_id)
            row = await session.scalar(query)
            if row is None or function is None:
                return
            work = Work(row.attempt + 1, row.created_ms, row.unreached, row.max_attempts)
            policy = policy_of(row.retry, self._functions.settings(function).retry)
            luck = random.random()  # noqa: S311 - a delay, and no secret
            follows = after(Outcome(Reason.CRASH, reached=False), work, policy, now, luck)
            row.updated_ms = max(row.updated_ms, now)
            if isinstance(follows, Again) and not follows.counted:
                row.unreached += 1
                return
            if follows != Ended(InvocationState.EXPIRED, Reason.MAX_AGE):
                row.attempt += 1
                session.add(_failed_start(row, instance, now))
            self._tell(row, _broken_off(why), None)
            _apply(row, follows, now)
            if isinstance(follows, Ended):
                await session.run_sync(lambda session: self._on_end(session, [row.id]))
            else:
                await session.run_sync(lambda session: self._flow.again(session, row))
        if isinstance(follows, Ended):
            self._endings.tell(row.id)

    async def _renew(self, ids: list[str]) -> None:
        if not ids:
            return
        until = self._clock() + CLAIM_MS
        async with self._database.writing() as session:
            await session.execute(
                update(InvocationRow)
                .where(InvocationRow.id.in_(ids), InvocationRow.state == InvocationState.RUNNING)
                .values(claimed_by=self._server_id, claimed_until_ms=until)
            )

    async def _take_up(self, row: InvocationRow) -> None:
        async with self._database.reading() as session:
            function = await session.get(FunctionRow, row.function_id)
        settings, owner = FunctionSettings(), ""
        if function is not None:
            settings, owner = self._functions.settings(function), function.user_id
        alone = isolation_of(settings, owner, row.user_id) is Isolation.INVOCATION
        _log.info("attempt.taken_up", invocation_id=row.id, attempt=row.attempt)
        self.begin(Job(row, settings, alone, begun=True))

    async def _guarded(self, job: Job) -> None:
        try:
            if job.begun and not await self._goes_on(job):
                return
            if (known := await self._known(job)) is None:
                await self._attempt(job)
            else:
                await self._finish(job, known, None, None)
        except CakeworkError as error:
            _log.info("attempt.waits", invocation_id=job.row.id, detail=error.detail)
        except Exception:
            # It stays claimed, and is taken up again by the next pass.
            _log.exception("attempt.fault", invocation_id=job.row.id)

    async def _goes_on(self, job: Job) -> bool:
        """Say whether an attempt is still under way: it may have ended since its row was read."""
        async with self._database.reading() as session:
            return await session.scalar(_running(job)) is not None

    async def _known(self, job: Job) -> Outcome | None:
        """Return what came of an attempt that another process began, where its instance need not
        or cannot be asked."""
        if not job.begun:
            return None
        async with self._database.reading() as session:
            attempt = await session.get(AttemptRow, job.key)
            row = await session.get(InvocationRow, job.row.id)
        if attempt is not None and attempt.outcome is not None:
            error = HandlerError.model_validate_json(row.error) if row and row.error else None
            return Outcome(Reason(attempt.outcome), (error and error.retry_after) or 0.0)
        vm = await self._machines.find(job.vm_id)
        is_there = vm is not None and vm.state == VmState.STARTED
        return None if is_there else Outcome(Reason.CRASH)

    async def _attempt(self, job: Job) -> None:
        row = job.row
        answer: Answer | None = None
        rest: bytes | None = None
        why: str | None = None
        await self._mark_begin(job)
        left_s = max(0.0, ((row.deadline_ms or 0) - self._clock()) / 1000)
        kind = handler_of(row.trigger, row.handler)
        loop = asyncio.get_running_loop()
        due_s = loop.time() + left_s
        try:
            async with (
                asyncio.timeout_at(due_s) as deadline,
                self._adapter.invoke(
                    *(job.vm_id, kind, self._invocations.event(row), _context(job)),
                    account=row.account_id,
                ) as running,
            ):
                # How long it waits to be read is no matter of the handler's.
                later_s = min(LATER_S, max(0.0, due_s - loop.time()))
                deadline.reschedule(None)
                answer = await running.read()
                step(Step.SERVER_ATTEMPT_ANSWERED)
                if (rest := await self._rest(row, answer)) is not None:
                    answer = _PARTLY
                if answer.outcome == "ok":
                    until_s = loop.time() + later_s
                    await self._answered(job, answer, running, lambda: deadline.reschedule(until_s))
        except TimeoutError:
            outcome, answer = Outcome(Reason.TIMEOUT), _too_long(job.settings)
        except NoAnswer as error:
            outcome = Outcome(error.reason, reached=error.reached or job.begun)
            why = error.detail
            if answer is None and error.reason is not Reason.CRASH:
                answer = error.told()
        else:
            outcome = answer.told()
            if outcome.reason is None:
                return
        if outcome.reason is not Reason.CRASH:
            await self._note(job, outcome, answer, rest)
            step(Step.SERVER_ATTEMPT_NOTED)
        await self._finish(job, outcome, answer, why)

    async def _rest(self, row: InvocationRow, answer: Answer) -> bytes | None:
        """Return what is left of events that were gathered, where only some of them failed."""
        failed = failed_of(answer.result) if answer.outcome == "ok" else None
        if not failed:
            return None
        return await asyncio.to_thread(self._gatherings.rest, row, failed)

    async def _answered(
        self, job: Job, answer: Answer, running: Running, limit: Callable[[], None]
    ) -> None:
        """Settle an attempt that went well, and free its place when nothing of it runs any more
        and its lines are marked: with one transaction, if that is soon after the answer.

        ``limit`` bounds what may go on after it: once it is settled, as it was answered in time.
        """
        loop = asyncio.get_running_loop()
        over = asyncio.ensure_future(self._over(job, running))
        if not job.alone:
            self._answers[job.key] = job.vm_id, loop.time()
        late = loop.call_later(SOON_S, self._hint)
        try:
            await asyncio.wait({over}, timeout=TOGETHER_S)
            if over.done() and over.exception() is None:
                await self._settle(job, Outcome(), answer, over=over.result())
                return
            settled = await self._settle(job, Outcome(), answer)
            limit()
            lines = await over
            if settled:
                await self._free(job, lines)
        finally:
            late.cancel()
            self._answers.pop(job.key, None)
            over.cancel()

    async def _over(self, job: Job, running: Running) -> Over:
        await running.idle()
        return Over(await self._marks.end(job.vm_id))

    async def _mark_begin(self, job: Job) -> None:
        if job.begun:
            await self._marks.take_up(job.key, job.vm_id)
            return
        concurrent = job.settings.concurrency > 1 and not job.alone
        await self._marks.begin(job.key, job.vm_id, fresh=job.alone, alone=not concurrent)

    async def _finish(
        self, job: Job, outcome: Outcome, answer: Answer | None, why: str | None
    ) -> None:
        """End the instance of an attempt that did not end well, then settle that.

        ``why`` tells what was seen of it here, where the VM has to be ended for that.
        """
        broke_off = outcome.reason is Reason.CRASH and outcome.reached
        vm = await self._instances.remove(job.vm_id, CRASH_TOLD_S if broke_off else 0.0)
        if outcome.reason is Reason.CRASH:
            cause = EndCause(vm.cause) if vm is not None and vm.cause else None
            seen = why if cause is EndCause.STOPPED else vm and vm.reason
            answer = _broken_off(seen or why)
            if outcome.reached:
                outcome = Outcome(reason_of(cause))
        await self._settle(job, outcome, answer)
        self._hint()

    async def _note(
        self, job: Job, outcome: Outcome, answer: Answer | None, rest: bytes | None
    ) -> None:
        """Write how an attempt ended that is not settled yet: its instance goes before. ``rest`` is
        the event of those that follow, if that is another."""
        answer = await self._masked(job, answer)
        now = self._clock()
        async with self._database.writing() as session:
            row = await session.scalar(_running(job).with_for_update())
            if row is None:
                return
            if rest is not None:
                row.event_sealed, row.event_bytes = rest, len(rest) - SEAL_BYTES
            self._tell(row, answer, None)
            await session.execute(_end_of(job, outcome, answer, now))

    async def _settle(
        self, job: Job, outcome: Outcome, answer: Answer | None, *, over: Over | None = None
    ) -> bool:
        """Write how an attempt ended, unless that is written: then whoever did it frees its place;
        of one that is ``over`` that is done here. Say whether it was written."""
        answer = await self._masked(job, answer)
        result, first = self._result(answer), self._marks.first_of(job.key)

        def work(session: Session) -> tuple[Found | None, bool]:
            found = self._settled(session, job, outcome, answer, result, first)
            if over is None or found is None:
                return found, False
            return found, self._freed(session, job, over)

        found, wanted = await self._database.together(work, job.row.account_id)
        step(Step.SERVER_INVOCATION_SETTLED)
        if found is not None and found.row.state in FINAL:
            self._endings.tell(job.row.id, found)
        if wanted:
            self._hint()
        return found is not None

    async def _masked(self, job: Job, answer: Answer | None) -> Answer | None:
        """Return an answer without the values of secrets in its error."""
        if answer is None or answer.error is None:
            return answer
        masked = await self._masks.error(job.vm_id, answer.error)
        return answer.model_copy(update={"error": masked})

    def _settled(
        self,
        session: Session,
        job: Job,
        outcome: Outcome,
        answer: Answer | None,
        result: bytes | None,
        first: dict[str, int],
    ) -> Found | None:
        now = self._clock()
        if job.row.limited:
            lock(session)
        row = session.scalar(_running(job).with_for_update())
        if row is None:
            return None
        if row.cancel and outcome.reason is not None:
            there = session.get(FunctionRow, row.function_id)
            why = Reason(row.reason or Reason.CANCELED_BY_CALLER)
            why = Reason.FUNCTION_DELETED if there is None else why
            outcome, answer, result, row.error = Outcome(why), None, None, None
            follows = Ended(InvocationState.CANCELED, why)
        else:
            follows = self._follows(job, row, outcome, now)
        row.vm_id = row.deadline_ms = row.claimed_by = row.claimed_until_ms = None
        row.updated_ms = max(row.updated_ms, now)
        _apply(row, follows, now)
        if answer is not None:
            self._tell(row, answer, result)
        attempt = session.get(AttemptRow, job.key)
        if attempt is not None and isinstance(follows, Again) and not follows.counted:
            # It was none: the next has its number.
            session.delete(attempt)
            attempt = None
        elif attempt is not None and attempt.outcome is None:
            attempt.outcome, attempt.ended_ms = outcome.reason or SUCCEEDED, now
            attempt.first_line = first.get("first_line", attempt.first_line)
            attempt.duration_ms = _took_ms(answer)
        if isinstance(follows, Ended):
            self._on_end(session, [row.id])
        elif follows.counted:
            self._flow.again(session, row)
        attempts = [attempt] if attempt is not None else []
        most = most_attempts(row, job.settings.retry)
        return Found(row, attempts, self._invocations.event(row), result, most)

    def _follows(self, job: Job, row: InvocationRow, outcome: Outcome, now: int) -> Ended | Again:
        work = Work(row.attempt, row.created_ms, row.unreached, row.max_attempts)
        luck = random.random()  # noqa: S311 - a delay, and no secret
        return after(outcome, work, policy_of(row.retry, job.settings.retry), now, luck)

    async def _free(self, job: Job, over: Over) -> None:
        work = partial(self._freed, job=job, over=over)
        if await self._database.together(work, job.row.account_id):
            self._hint()

    def _freed(self, session: Session, job: Job, over: Over) -> bool:
        """Give back the place of an attempt; say whether somebody waits for it."""
        self._marks.write_end(session, job.key, over.last_line)
        again = over.last_line is not None and not job.alone
        row = self._instances.give_back(session, job.vm_id, again=again)
        return row is not None and self._starts.waits(session, row.function_id, row.user_id)

    def _result(self, answer: Answer | None) -> bytes | None:
        if answer is None or answer.outcome == "error":
            return None
        if answer.result_base64 is not None:
            return json.dumps({"base64": answer.result_base64}).encode()
        return json.dumps({"json": answer.result}).encode()

    def _tell(self, row: InvocationRow, answer: Answer | None, result: bytes | None) -> None:
        """Keep what an attempt answered; of one that did not, nothing of one before it is left."""
        self._keep(row, answer, result)
        row.kept_bytes = row.weight()

    def _keep(self, row: InvocationRow, answer: Answer | None, result: bytes | None) -> None:
        row.error = None
        if answer is None:
            return
        if result is None:
            if answer.error is not None:
                row.error = storable(answer.error.model_dump_json(by_alias=True))
            return
        kind = "application/json"
        if answer.result_base64 is not None:
            kind = answer.content_type or "application/octet-stream"
        row.result_sealed = self._sealer.seal(result, f"result:{row.id}")
        row.result_type = storable(kind)


def _context(job: Job) -> Context:
    row = job.row
    return Context(
        row.id,
        row.attempt,
        most_attempts(row, job.settings.retry),
        row.deadline_ms or 0,
        row.function_id,
        row.version or 0,
        row.user_id,
    )


def _apply(row: InvocationRow, follows: Ended | Again, now: int) -> None:
    if isinstance(follows, Ended):
        row.state, row.reason, row.ended_ms = follows.state, follows.reason, now
        return
    row.next_ms = follows.at_ms
    if follows.counted:
        row.state, row.unreached = InvocationState.WAITING, 0
        return
    row.attempt, row.unreached = row.attempt - 1, row.unreached + 1
    row.state = InvocationState.WAITING if row.attempt else InvocationState.QUEUED


def _is_short(row: InvocationRow, now: int) -> bool:
    return (row.claimed_until_ms or 0) < now + CLAIM_MS - RENEW_S * 1000


def _running(job: Job) -> Select[InvocationRow]:
    return select(InvocationRow).where(
        InvocationRow.id == job.row.id,
        InvocationRow.attempt == job.row.attempt,
        InvocationRow.state == InvocationState.RUNNING,
    )


def _end_of(job: Job, outcome: Outcome, answer: Answer | None, now: int) -> Update:
    return (
        update(AttemptRow)
        .where(
            AttemptRow.invocation_id == job.row.id,
            AttemptRow.attempt == job.row.attempt,
            AttemptRow.outcome.is_(None),
        )
        .values(
            outcome=outcome.reason or SUCCEEDED,
            ended_ms=now,
            duration_ms=_took_ms(answer),
        )
    )


def _failed_start(row: InvocationRow, instance: InstanceRow, now: int) -> AttemptRow:
    return AttemptRow(
        invocation_id=row.id,
        attempt=row.attempt,
        version=instance.version,
        vm_id=instance.vm_id,
        start="fork",
        outcome=Reason.CRASH,
        started_ms=now,
        ended_ms=now,
    )


def _took_ms(answer: Answer | None) -> int | None:
    """Return how long a handler took, where it answered."""
    return round(answer.duration_ms) if answer is not None and answer.duration_ms else None


def _too_long(settings: FunctionSettings) -> Answer:
    """Return what is told of an attempt that was not answered in time."""
    message = f"The handler took longer than its timeout of {settings.queued_timeout_s} s."
    return Answer(outcome="error", error=HandlerError(type="TimedOut", message=message))


def _broken_off(why: str | None) -> Answer:
    """Return what is told of an attempt whose VM ended, in the words of its node."""
    message = why or "The host does not have the instance any more."
    return Answer(outcome="error", error=HandlerError(type="InstanceEnded", message=message))
