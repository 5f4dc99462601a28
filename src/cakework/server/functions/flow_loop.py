"""The flow loop: what was to wait until now goes on, and what no rule needs any more is forgotten.

| What | When | Then |
|---|---|---|
| what waits for a time | that is over | goes on |
| places that are left to be given | soon | go to who is next, so many at a time |
| events that are gathered | as many as may be, or long enough | are put together, and go on |
| what is held for a rule | that is gone, or another | goes on, or is held by that |
| tickets | of what has ended | go, and their places to who is next |
| meters | that say nothing any more | go |

Places are given within the transactions that free them; what is left of a trigger or function that
is gone, or of a fault of ours, is found here within half a minute.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from cakework.domain.flow import Concurrency, Rule, is_same, rule_of, told_rule
from cakework.server.clock import Clock
from cakework.server.functions.flow import Flow
from cakework.server.functions.gatherings import Gathered, Gatherings
from cakework.server.functions.meters import US_PER_MS
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.database import Database
from cakework.server.store.flow_models import MemberRow, MeterRow, TicketRow, TicketState
from cakework.server.store.function_models import FunctionRow, InvocationRow

AT_ONCE = 1_000
"""Of what is to go on, in one pass."""
TOGETHER = 50
"""In one transaction: others wait for that."""
GATHERED_AT_ONCE = 50
SWEEP_MS = 30_000
SWEPT_AT_ONCE = 2_000
METERS_AT_ONCE = 5_000
PUT_OFF_MS = 60_000
"""Until what could not go on, for a fault of ours, is looked at again."""
_T = TypeVar("_T")
Work = Callable[[Session, Sequence[int]], None]
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """What is known of a ticket when it is looked at."""

    seq: int
    invocation_id: str
    key: str
    state: str
    scope_id: str
    function_id: str
    rule: str
    goes_on: bool
    """Whether its invocation is there and has not ended."""


@dataclass(frozen=True, slots=True)
class _Due:
    """A ticket whose time is over; ``size`` events are gathered."""

    seq: int
    invocation_id: str
    size: int


class FlowLoop:
    """Has what is held go on."""

    def __init__(
        self,
        database: Database,
        flow: Flow,
        gatherings: Gatherings,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """``hint`` has a pass run soon."""
        self._database = database
        self._flow = flow
        self._gatherings = gatherings
        self._clock = clock
        self._hint = hint
        self._after = 0
        self._swept_ms = 0

    def changed(self, _function_id: str) -> None:
        """Look soon at what is held: the rules of a function may be others."""
        self._swept_ms = 0
        self._hint()

    async def one_pass(self) -> None:
        """Have go on what is to, and look through what is held from time to time."""
        await self._fill()
        await self._go_on()
        now = self._clock()
        if self._after or not self._swept_ms <= now < self._swept_ms + SWEEP_MS:
            self._swept_ms = now
            await self._sweep()

    async def _fill(self) -> None:
        """Give places that were too many for one transaction; of what is left it is told again, and
        what could not be given the sweep finds."""
        for key in self._flow.unfilled():
            await self._done([key], self._fill_one)

    def _fill_one(self, session: Session, keys: Sequence[str]) -> None:
        passage = self._flow.passage(session)
        for key in keys:
            passage.fill(key)

    async def _go_on(self) -> None:
        due, are_more = await self._found()
        plain = [each.seq for each in due if not each.size]
        await self._each(plain, self._pass)
        gathered = [each for each in due if each.size]
        for each in gathered[:GATHERED_AT_ONCE]:
            try:
                work = await self._gathered(each.invocation_id)
            except Exception:
                _log.exception("flow.not_put_together", invocation_id=each.invocation_id)
                await self._put_off(each.seq)
            else:
                await self._each([each.seq], work)
        if are_more or len(gathered) > GATHERED_AT_ONCE:
            self._hint()

    async def _found(self) -> tuple[list[_Due], bool]:
        """Return what is to go on, of each account as much, and what waits longest first; and
        whether there may be more."""
        is_due, by = _is_due(self._clock()), (TicketRow.ready_ms, TicketRow.seq)
        query = select(TicketRow.seq, TicketRow.invocation_id, TicketRow.size)
        found, are_more = list[_Due](), False
        async with self._database.reading() as session:
            of = select(TicketRow.account_id).where(*is_due).distinct()
            accounts = list(await session.scalars(of))
            random.shuffle(accounts)
            share = max(1, AT_ONCE // max(1, len(accounts)))
            for account in accounts[:AT_ONCE]:
                theirs = query.where(*is_due, TicketRow.account_id == account)
                rows = (await session.execute(theirs.order_by(*by).limit(share))).all()
                found += [_Due(*row) for row in rows]
                are_more = are_more or len(rows) == share
        return found, are_more

    def _pass(self, session: Session, seqs: Sequence[int]) -> None:
        passage = self._flow.passage(session)
        for ticket in self._due(session, seqs):
            passage.go_on(ticket)

    async def _gathered(self, invocation_id: str) -> Work:
        """Return what has an invocation go on with all events that were gathered for it."""
        gathered = await self._put_together(invocation_id)

        def work(session: Session, seqs: Sequence[int]) -> None:
            passage = self._flow.passage(session)
            for ticket in self._due(session, seqs):
                row = passage.locked(invocation_id)
                # Another server, whose clock is behind, may have added to it.
                if row is not None and gathered is not None and gathered.count == ticket.size:
                    gathered.put(session, row)
                    passage.go_on(ticket)

        return work

    async def _put_together(self, invocation_id: str) -> Gathered | None:
        async with self._database.reading() as session:
            parts = await self._gatherings.parts(session, invocation_id)
        if parts is None:
            return None
        now = datetime.fromtimestamp(self._clock() / 1000, UTC).isoformat(timespec="milliseconds")
        return await asyncio.to_thread(self._gatherings.together, parts, now)

    def _due(self, session: Session, seqs: Sequence[int]) -> Sequence[TicketRow]:
        """Return those of some tickets that still wait, and long enough."""
        query = select(TicketRow).where(TicketRow.seq.in_(seqs), *_is_due(self._clock()))
        return session.scalars(query.order_by(TicketRow.ready_ms, TicketRow.seq)).all()

    async def _each(self, seqs: Sequence[int], work: Work) -> None:
        """Do ``work`` with tickets; what could not go on is put off."""
        for seq in await self._done(seqs, work):
            await self._put_off(seq)

    async def _done(
        self, given: Sequence[_T], work: Callable[[Session, Sequence[_T]], None]
    ) -> list[_T]:
        """Do ``work`` with some of what is given at once; where that fails, with one after the
        other, so that nobody's fault is another's. Return with which it failed."""
        failed: list[_T] = []
        for some in _chunks(given, TOGETHER):
            try:
                await self._database.together(lambda session, some=some: work(session, some))
            except Exception:
                _log.exception("flow.one_by_one", count=len(some))
            else:
                continue
            for each in some:
                try:
                    await self._database.together(lambda session, each=each: work(session, [each]))
                except Exception:
                    _log.exception("flow.not_done", of=each)
                    failed.append(each)
        return failed

    async def _put_off(self, seq: int) -> None:
        put_off = (
            update(TicketRow)
            .where(TicketRow.seq == seq, TicketRow.state == TicketState.TIMER)
            .values(ready_ms=self._clock() + PUT_OFF_MS)
        )
        await self._database.together(lambda session: session.execute(put_off) and None)

    async def _sweep(self) -> None:
        """Look through what is held, so much of it, and forget what is over."""
        held = await self._held()
        self._after = held[-1].seq if len(held) == SWEPT_AT_ONCE else 0
        ended = list({each.invocation_id for each in held if not each.goes_on})
        await self._done(ended, lambda session, ids: self._flow.passage(session).leave(ids))
        await self._renew([each for each in held if each.goes_on])
        await self._unblock([each for each in held if each.state == TicketState.LINE])
        await self._put_back()
        await self._forget_meters()
        if self._after:
            self._hint()

    async def _held(self) -> list[_Held]:
        goes_on = InvocationRow.id.is_not(None) & InvocationRow.ended_ms.is_(None)
        query = (
            select(
                *(TicketRow.seq, TicketRow.invocation_id, TicketRow.key, TicketRow.state),
                *(TicketRow.scope_id, TicketRow.function_id, TicketRow.rule, goes_on),
            )
            .outerjoin(InvocationRow, InvocationRow.id == TicketRow.invocation_id)
            .where(TicketRow.seq > self._after)
            .order_by(TicketRow.seq)
            .limit(SWEPT_AT_ONCE)
        )
        async with self._database.reading() as session:
            return [_Held(*each) for each in await session.execute(query)]

    async def _renew(self, held: Sequence[_Held]) -> None:
        """Have what is held go by the rules as they are now."""
        told = {(each.scope_id, each.function_id, each.rule): None for each in held if each.rule}
        if not told:
            return
        scopes = list({scope for scope, _, _ in told})
        of_functions = list({function_id for _, function_id, _ in told})

        def look(session: Session) -> dict[str, list[Rule] | None]:
            functions = select(FunctionRow).where(FunctionRow.id.in_(of_functions))
            triggers = select(TriggerRow).where(TriggerRow.id.in_(scopes))
            now: dict[str, list[Rule] | None] = {}
            for function in session.scalars(functions):
                now[function.id] = self._rules_of(function, None)
            for trigger in session.scalars(triggers):
                now[trigger.id] = self._rules_of(None, trigger)
            return now

        now = await self._database.look(look)
        of: dict[tuple[str, str], list[int]] = {}
        for each in held:
            of.setdefault((each.scope_id, each.rule), []).append(each.seq)
        for scope, _, rule in told:
            theirs = now.get(scope, [])
            if theirs is None:
                continue
            known, seqs = rule_of(rule), of[scope, rule]
            same = next((each for each in theirs if is_same(each, known)), None)
            if same is None:
                await self._each(seqs, self._pass_by)
            elif not _is_as(same, rule):
                await self._change(seqs, told_rule(same))

    def _rules_of(
        self, function: FunctionRow | None, trigger: TriggerRow | None
    ) -> list[Rule] | None:
        """Return rules as they are now; None: they cannot be read, and those on record go on."""
        try:
            return [rule for _, rule in self._flow.rules(function, trigger)]
        except Exception:
            _log.exception(
                "flow.rules_not_read", of=[each.id for each in (function, trigger) if each]
            )
            return None

    def _pass_by(self, session: Session, seqs: Sequence[int]) -> None:
        """Have invocations go on for which a rule is none any more."""
        passage = self._flow.passage(session)
        for ticket in session.scalars(select(TicketRow).where(TicketRow.seq.in_(seqs))).all():
            passage.pass_by(ticket)

    async def _change(self, seqs: Sequence[int], rule: str) -> None:
        def work(session: Session, some: Sequence[int]) -> None:
            passage = self._flow.passage(session)
            changed = update(TicketRow).where(TicketRow.seq.in_(some)).values(rule=rule)
            for key in set(session.scalars(changed.returning(TicketRow.key))):
                passage.fill(key)

        await self._done(seqs, work)

    async def _unblock(self, held: Sequence[_Held]) -> None:
        """Give places to who waits in lines of which places are free."""

        def work(session: Session, some: Sequence[str]) -> None:
            passage = self._flow.passage(session)
            for key in self._blocked(session, some):
                passage.fill(key)

        await self._done(list({each.key for each in held}), work)

    def _blocked(self, session: Session, keys: Sequence[str]) -> list[str]:
        """Return of which of some keys fewer have places than may, though somebody waits."""
        row = TicketRow
        of_line = select(row.key, row.rule).where(row.key.in_(keys), row.state == TicketState.LINE)
        of_held = select(row.key, func.count())
        of_held = of_held.where(row.key.in_(keys), row.state == TicketState.HELD)
        held = {each[0]: each[1] for each in session.execute(of_held.group_by(row.key))}
        blocked: dict[str, None] = {}
        for key, told in session.execute(of_line.distinct()).all():
            rule = rule_of(told)
            if isinstance(rule, Concurrency) and held.get(key, 0) < rule.limit:
                blocked[key] = None
        return list(blocked)

    async def _put_back(self) -> None:
        """Put together what was gathered for what has ended before it was to start."""
        query = (
            select(MemberRow.invocation_id)
            .join(InvocationRow, InvocationRow.id == MemberRow.invocation_id)
            .where(InvocationRow.ended_ms.is_not(None))
            .distinct()
            .limit(GATHERED_AT_ONCE)
        )
        async with self._database.reading() as session:
            ids = list(await session.scalars(query))
        for each in ids:
            try:
                gathered = await self._put_together(each)
                if gathered is not None:
                    await self._database.together(partial(_put, gathered))
            except Exception:
                _log.exception("flow.not_put_back", invocation_id=each)

    async def _forget_meters(self) -> None:
        over = select(MeterRow.key).where(MeterRow.until_us < self._clock() * US_PER_MS)
        async with self._database.writing() as session:
            await session.execute(
                delete(MeterRow)
                .where(MeterRow.key.in_(over.limit(METERS_AT_ONCE)))
                .execution_options(synchronize_session=False)
            )


def _put(gathered: Gathered, session: Session) -> None:
    if (row := session.get(InvocationRow, gathered.invocation_id)) is not None:
        gathered.put(session, row)


def _is_due(now_ms: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return TicketRow.state == TicketState.TIMER, TicketRow.ready_ms <= now_ms


def _is_as(rule: Rule, told: str) -> bool:
    """Say whether a rule is as it was told; of what is done again it is always to be queued."""
    return rule_of(told) in (rule, rule.model_copy(update={"strategy": "queue"}))


def _chunks(given: Sequence[_T], most: int) -> Iterable[Sequence[_T]]:
    for start in range(0, len(given), most):
        yield given[start : start + most]
