"""Firings: what is due of triggers, recorded, and when they are due again.

One transaction has both, so an occurrence is one invocation, whatever is ended when. It holds the
rows of its triggers, and passes over those that another server holds; what is on record for a
trigger and a time is not made again.

While something is open (has not ended) that the trigger made, retries counted, its overlap decides:

    skip      recorded as skipped (overlap)
    queue     held until it has ended; one that is held already is skipped (superseded)
    allow     made
    replace   the old one is canceled (superseded); if it runs, the new one is held until it is gone
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import structlog
from pydantic import ValidationError
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from cakework.domain.errors import CakeworkError, QueueFull
from cakework.domain.ids import AccountId, FunctionId, UserId
from cakework.domain.invocations import FINAL, HELD_MS, InvocationState, Reason
from cakework.domain.occurrences import Due, Occurrence, Occurrences, due, event_of
from cakework.domain.triggers import DONE, CronConfig
from cakework.server.automations.rows import is_active, retry_of
from cakework.server.clock import Clock
from cakework.server.functions.invocations import WITHOUT_BYTES, Invocations, NewInvocation
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.function_models import BY_TRIGGER, OPEN, FunctionRow, InvocationRow

AGAIN_MS = 200
"""Until a trigger is looked at again that somebody else held, or changed."""
AT_ONCE = 20
"""Occurrences that are recorded with one transaction: on PostgreSQL nobody else has a turn while
they are put together."""
OPEN_MOST = 50
"""Of what a trigger made and has not ended so many are looked at with an occurrence; of more, one
that is to be replaced stays until the next."""
FULL_MS = 5_000
"""Until a function is looked at again for whose work the queue had no room."""
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is due of a trigger that was as it is told here. ``config`` is None where its schedule
    is none any more, for the reason ``broken``."""

    trigger_id: str
    next_ms: int
    text: str
    due: Due
    config: CronConfig | None = None
    broken: str | None = None

    def holds(self, row: TriggerRow) -> bool:
        """Say whether the trigger is as it was."""
        same = row.next_ms == self.next_ms and row.config == self.text
        return same and is_active(row)


class Firings:
    """Records what is due."""

    def __init__(self, invocations: Invocations, clock: Clock) -> None:
        self._invocations = invocations
        self._clock = clock

    def record(self, session: Session, plans: Iterable[Plan]) -> dict[str, int]:
        """Record what is planned of triggers that are as they were, within a transaction.

        Returns which triggers and functions, by their ids, are to be left alone for a while, in
        milliseconds.
        """
        return _Piece(session, self._invocations, self._clock()).record(plans)


def plan_of(row: TriggerRow, now_ms: int) -> Plan:
    """Return what is due of a trigger at ``now_ms``. That takes up to a tenth of a second."""
    next_ms = row.next_ms or 0
    try:
        config = CronConfig.model_validate_json(row.config)
        found = due(Occurrences.of(row.id, config), config, next_ms, now_ms)
    except ValidationError as error:
        why = error.errors(include_url=False, include_input=False)[0]["msg"]
    else:
        return Plan(row.id, next_ms, row.config, _cut(found), config)
    _log.warning("schedule.broken", trigger_id=row.id, detail=why)
    broken = f"Its schedule is not valid any more: {why}."
    return Plan(row.id, next_ms, row.config, Due((), None), broken=broken)


def pieces(plans: Iterable[Plan]) -> Iterator[list[Plan]]:
    """Yield plans in such numbers as may be recorded with one transaction, in their order."""
    piece: list[Plan] = []
    count = 0
    for plan in plans:
        more = max(1, len(plan.due.occurrences))
        if piece and count + more > AT_ONCE:
            yield piece
            piece, count = [], 0
        piece.append(plan)
        count += more
    if piece:
        yield piece


def _cut(due: Due) -> Due:
    """Leave for later what is too much for one transaction."""
    first, others = due.occurrences[:AT_ONCE], due.occurrences[AT_ONCE:]
    return Due(first, others[0].at_ms, due.lost) if others else due


