"""The dispatch loop: what is due goes to instances.

    due ──▶ an instance that is free ──▶ attempt
     └────▶ none: one is started, if there may be more; the work stays where it is

Among what may start, end users take turns (the account's own work is one of them), then their
functions, and of one function the oldest comes first. Of each user and function only the first few
are looked at, however many there are.
"""

import asyncio
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from cakework.domain.errors import CakeworkError, NoRoom, QuotaExceeded, Unavailable
from cakework.domain.functions import FunctionSettings, policy_of
from cakework.domain.invocations import STARTABLE, InvocationState, Reason, Work, expired
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.functions.adapter import HandlerError
from cakework.server.functions.attempts import Attempts
from cakework.server.functions.due import FIRST, Due, Found, due_work
from cakework.server.functions.functions import Functions
from cakework.server.functions.instances import Instances, Wanted
from cakework.server.functions.invocations import Endings, OnEnd
from cakework.server.functions.secrets import views_of
from cakework.server.functions.starts import Job, Starts, sees_for, wanted_by
from cakework.server.store.database import Database
from cakework.server.store.function_models import FunctionRow, InstanceRow, InvocationRow
from cakework.server.store.values import not_before

STARTS_AT_ONCE = 16
STARTS_OF_ACCOUNT = STARTS_AT_ONCE // 2
"""Of one account's: what takes long to start, or never does, holds up no other's for long."""
WARM_AT_ONCE = 200
"""Functions that have fewer instances than are to be kept, which are looked at in one pass."""
BACK_OFF_MS = 500
"""Until a function that found no room is looked at again."""
SHORT_MS = 2_000
"""How long a function that found no room has the first of what comes free."""
PUT_OFF_MS = 60_000
"""Until what could not be begun, for a fault of ours, is looked at again."""
SERVED_KNOWN = 10_000
KEPT_UP_EVERY_MS = 900
"""How often claims are renewed and what is to be kept warm is looked at."""
_GONE = (InvocationState.CANCELED, Reason.FUNCTION_DELETED)
_SECRETS = (InvocationState.FAILED, Reason.SECRETS_UNAVAILABLE)
_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Pass:
    """What a pass has come to."""

    jobs: list[Job]
    missing: dict[Wanted, int]
    ended: list[str]


@dataclass(frozen=True, slots=True)
class _Ask:
    """How many places in what instances are missing, of whose function, or how many that is to have
    at ``least``."""

    account_id: str
    wanted: Wanted
    settings: FunctionSettings
    missing: int = 0
    least: int = 0


