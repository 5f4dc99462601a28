"""Attempts: each is seen to its end, and settled once.

    begun ──▶ given to its instance ──▶ answered ──▶ settled ──▶ nothing of it runs ──▶ place free
                  └──▶ no answer, too late, canceled ──▶ instance ended ──▶ settled

An attempt is given to its instance again by whoever has its claim: the adapter runs it once and
answers alike. What did not end well takes its instance with it, and is settled when that is gone:
so no attempt that follows meets what this one left.
"""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import or_, select, update

from cakework.domain.functions import FunctionSettings
from cakework.domain.ids import VmId
from cakework.domain.invocations import (
    Again,
    Ended,
    InvocationState,
    Outcome,
    Reason,
    Work,
    after,
)
from cakework.domain.steps import Step
from cakework.domain.vms import VmState
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.functions.adapter import Adapter, Answer, Context, NoAnswer
from cakework.server.functions.functions import Functions
from cakework.server.functions.instances import Instances
from cakework.server.functions.invocations import Endings, Invocations
from cakework.server.functions.machines import Machines
from cakework.server.store.database import Database
from cakework.server.store.function_models import AttemptRow, FunctionRow, InvocationRow
from cakework.server.store.sealing import Sealer
from cakework.server.store.values import storable

CLAIM_MS = 15_000
RENEW_MS = 5_000
LATER_S = 30.0
"""How long what a handler left to ``waitUntil`` may go on after its answer."""
SUCCEEDED = "succeeded"
_KINDS = {"cron": "scheduled", "failure": "failure"}
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """An attempt that has its instance. ``alone``: that serves no other after it. ``begun``: its
    handler may have been reached before, by a process that is gone."""

    row: InvocationRow
    settings: FunctionSettings
    alone: bool
    begun: bool = False

    @property
    def vm_id(self) -> VmId:
        """The instance."""
        return VmId(self.row.vm_id or "")

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from every other attempt."""
        return self.row.id, self.row.attempt


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
        machines: Machines,
        adapter: Adapter,
        endings: Endings,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """Work as the process ``server_id``; ``hint`` says that a place is free."""
        self._database = database
        self._server_id = server_id
        self._sealer = sealer
        self._functions = functions
        self._invocations = invocations
        self._instances = instances
        self._machines = machines
        self._adapter = adapter
        self._endings = endings
        self._clock = clock
        self._hint = hint
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}

    def begin(self, job: Job) -> None:
        """See an attempt to its end, from now on."""
        task = asyncio.create_task(self._guarded(job))
        self._running[job.key] = task
        task.add_done_callback(lambda _: self._running.pop(job.key, None))

    async def close(self) -> None:
        """Let go of what runs: it goes on in its instances, and the next process takes it up."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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
            InvocationRow.claimed_by == self._server_id,
            InvocationRow.claimed_until_ms < now,
        )
        running = InvocationRow.state == InvocationState.RUNNING
        async with self._database.reading() as session:
            rows = list(await session.scalars(select(InvocationRow).where(running, lost)))
        ours = [row for row in rows if (row.id, row.attempt) in self._running]
        await self._renew([row.id for row in ours if _is_short(row, now)])
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
            if row.vm_id is not None and (row.id, row.attempt) in self._running:
                await self._machines.end(VmId(row.vm_id))

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
        settings = self._functions.settings(function) if function else FunctionSettings()
        job = Job(row, settings, alone=False, begun=True)
        vm = await self._machines.find(job.vm_id)
        if vm is not None and vm.state == VmState.STARTED:
            _log.info("attempt.taken_up", invocation_id=row.id, attempt=row.attempt)
            self.begin(job)
        else:
            await self._settle(job, Outcome(_reason_of(vm.reason if vm else None)), None)
            await self._free(job, again=False)

    async def _guarded(self, job: Job) -> None:
        try:
            await self._attempt(job)
        except Exception:
            # It stays claimed, and is taken up again by the next pass.
            _log.exception("attempt.fault", invocation_id=job.row.id)
        finally:
            self._hint()

    async def _attempt(self, job: Job) -> None:
        row = job.row
        answer: Answer | None = None
        left_s = max(0.0, ((row.deadline_ms or 0) - self._clock()) / 1000)
        kind = _KINDS.get(row.trigger, "event")
        try:
            async with (
                asyncio.timeout(left_s) as deadline,
                self._adapter.invoke(
                    job.vm_id, kind, self._invocations.event(row), _context(job)
                ) as running,
            ):
                answer = running.answer
                step(Step.SERVER_ATTEMPT_ANSWERED)
                if answer.outcome == "ok":
                    await self._settle(job, Outcome(), answer)
                    deadline.reschedule(asyncio.get_running_loop().time() + LATER_S)
                    await running.idle()
        except TimeoutError:
            outcome = Outcome(Reason.TIMEOUT)
        except NoAnswer as error:
            outcome = Outcome(Reason.CRASH, reached=error.reached or job.begun)
        else:
            outcome = answer.told()
            if outcome.reason is None:
                await self._free(job, again=not job.alone)
                return
        await self._over(job, outcome, answer)

    async def _over(self, job: Job, outcome: Outcome, answer: Answer | None) -> None:
        """End the instance of an attempt that did not end well, then settle that."""
        vm = await self._instances.remove(job.vm_id)
        if outcome.reason is Reason.CRASH and vm is not None and outcome.reached:
            outcome = Outcome(_reason_of(vm.reason))
        await self._settle(job, outcome, answer)

    async def _settle(self, job: Job, outcome: Outcome, answer: Answer | None) -> None:
        """Write how an attempt ended, unless that is written."""
        now = self._clock()
        async with self._database.writing() as session:
            row = await session.scalar(
                select(InvocationRow)
                .where(
                    InvocationRow.id == job.row.id,
                    InvocationRow.attempt == job.row.attempt,
                    InvocationRow.state == InvocationState.RUNNING,
                )
                .with_for_update()
            )
            if row is None:
                return
            follows = self._follows(job, row, outcome, now)
            row.vm_id = row.deadline_ms = row.claimed_by = row.claimed_until_ms = None
            row.updated_ms = max(row.updated_ms, now)
            _apply(row, follows, now)
            if answer is not None:
                self._tell(row, answer)
            await session.execute(
                update(AttemptRow)
                .where(
                    AttemptRow.invocation_id == job.row.id,
                    AttemptRow.attempt == job.row.attempt,
                    AttemptRow.outcome.is_(None),
                )
                .values(
                    outcome=outcome.reason or SUCCEEDED,
                    ended_ms=now,
                    duration_ms=None if answer is None else round(answer.duration_ms),
                )
            )
        step(Step.SERVER_INVOCATION_SETTLED)
        if isinstance(follows, Ended):
            self._endings.tell(job.row.id)

    def _follows(self, job: Job, row: InvocationRow, outcome: Outcome, now: int) -> Ended | Again:
        if row.cancel and outcome.reason is not None:
            return Ended(InvocationState.CANCELED, Reason.CANCELED_BY_CALLER)
        work = Work(row.attempt, row.created_ms, row.unreached, row.max_attempts)
        luck = random.random()  # noqa: S311 - a delay, and no secret
        return after(outcome, work, job.settings.retry, now, luck)

    async def _free(self, job: Job, *, again: bool) -> None:
        async with self._database.writing() as session:
            await self._instances.give_back(session, job.vm_id, again=again)

    def _tell(self, row: InvocationRow, answer: Answer) -> None:
        if answer.outcome == "error":
            told = answer.error.model_dump_json(by_alias=True) if answer.error else None
            row.error = storable(told) if told else None
            return
        kept, kind = {"json": answer.result}, "application/json"
        if answer.result_base64 is not None:
            kept = {"base64": answer.result_base64}
            kind = answer.content_type or "application/octet-stream"
        row.result_sealed = self._sealer.seal(json.dumps(kept).encode(), f"result:{row.id}")
        row.result_type, row.error = storable(kind), None


def _context(job: Job) -> Context:
    row = job.row
    return Context(
        row.id,
        row.attempt,
        row.max_attempts or job.settings.retry.max_attempts,
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
    return (row.claimed_until_ms or 0) < now + CLAIM_MS - RENEW_MS


def _reason_of(why: str | None) -> Reason:
    """Return in the words of invocations why a VM ended."""
    if why is not None and "memory" in why:
        return Reason.OUT_OF_MEMORY
    if why is None or "while the node was down" in why:
        return Reason.INTERRUPTED
    return Reason.CRASH