class _Piece:
    """Some triggers of which something is due, within one transaction."""

    def __init__(self, session: Session, invocations: Invocations, now: int) -> None:
        self._session = session
        self._invocations = invocations
        self._now = now
        self._put_off: dict[str, int] = {}
        self._known: set[tuple[str | None, int | None]] = set()
        self._open: dict[str, list[InvocationRow]] = {}
        self._locked: set[str] = set()
        self._functions: list[FunctionRow] = []

    def record(self, plans: Iterable[Plan]) -> dict[str, int]:
        planned = {plan.trigger_id: plan for plan in plans}
        rows = self._session.scalars(
            select(TriggerRow)
            .where(TriggerRow.id.in_(planned))
            .order_by(TriggerRow.id)
            .with_for_update(skip_locked=True, key_share=True)
        )
        ours = {row.id: row for row in rows if planned[row.id].holds(row)}
        self._put_off |= dict.fromkeys(planned.keys() - ours.keys(), AGAIN_MS)
        self._find([planned[each] for each in ours])
        # In the order in which they were to come.
        for plan in planned.values():
            if (row := ours.get(plan.trigger_id)) is None:
                continue
            if plan.config is None:
                row.paused_reason, row.next_ms = plan.broken, None
            else:
                self._fire(row, plan, plan.config)
        return self._put_off

    def _find(self, plans: list[Plan]) -> None:
        """Find what is on record of occurrences, and what of their triggers is open."""
        ids = [plan.trigger_id for plan in plans if plan.due.occurrences]
        times = {each.at_ms for plan in plans for each in plan.due.occurrences}
        wary = [plan.trigger_id for plan in plans if plan.config and plan.config.overlap != "allow"]
        if not ids:
            return
        known = select(InvocationRow.trigger_id, InvocationRow.scheduled_ms).where(
            InvocationRow.trigger_id.in_(ids), InvocationRow.scheduled_ms.in_(times)
        )
        self._known = {(row[0], row[1]) for row in self._session.execute(known)}
        # Kept for as long as others ask the session for them, one by one.
        functions = select(FunctionRow).join(TriggerRow, TriggerRow.function_id == FunctionRow.id)
        functions = functions.where(TriggerRow.id.in_(ids)).distinct()
        self._functions = list(self._session.scalars(functions))
        for each in wary:
            self._open[each] = list(self._session.scalars(_open_of(each)))

    def _fire(self, row: TriggerRow, plan: Plan, config: CronConfig) -> None:
        for number, each in enumerate(plan.due.occurrences):
            if (row.id, each.at_ms) in self._known:
                continue
            try:
                done = row.function_id not in self._put_off and self._done(row, config, each)
            except QueueFull as error:
                _log.info("schedule.waits", trigger_id=row.id, detail=error.detail)
                self._put_off[row.function_id] = FULL_MS
                done = False
            except CakeworkError as error:
                # It would be refused every time.
                _log.warning("schedule.broken", trigger_id=row.id, detail=error.detail)
                row.paused_reason, row.next_ms = error.detail, None
                return
            if not done:
                # The first one counts those before it, too.
                row.next_ms = each.at_ms if number else row.next_ms
                self._put_off.setdefault(row.id, AGAIN_MS)
                return
        row.next_ms = plan.due.next_ms
        if row.next_ms is None:
            row.paused_reason = DONE

    def _done(self, row: TriggerRow, config: CronConfig, occurrence: Occurrence) -> bool:
        """Record an occurrence; say whether that could be done now."""
        unended = self._open.setdefault(row.id, [])
        new = NewInvocation(
            event_of(row.id, config, occurrence),
            UserId(row.user_id),
            "cron",
            trigger_id=row.id,
            scheduled_ms=occurrence.at_ms,
            retry=retry_of(row),
        )
        whose = AccountId(row.account_id), FunctionId(row.function_id)
        if unended and config.overlap == "skip":
            self._invocations.pass_over(self._session, *whose, new, Reason.OVERLAP)
            return True
        old: list[InvocationRow] = []
        if config.overlap in ("queue", "replace"):
            old = [each for each in unended if config.overlap == "replace" or _is_held(each)]
            old = old[:OPEN_MOST]
            if not self._lock(old):
                return False
        made = self._invocations.enter(self._session, *whose, new)
        if made.state != InvocationState.QUEUED:
            return True
        for each in old:
            self._give_up(each, InvocationState.SKIPPED if _is_held(each) else None)
        unended[:] = [each for each in unended if each.state not in FINAL]
        if config.overlap != "allow":
            # What has rules of flow control is held, and let go, by these alone.
            made.next_ms = HELD_MS if unended and not made.limited else made.next_ms
            unended.append(made)
        return True

    def _lock(self, rows: list[InvocationRow]) -> bool:
        """Hold records until the transaction ends, as they are then; say whether all are held.

        One that somebody else holds is not waited for: who ends it may wait for its trigger.
        """
        ids = {row.id for row in rows if row not in self._session.new} - self._locked
        query = (
            select(InvocationRow)
            .where(InvocationRow.id.in_(ids))
            .options(*WITHOUT_BYTES)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        )
        if ids:
            self._locked |= {row.id for row in self._session.scalars(query)}
        return ids <= self._locked

    def _give_up(self, row: InvocationRow, how: InvocationState | None) -> None:
        """Have an invocation end that another is made in the place of."""
        if row.state in FINAL:
            return
        row.updated_ms = max(row.updated_ms, self._now)
        row.reason = Reason.SUPERSEDED
        if row.state == InvocationState.RUNNING:
            row.cancel = True
        else:
            row.state = how or InvocationState.CANCELED
            row.ended_ms = self._now


def _open_of(trigger_id: str) -> Select[InvocationRow]:
    """Ask for what a trigger made and has not ended: what is held, then the oldest; one more than
    is looked at."""
    return (
        select(InvocationRow)
        .where(InvocationRow.trigger_id == trigger_id, OPEN)
        .options(*WITHOUT_BYTES)
        .with_hint(InvocationRow, BY_TRIGGER, "sqlite")
        .order_by(InvocationRow.next_ms != HELD_MS, InvocationRow.id)
        .limit(OPEN_MOST + 1)
    )


def _is_held(row: InvocationRow) -> bool:
    return row.state == InvocationState.QUEUED and row.next_ms == HELD_MS