class DispatchLoop:
    """Starts what is due."""

    def __init__(
        self,
        database: Database,
        functions: Functions,
        instances: Instances,
        starts: Starts,
        attempts: Attempts,
        endings: Endings,
        on_end: OnEnd,
        clock: Clock,
        hinted: asyncio.Event,
    ) -> None:
        """``hinted`` has a pass run; ``on_end`` is told what may not begin any more."""
        self._database = database
        self._functions = functions
        self._instances = instances
        self._starts = starts
        self._attempts = attempts
        self._endings = endings
        self._on_end = on_end
        self._clock = clock
        self._hinted = hinted
        self._starting: dict[asyncio.Task[None], str] = {}
        """Starts under way, each with its account."""
        self._warm_after = ""
        self._cooling: dict[str, int] = {}
        self._short: dict[str, int] = {}
        self._served: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._next = FIRST
        self._kept_up_ms = 0

    async def one_pass(self) -> None:
        """See to what runs without anybody and to what is canceled, then start what is due."""
        now = self._clock()
        keeps_up = not self._kept_up_ms <= now < self._kept_up_ms + KEPT_UP_EVERY_MS
        if keeps_up:
            self._kept_up_ms = now
            await self._attempts.take_up()
        await self._attempts.give_up()
        await self._start_due()
        if keeps_up:
            await self._keep_warm()

    async def close(self) -> None:
        """Give up starts that are under way."""
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await self._attempts.close()

    async def _start_due(self) -> None:
        now, at = self._clock(), self._next
        found = await self._database.look(lambda session: due_work(session, now, at))
        self._next = found.next
        if not found.next.is_round:
            self._hinted.set()
        if not found.rows:
            return
        settings = {row.id: self._functions.settings(row) for row in found.functions.values()}
        come_to = await self._begin(found, settings)
        step(Step.SERVER_INVOCATION_CLAIMED)
        for job in come_to.jobs:
            self._attempts.begin(job)
        for invocation_id in come_to.ended:
            self._endings.tell(invocation_id)
        await self._ask_for(
            [
                _Ask(
                    found.functions[wanted.function_id].account_id,
                    wanted,
                    settings[wanted.function_id],
                    missing=come_to.missing[wanted],
                )
                for wanted in self._turns(come_to.missing)
            ]
        )

    async def _begin(self, found: Found, settings: dict[str, FunctionSettings]) -> _Pass:
        """Begin what there are instances for, at once; where that fails, one after the other: one
        that cannot be begun holds up nobody else's."""

        def begun(rows: list[Due], without: Container[Wanted] = ()) -> Callable[[Session], _Pass]:
            return lambda session: self._begun(session, rows, found.functions, settings, without)

        try:
            return await self._database.together(begun(found.rows))
        except Exception:
            _log.exception("dispatch.one_by_one", invocations=len(found.rows))
        come_to = _Pass([], defaultdict(int), [])
        for row in in_turns(found.rows):
            try:
                one = await self._database.together(begun([row], frozenset(come_to.missing)))
            except Exception:
                _log.exception("invocation.not_begun", invocation_id=row.id)
                await self._put_off(row)
                continue
            come_to.jobs += one.jobs
            come_to.ended += one.ended
            for wanted, count in one.missing.items():
                come_to.missing[wanted] += count
        return come_to

    async def _put_off(self, row: Due) -> None:
        put_off = (
            update(InvocationRow)
            .where(InvocationRow.id == row.id, InvocationRow.state.in_(STARTABLE))
            .values(next_ms=self._clock() + PUT_OFF_MS)
        )
        await self._database.together(lambda session: session.execute(put_off) and None)

    def _begun(
        self,
        session: Session,
        rows: list[Due],
        functions: dict[str, FunctionRow],
        settings: dict[str, FunctionSettings],
        without: Container[Wanted],
    ) -> _Pass:
        """Begin what there are instances for; there are none for those ``without``."""
        come_to = _Pass([], defaultdict(int), [])
        asked = {
            sees_for(function, row.user_id, settings[function.id])
            for row in rows
            if (function := functions.get(row.function_id)) is not None
        }
        views = views_of(session, asked)
        for row in in_turns(rows):
            function = functions.get(row.function_id)
            own = settings.get(row.function_id, FunctionSettings())
            why = self._over(row, function, own)
            if function is None or why is not None:
                if self._end(session, row, why or _GONE):
                    come_to.ended.append(row.id)
                continue
            view = views[sees_for(function, row.user_id, own)]
            if view.fault is not None:
                # Not without what it names: it would do something else, and say nothing of why.
                if self._end(session, row, _SECRETS, view.fault):
                    come_to.ended.append(row.id)
                continue
            wanted = wanted_by(function, row.version_of(function) or 0, row.user_id, own, view)
            instance = None
            if wanted not in come_to.missing and wanted not in without:
                instance = self._instances.take(session, wanted)
            if instance is None:
                come_to.missing[wanted] += 1
                continue
            job = self._starts.of_waiting(session, row.id, instance, wanted, own)
            if job is not None:
                come_to.jobs.append(job)
        if come_to.ended:
            self._on_end(session, come_to.ended)
        return come_to

    def _over(
        self, row: Due, function: FunctionRow | None, settings: FunctionSettings
    ) -> tuple[InvocationState, Reason] | None:
        """Say how what may not start any more ends; None if it may."""
        if function is None:
            return _GONE
        work = Work(row.attempt, row.created_ms)
        policy = policy_of(row.retry, settings.retry)
        if (why := expired(work, policy, row.ttl_ms, self._clock())) is not None:
            return InvocationState.EXPIRED, why
        if row.version_of(function) is None:
            return InvocationState.FAILED, Reason.VERSION_FAILED
        return None

    def _end(
        self,
        session: Session,
        row: Due,
        how: tuple[InvocationState, Reason],
        secrets: str | None = None,
    ) -> bool:
        """End what may not start any more; say whether nobody else did."""
        now, (state, why) = self._clock(), how
        error = None
        if secrets is not None:
            error = HandlerError(type="SecretsUnavailable", message=secrets, retriable=False)
        ended = session.scalar(
            update(InvocationRow)
            .where(InvocationRow.id == row.id, InvocationRow.state.in_(STARTABLE))
            .values(
                state=state,
                reason=why,
                error=None if error is None else error.model_dump_json(by_alias=True),
                ended_ms=now,
                updated_ms=not_before(InvocationRow.updated_ms, now),
            )
            .returning(InvocationRow.id)
        )
        return ended is not None

    def _turns(self, missing: Iterable[Wanted]) -> list[Wanted]:
        """Return who had an instance started longest ago first."""
        places = {each: place for place, each in enumerate(self._served)}
        return sorted(missing, key=lambda each: places.get((each.function_id, each.of_user), -1))

    async def _ask_for(self, asks: list[_Ask]) -> None:
        """Have instances started, unless enough are on their way, or there may be no more."""
        now, free = self._clock(), STARTS_AT_ONCE - len(self._starting)
        asks = [ask for ask in asks if self._cooling.get(ask.wanted.function_id, 0) <= now]
        if not asks or free <= 0:
            return
        self._short = {each: until for each, until in self._short.items() if until > now}
        short, soon_free = frozenset(self._short), frozenset(self._attempts.soon_free())

        def work(session: Session) -> list[tuple[InstanceRow, _Ask, bool]]:
            made: list[tuple[InstanceRow, _Ask, bool]] = []
            under_way = Counter(self._starting.values())
            for ask in asks:
                theirs = STARTS_OF_ACCOUNT - under_way[ask.account_id]
                most = min(free - len(made), theirs)
                first, rows = self._reserved(session, ask, most, short, soon_free)
                made += [(row, ask, first) for row in rows]
                under_way[ask.account_id] += len(rows)
            return made

        for row, ask, first in await self._database.together(work):
            self._served[row.function_id, row.user_id] = None
            self._served.move_to_end((row.function_id, row.user_id))
            if len(self._served) > SERVED_KNOWN:
                self._served.popitem(last=False)
            task = asyncio.create_task(self._start(row, ask.settings, first=first))
            self._starting[task] = ask.account_id
            task.add_done_callback(self._starting.pop)

    def _reserved(
        self,
        session: Session,
        ask: _Ask,
        most: int,
        short: frozenset[str],
        soon_free: frozenset[str],
    ) -> tuple[bool, list[InstanceRow]]:
        """Return the instances that are to be started, and whether they are the function's first.

        There is no further one while functions are ``short`` of room for their first.
        """
        wanted, settings = ask.wanted, ask.settings
        coming = self._instances.coming(session, wanted, soon_free)
        has = self._instances.count(session, wanted.function_id)
        lacks = max(-(-ask.missing // wanted.concurrency) - coming, ask.least - has)
        room = settings.max_instances - has
        if has and short - {wanted.function_id}:
            room = 0
        if lacks > 0 and has >= settings.max_instances and not coming:
            self._instances.make_way(session, wanted)
        count = max(0, min(lacks, room, most))
        rows = [self._instances.reserve(session, wanted) for _ in range(count)]
        session.flush()
        return not has, rows

    async def _start(self, row: InstanceRow, settings: FunctionSettings, *, first: bool) -> None:
        try:
            await self._instances.start(row, settings)
            self._short.pop(row.function_id, None)
        except (NoRoom, QuotaExceeded, Unavailable) as error:
            self._cooling[row.function_id] = self._clock() + BACK_OFF_MS
            if first:
                self._short[row.function_id] = self._clock() + SHORT_MS
            _log.info("instance.waits", function_id=row.function_id, detail=error.detail)
        except CakeworkError as error:
            self._cooling[row.function_id] = self._clock() + BACK_OFF_MS
            _log.warning("instance.not_started", function_id=row.function_id, detail=error.detail)
            await self._attempts.not_started(row, error.detail)
        finally:
            self._hinted.set()

    async def _keep_warm(self) -> None:
        """Start what functions want to have ready before anybody asks."""
        counted = self._instances.counted().subquery()
        count = func.coalesce(counted.c.count, 0)
        query = (
            select(FunctionRow)
            .outerjoin(counted, counted.c.function_id == FunctionRow.id)
            .where(
                FunctionRow.min_instances > count,
                FunctionRow.live_version.is_not(None),
                FunctionRow.id > self._warm_after,
            )
            .order_by(FunctionRow.id)
            .limit(WARM_AT_ONCE)
        )

        def look(session: Session) -> list[_Ask]:
            found = list(session.scalars(query))
            self._warm_after = found[-1].id if len(found) == WARM_AT_ONCE else ""
            settings = {row.id: self._functions.settings(row) for row in found}
            asked = {row.id: sees_for(row, "", settings[row.id]) for row in found}
            views = views_of(session, asked.values())
            asks: list[_Ask] = []
            for row in found:
                own, view = settings[row.id], views[asked[row.id]]
                if view.fault is None:
                    wanted = wanted_by(row, row.live_version or 0, "", own, view)
                    asks.append(_Ask(row.account_id, wanted, own, least=row.min_instances))
            return asks

        await self._ask_for(await self._database.look(look))


def in_turns(rows: Iterable[Due]) -> Iterable[Due]:
    """Yield what is due so that users take turns, then their functions; the oldest first."""
    queues: dict[tuple[str, str], dict[str, deque[Due]]] = defaultdict(dict)
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
