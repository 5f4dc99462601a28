"""The schedules' loop: what is due becomes invocations, each occurrence one.

    due ──▶ an invocation, and when it is due again, in one transaction (firings.py)
     └────▶ no room in the queue: a little later; in the end it was missed

The loop sleeps until a trigger is due, and looks every 30 seconds for what another server was told.
What is due is taken in pieces, in which accounts take turns. Whatever breaks off is found as it was
by the next pass, of this server or another.

What waits for the invocation before it is *held*: it is due at a time that does not come. It may
begin when nothing else that its trigger made is open.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import Session, aliased

from cakework.domain.invocations import HELD_MS, InvocationState
from cakework.domain.steps import Step
from cakework.domain.triggers import TriggerType
from cakework.faults import step
from cakework.server.automations.firings import Firings, Plan, pieces, plan_of
from cakework.server.clock import Clock
from cakework.server.functions.invocations import Invocations
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.database import Database
from cakework.server.store.function_models import BY_TRIGGER, OPEN, InvocationRow
from cakework.server.store.together import after_commit

LOOKED_AT_ONCE = 250
PLANNED_AT_ONCE = 50
HELD_LOOK_MS = 1_000
"""How often it is looked whether what is held may begin, while anything is."""
HELD_AT_ONCE = 500
PUT_OFF_MS = 60_000
"""Until a trigger is looked at again that failed for a fault of ours."""
PUT_OFF_MAX = 1_000
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    """What is due, and what is held and may begin; what is due next is so at ``next_ms``, if
    anything is to come; ``held``: something is."""

    due: list[TriggerRow]
    next_ms: int | None
    held: bool
    free: list[str]


class Schedules:
    """Makes invocations of what is due."""

    def __init__(
        self,
        database: Database,
        invocations: Invocations,
        clock: Clock,
        hinted: asyncio.Event,
        hint: Callable[[], None],
    ) -> None:
        """``hinted`` has a pass run: it is set when a trigger was made or changed. ``hint`` says
        that work may begin."""
        self._database = database
        self._firings = Firings(invocations, clock)
        self._clock = clock
        self._hinted = hinted
        self._hint = hint
        self._timer: asyncio.TimerHandle | None = None
        self._put_off: dict[str, int] = {}
        """Until when triggers and functions are not looked at, by their ids."""

    def changed(self) -> None:
        """Have the loop look: a trigger was made or changed."""
        self._hinted.set()

    def close(self) -> None:
        """Have no further pass run."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def one_pass(self) -> None:
        """Make invocations of all that is due, then sleep until something is."""
        while True:
            now = self._clock()
            self._put_off = {each: until for each, until in self._put_off.items() if until > now}
            look = await self._database.look(lambda session, now=now: self._look(session, now))
            if look.free:
                await self._let_begin(look.free)
            if not look.due:
                break
            for start in range(0, len(look.due), PLANNED_AT_ONCE):
                await self._fire(look.due[start : start + PLANNED_AT_ONCE])
        self._wake(look)

    def _wake(self, look: _Look) -> None:
        """Have a pass run when something is due."""
        self.close()
        now, times = self._clock(), [*self._put_off.values()]
        if look.next_ms is not None:
            times.append(look.next_ms)
        if look.held:
            times.append(now + HELD_LOOK_MS)
        if times:
            wait_s = max(0.0, (min(times) - now) / 1000)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._hinted.set)

    def _look(self, session: Session, now: int) -> _Look:
        next_ms = session.scalar(
            select(TriggerRow.next_ms).where(*self._wanted()).order_by(TriggerRow.next_ms).limit(1)
        )
        is_due = next_ms is not None and next_ms <= now
        due = self._due(session, now) if is_due else []
        held = session.scalar(select(InvocationRow.id).where(*_IS_HELD).limit(1)) is not None
        free = list(session.scalars(_free())) if held else []
        return _Look(due, next_ms, held, free)

    def _wanted(self) -> list[ColumnElement[bool]]:
        wanted = [
            TriggerRow.next_ms.is_not(None),
            TriggerRow.type == TriggerType.CRON,
            TriggerRow.enabled.is_(True),
            TriggerRow.paused_reason.is_(None),
        ]
        if self._put_off:
            ids = list(self._put_off)[-PUT_OFF_MAX:]
            wanted += [TriggerRow.id.not_in(ids), TriggerRow.function_id.not_in(ids)]
        return wanted

    def _due(self, session: Session, now: int) -> list[TriggerRow]:
        """Return what is due, so that accounts take turns; of one account the oldest first."""
        turn = func.row_number().over(
            partition_by=TriggerRow.account_id, order_by=(TriggerRow.next_ms, TriggerRow.id)
        )
        turns = (
            select(TriggerRow.id, turn.label("turn"))
            .where(TriggerRow.next_ms <= now, *self._wanted())
            .subquery()
        )
        query = (
            select(TriggerRow)
            .join(turns, turns.c.id == TriggerRow.id)
            .order_by(turns.c.turn, TriggerRow.next_ms, TriggerRow.id)
            .limit(LOOKED_AT_ONCE)
        )
        return list(session.scalars(query))

    async def _fire(self, rows: Sequence[TriggerRow]) -> None:
        """Record what is due of some triggers, piece by piece; where one fails, one trigger after
        the other: one that cannot be recorded holds up nobody else's."""
        now = self._clock()
        plans = await asyncio.to_thread(lambda: [_plan(row, now) for row in rows])
        for row, plan in zip(rows, plans, strict=True):
            if plan is None:
                self._put_off[row.id] = now + PUT_OFF_MS
        for piece in pieces(plan for plan in plans if plan is not None):
            try:
                await self._record(piece)
            except Exception:
                _log.exception("schedules.one_by_one", triggers=len(piece))
                for plan in piece:
                    await self._record_alone(plan)

    async def _record_alone(self, plan: Plan) -> None:
        try:
            await self._record([plan])
        except Exception:
            _log.exception("schedule.fault", trigger_id=plan.trigger_id)
            self._put_off[plan.trigger_id] = self._clock() + PUT_OFF_MS

    async def _record(self, plans: list[Plan]) -> None:
        def work(session: Session) -> dict[str, int]:
            put_off = self._firings.record(session, plans)
            session.flush()
            step(Step.SERVER_SCHEDULE_WRITTEN)
            return put_off

        put_off = await self._database.together(work)
        step(Step.SERVER_SCHEDULE_FIRED)
        now = self._clock()
        self._put_off |= {each: now + wait_ms for each, wait_ms in put_off.items()}
        lost = [plan.due.lost for plan in plans if plan.due.lost]
        if lost:
            _log.warning("schedules.missed", triggers=len(lost), occurrences=sum(lost))

    async def _let_begin(self, ids: list[str]) -> None:
        begins = (
            update(InvocationRow)
            .where(InvocationRow.id.in_(ids), *_IS_HELD)
            .values(next_ms=self._clock())
            .execution_options(synchronize_session=False)
        )

        def work(session: Session) -> None:
            session.execute(begins)
            after_commit(session, self._hint)

        await self._database.together(work)


def _plan(row: TriggerRow, now: int) -> Plan | None:
    """Return what is due of a trigger; None: that cannot be said, for a fault of ours."""
    try:
        return plan_of(row, now)
    except Exception:
        _log.exception("schedule.not_planned", trigger_id=row.id)
        return None


_IS_HELD = InvocationRow.state == InvocationState.QUEUED, InvocationRow.next_ms == HELD_MS


def _free() -> Select[str]:
    """Ask for what is held and need not be any more."""
    held = aliased(InvocationRow, name="held")
    others = (
        select(InvocationRow.id)
        .where(OPEN, InvocationRow.trigger_id == held.trigger_id, InvocationRow.next_ms != HELD_MS)
        .with_hint(InvocationRow, BY_TRIGGER, "sqlite")
        .correlate(held)
    )
    return (
        select(held.id)
        .where(held.state == InvocationState.QUEUED, held.next_ms == HELD_MS, ~others.exists())
        .limit(HELD_AT_ONCE)
    )
