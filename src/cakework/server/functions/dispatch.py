"""The dispatch loop: what is due goes to instances.

    due ──▶ an instance that is free ──▶ attempt
     └────▶ none: one is started, if there may be more; the work stays where it is

Among what may start, end users take turns (the account's own work is one of them), then their
functions, and of one function the oldest comes first.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

import structlog
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import CakeworkError, NoRoom, QuotaExceeded, Unavailable
from cakework.domain.functions import FunctionSettings, Isolation, isolation_of
from cakework.domain.invocations import STARTABLE, InvocationState, Reason, Work, expired
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.functions.attempts import CLAIM_MS, Attempts, Job
from cakework.server.functions.functions import Functions
from cakework.server.functions.instances import Instances, Wanted
from cakework.server.functions.invocations import TEST, Endings
from cakework.server.store.database import Database
from cakework.server.store.function_models import (
    AttemptRow,
    FunctionRow,
    InstanceRow,
    InvocationRow,
)
from cakework.server.store.values import not_before

DUE_AT_ONCE = 500
STARTS_AT_ONCE = 16
BACK_OFF_MS = 500
"""Until a function that found no room is looked at again."""
_log = structlog.stdlib.get_logger(__name__)


class DispatchLoop:
    """Starts what is due."""

    def __init__(
        self,
        database: Database,
        server_id: str,
        functions: Functions,
        instances: Instances,
        attempts: Attempts,
        endings: Endings,
        clock: Clock,
        hinted: asyncio.Event,
    ) -> None:
        """Work as the process ``server_id``; ``hinted`` has a pass run."""
        self._database = database
        self._server_id = server_id
        self._functions = functions
        self._instances = instances
        self._attempts = attempts
        self._endings = endings
        self._clock = clock
        self._hinted = hinted
        self._starting: set[asyncio.Task[None]] = set()
        self._cooling: dict[str, int] = {}

    async def one_pass(self) -> None:
        """See to what runs without anybody and to what is canceled, then start what is due."""
        await self._attempts.take_up()
        await self._attempts.give_up()
        await self._start_due()
        await self._keep_warm()

    async def close(self) -> None:
        """Give up starts that are under way."""
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await self._attempts.close()

    async def _start_due(self) -> None:
        due = (
            select(InvocationRow)
            .where(
                InvocationRow.state.in_(STARTABLE),
                InvocationRow.next_ms <= self._clock(),
                InvocationRow.trigger != TEST,
            )
            .order_by(InvocationRow.next_ms, InvocationRow.id)
            .limit(DUE_AT_ONCE)
        )
        async with self._database.reading() as session:
            rows = list(await session.scalars(due))
            functions = await _functions_of(session, rows)
        if not rows:
            return
        settings = {each: self._functions.settings(row) for each, row in functions.items()}
        jobs: list[Job] = []
        missing: dict[Wanted, int] = defaultdict(int)
        async with self._database.writing() as session:
            for row in in_turns(rows):
                function = functions.get(row.function_id)
                if function is None:
                    continue
                own = settings[function.id]
                if await self._ends(session, row, function, own):
                    continue
                wanted = _wanted(row, function, own)
                instance = None
                if not missing[wanted]:
                    instance = await self._instances.take(session, wanted)
                if instance is None:
                    missing[wanted] += 1
                    continue
                job = await self._begin(session, row, instance, wanted, own)
                if job is not None:
                    jobs.append(job)
        step(Step.SERVER_INVOCATION_CLAIMED)
        for job in jobs:
            self._attempts.begin(job)
        for wanted, count in missing.items():
            if count:
                await self._ask_for(wanted, settings[wanted.function_id], count)

    async def _ends(
        self,
        session: AsyncSession,
        row: InvocationRow,
        function: FunctionRow,
        settings: FunctionSettings,
    ) -> bool:
        """End what may not start any more; say whether that is so."""
        now = self._clock()
        work = Work(row.attempt, row.created_ms)
        why = expired(work, settings.retry, row.ttl_ms, now)
        state = InvocationState.EXPIRED
        if why is None and _version_of(row, function) is None:
            why, state = Reason.VERSION_FAILED, InvocationState.FAILED
        if why is None:
            return False
        await session.execute(
            update(InvocationRow)
            .where(InvocationRow.id == row.id, InvocationRow.state.in_(STARTABLE))
            .values(
                state=state,
                reason=why,
                ended_ms=now,
                updated_ms=not_before(InvocationRow.updated_ms, now),
            )
        )
        self._endings.tell(row.id)
        return True

    async def _begin(
        self,
        session: AsyncSession,
        row: InvocationRow,
        instance: InstanceRow,
        wanted: Wanted,
        settings: FunctionSettings,
    ) -> Job | None:
        """Record that an attempt begins; None: somebody else was there before."""
        now = self._clock()
        begun = await session.scalar(
            update(InvocationRow)
            .where(InvocationRow.id == row.id, InvocationRow.state.in_(STARTABLE))
            .values(
                state=InvocationState.RUNNING,
                attempt=InvocationRow.attempt + 1,
                version=instance.version,
                vm_id=instance.vm_id,
                deadline_ms=now + settings.queued_timeout_s * 1000,
                claimed_by=self._server_id,
                claimed_until_ms=now + CLAIM_MS,
                updated_ms=not_before(InvocationRow.updated_ms, now),
            )
            .returning(InvocationRow)
            .execution_options(populate_existing=True)
        )
        if begun is None:
            await self._instances.give_back(session, instance.vm_id, again=True)
            return None
        session.add(
            AttemptRow(
                invocation_id=begun.id,
                attempt=begun.attempt,
                version=instance.version,
                vm_id=instance.vm_id,
                start="warm" if instance.served > 1 else "fork",
                started_ms=now,
            )
        )
        await session.flush()
        return Job(begun, settings, wanted.isolation is Isolation.INVOCATION)

    async def _ask_for(self, wanted: Wanted, settings: FunctionSettings, missing: int) -> None:
        """Have instances started, unless enough are on their way, or there may be no more."""
        if self._cooling.get(wanted.function_id, 0) > self._clock():
            return
        async with self._database.writing() as session:
            under_way = await self._instances.starting(session, wanted)
            short = -(-missing // wanted.concurrency) - under_way
            room = settings.max_instances - await self._instances.count(session, wanted.function_id)
            count = max(0, min(short, room, STARTS_AT_ONCE - len(self._starting)))
            rows = [await self._instances.reserve(session, wanted) for _ in range(count)]
        for row in rows:
            task = asyncio.create_task(self._start(row, settings))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start(self, row: InstanceRow, settings: FunctionSettings) -> None:
        try:
            await self._instances.start(row, settings)
        except (NoRoom, QuotaExceeded, Unavailable) as error:
            self._cooling[row.function_id] = self._clock() + BACK_OFF_MS
            _log.info("instance.waits", function_id=row.function_id, detail=error.detail)
        except CakeworkError as error:
            self._cooling[row.function_id] = self._clock() + BACK_OFF_MS
            _log.warning("instance.not_started", function_id=row.function_id, detail=error.detail)
        finally:
            self._hinted.set()

    async def _keep_warm(self) -> None:
        """Start what functions want to have ready before anybody asks."""
        query = select(FunctionRow).where(
            FunctionRow.min_instances > 0, FunctionRow.live_version.is_not(None)
        )
        async with self._database.reading() as session:
            functions = list(await session.scalars(query))
            counts = [await self._instances.count(session, row.id) for row in functions]
        for function, count in zip(functions, counts, strict=True):
            if count < function.min_instances:
                settings = self._functions.settings(function)
                wanted = _wanted_by(function, function.live_version or 0, "", settings)
                short = function.min_instances - count
                await self._ask_for(wanted, settings, short * wanted.concurrency)


def in_turns(rows: Iterable[InvocationRow]) -> Iterable[InvocationRow]:
    """Yield what is due so that users take turns, then their functions; the oldest first."""
    queues: dict[tuple[str, str], dict[str, deque[InvocationRow]]] = defaultdict(dict)
    for row in rows:
        functions = queues[row.account_id, row.user_id]
        functions.setdefault(row.function_id, deque()).append(row)
    while queues:
        for user in list(queues):
            functions = queues[user]
            function_id = next(iter(functions))
            queue = functions.pop(function_id)
            yield queue.popleft()
            if queue:
                functions[function_id] = queue
            if not functions:
                del queues[user]


async def _functions_of(
    session: AsyncSession, rows: Sequence[InvocationRow]
) -> dict[str, FunctionRow]:
    ids = {row.function_id for row in rows}
    found = await session.scalars(select(FunctionRow).where(FunctionRow.id.in_(ids)))
    return {row.id: row for row in found}


def _version_of(row: InvocationRow, function: FunctionRow) -> int | None:
    return row.version if row.pinned else function.live_version


def _wanted(row: InvocationRow, function: FunctionRow, settings: FunctionSettings) -> Wanted:
    return _wanted_by(function, _version_of(row, function) or 0, row.user_id, settings)


def _wanted_by(
    function: FunctionRow, version: int, user_id: str, settings: FunctionSettings
) -> Wanted:
    isolation = isolation_of(settings, function.user_id, user_id)
    concurrency = 1 if isolation is Isolation.INVOCATION else settings.concurrency
    return Wanted(function.id, version, isolation, user_id, concurrency, settings.made_with)
