"""Passages: an invocation passes its rules one after the other, and is held where it may not yet.

    new ──▶ rule ──▶ rule ──▶ due
             │        └─▶ in line for a place of a key ──▶ place ──▶ …
             ├─▶ until a time ──▶ …
             └─▶ skipped, or gathered with others

What is left of its way is in its tickets. A place that becomes free goes to the next in line within
the same transaction. Where there is one place they come first in, first out; where there are more,
end users take turns: a ticket gets the round after its user's last, but none that is over.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, delete, func, select
from sqlalchemy.orm import Session, defer

from cakework.domain.flow import (
    HELD_MS,
    Batch,
    Concurrency,
    Debounce,
    Meter,
    Rate,
    Rule,
    Throttle,
    quiet_until,
    rule_of,
)
from cakework.domain.invocations import InvocationState, Reason
from cakework.server.functions.gatherings import BYTES_MAX, Gatherings
from cakework.server.functions.meters import Key, Meters
from cakework.server.store.flow_models import TicketRow, TicketState
from cakework.server.store.function_models import InvocationRow

SPARE = 5
"""Of those in line more are looked at than there are places: some may have ended meanwhile."""
REPLACED_AT_ONCE = 100
GIVEN_AT_ONCE = 50
"""Places that are given in one passage, at most: others wait for that. The flow loop goes on."""
FEW = 5
"""So many where one invocation comes or ends: of those there are many in one transaction."""
WITHOUT_BYTES = (
    defer(InvocationRow.event_sealed, raiseload=True),
    defer(InvocationRow.result_sealed, raiseload=True),
)


@dataclass(frozen=True, slots=True)
class Effects:
    """What is called when something has come of a passage: an invocation has ended; one is due;
    something is to be done at a time that is now; places of a key are to be given."""

    ended: Callable[[Session, str], None]
    due: Callable[[Session], None]
    soon: Callable[[Session], None]
    more: Callable[[Session, str], None]


class Passage:
    """Lets invocations pass, within one transaction that has locked the flow, at ``now_ms``; of
    those in line at most ``most``, and what is left it tells."""

    def __init__(
        self,
        session: Session,
        meters: Meters,
        gatherings: Gatherings,
        effects: Effects,
        now_ms: int,
        most: int,
    ) -> None:
        self._session = session
        self._meters = meters
        self._gatherings = gatherings
        self._effects = effects
        self._now = now_ms
        self._left = most
        self._freed: deque[str] = deque()

    def enter(self, row: InvocationRow, way: Sequence[TicketRow]) -> InvocationRow:
        """Have a new invocation, which is not recorded yet, go its way. Return what it is part of:
        itself, or one that has its event now; then it is not to be recorded."""
        self._session.flush()
        told = self._walk(row, way)
        self._fill()
        return told

    def go_on(self, ticket: TicketRow) -> None:
        """Have an invocation go on that was to wait until now."""
        is_line = isinstance(_rule(ticket), Concurrency)
        self._go_on(ticket, ticket.stage if is_line else ticket.stage + 1)

    def pass_by(self, ticket: TicketRow) -> None:
        """Have an invocation go on for which a rule is none any more."""
        if ticket.state in (TicketState.LATER, TicketState.HELD):
            self._session.delete(ticket)
        elif ticket.size:
            # What was gathered is to be put together first.
            ticket.ready_ms = min(ticket.ready_ms, self._now)
            self._effects.soon(self._session)
        else:
            self._go_on(ticket, ticket.stage + 1)

    def leave(self, ids: Sequence[str]) -> None:
        """Take back the tickets of invocations; whoever is next gets their places."""
        self._leave(TicketRow.invocation_id.in_(ids))
        self._fill()

    def pause(self, row: InvocationRow) -> None:
        """Have an invocation that waits for its next attempt let others pass, where it is to."""
        way = self._way(row.id, 0)
        held = [each for each in way if each.state == TicketState.HELD]
        first = next((each for each in held if _lets_pass(each)), None)
        if first is None:
            return
        for ticket in held:
            if ticket.stage >= first.stage:
                # Places are taken in the order of stages, so that nobody waits in a circle.
                ticket.state = TicketState.LATER
                self._freed.append(ticket.key)
        first.state, first.ready_ms = TicketState.TIMER, row.next_ms
        row.next_ms = HELD_MS
        self._fill()

    def fill(self, key: str) -> None:
        """Give places of a key to who waits for them."""
        self._freed.append(key)
        self._fill()

    def locked(self, invocation_id: str) -> InvocationRow | None:
        """Return an invocation that has not ended; None: it has, or is about to."""
        self._session.flush()
        return self._session.scalar(
            select(InvocationRow)
            .where(InvocationRow.id == invocation_id, InvocationRow.ended_ms.is_(None))
            .options(*WITHOUT_BYTES)
            # Who changes it at this moment waits for the flow, and is not to be waited for.
            .with_for_update(skip_locked=True)
        )

    def _go_on(self, ticket: TicketRow, stage: int) -> None:
        row = self.locked(ticket.invocation_id)
        if row is None:
            return
        if stage > ticket.stage:
            self._session.delete(ticket)
        self._walk(row, self._way(row.id, stage))
        self._fill()

    def _walk(self, row: InvocationRow, way: Sequence[TicketRow]) -> InvocationRow:
        """Have an invocation pass the rules of its way, as far as it may."""
        at_ms, held = self._now, list[TicketRow]()
        for place, ticket in enumerate(way):
            rule = _rule(ticket)
            if isinstance(rule, Throttle) and place == len(way) - 1:
                # The dispatch loop waits as well, and tells until when.
                at_ms = self._start_of(ticket, rule)
            elif isinstance(rule, Batch):
                if (into := self._gather(row, ticket, rule)) is not None:
                    return into
                return self._hold(row, [*held, *way[place:]])
            elif not self._may_pass(row, ticket, rule):
                if row.ended_ms is not None:
                    return row
                return self._hold(row, [*held, *way[place:]])
            if ticket.state == TicketState.HELD:
                held.append(ticket)
            elif ticket in self._session:
                self._session.delete(ticket)
        self._keep(row, held)
        row.next_ms = at_ms
        row.updated_ms = max(row.updated_ms, self._now)
        self._effects.due(self._session)
        return row

    def _may_pass(self, row: InvocationRow, ticket: TicketRow, rule: Rule | None) -> bool:
        match rule:
            case Rate():
                meter, key = Meter.of(rule), _key(ticket, rule)
                if self._meters.admit(self._session, key, meter, self._now):
                    return True
                self._end(row, Reason.RATE_LIMITED)
                return False
            case Debounce():
                since_ms = self._supersede(ticket)
                ready_ms = quiet_until(rule, since_ms, self._now)
                return self._until(ticket, ready_ms, since_ms)
            case Throttle():
                return self._until(ticket, self._start_of(ticket, rule), self._now)
            case Concurrency():
                return self._has_place(row, ticket, rule)
            case _:
                return self._until(ticket, row.next_ms, self._now)

    def _until(self, ticket: TicketRow, ready_ms: int, since_ms: int) -> bool:
        """Say whether a time is over; else it is waited for."""
        ticket.state, ticket.ready_ms, ticket.since_ms = TicketState.TIMER, ready_ms, since_ms
        return ready_ms <= self._now

    def _start_of(self, ticket: TicketRow, rule: Throttle) -> int:
        meter, key = Meter.of(rule), _key(ticket, rule)
        return self._meters.next_start(self._session, key, meter, self._now)

    def _supersede(self, ticket: TicketRow) -> int:
        """Skip what waits for quiet; return when the first came of that."""
        since_ms = self._now
        for former in self._session.scalars(self._open(ticket)).all():
            since_ms = min(since_ms, former.since_ms)
            if (row := self.locked(former.invocation_id)) is not None:
                self._end(row, Reason.SUPERSEDED)
        return since_ms

    def _gather(self, row: InvocationRow, ticket: TicketRow, rule: Batch) -> InvocationRow | None:
        """Put an event to those that are being gathered; return whose they are, or None where it is
        the first."""
        opened = self._session.scalar(self._open(ticket))
        into = None if opened is None else self.locked(opened.invocation_id)
        if opened is not None and into is not None:
            if opened.bytes + row.event_bytes <= BYTES_MAX and opened.size < rule.max_size:
                self._gatherings.add(self._session, into, opened.size, row)
                opened.size, opened.bytes = opened.size + 1, opened.bytes + row.event_bytes
                into.updated_ms = max(into.updated_ms, self._now)
                if opened.size >= rule.max_size:
                    self._close(opened)
                if row in self._session:
                    self._end(row, Reason.SUPERSEDED)
                return into
            self._close(opened)
        ticket.size, ticket.bytes = 1, row.event_bytes
        self._until(ticket, self._now + rule.max_wait * 1000, self._now)
        return None

    def _close(self, opened: TicketRow) -> None:
        opened.ready_ms = self._now
        self._effects.soon(self._session)

    def _open(self, ticket: TicketRow) -> Select[TicketRow]:
        """Return what waits for a time of the key, and is not to go on yet."""
        self._session.flush()
        return (
            select(TicketRow)
            .where(
                TicketRow.key == ticket.key,
                TicketRow.state == TicketState.TIMER,
                TicketRow.ready_ms > self._now,
            )
            .order_by(TicketRow.seq)
        )

    def _has_place(self, row: InvocationRow, ticket: TicketRow, rule: Concurrency) -> bool:
        """Say whether there is a place for an invocation; else it is in line, or has ended."""
        has_room = self._room(ticket.key, rule) > 0
        if has_room and not self._line(ticket.key, 1):
            ticket.state = TicketState.HELD
            return True
        if has_room:
            # Whoever is before it is about to get that.
            self._freed.append(ticket.key)
        elif row.attempt == 0 and rule.strategy == "skip":
            self._end(row, Reason.OVERLAP)
            return False
        elif row.attempt == 0 and rule.strategy == "replace" and self._replace(ticket.key):
            ticket.state = TicketState.HELD
            return True
        ticket.turn = 0 if rule.limit == 1 else self._turn(ticket)
        ticket.state, ticket.ready_ms = TicketState.LINE, self._now
        return False

    def _replace(self, key: str) -> bool:
        """Have the oldest of a key give way, and all in line; say whether its place is free."""
        for waiting in self._line(key, REPLACED_AT_ONCE):
            if (row := self.locked(waiting.invocation_id)) is not None:
                self._end(row, Reason.SUPERSEDED)
        held = self._of(key, TicketState.HELD).with_only_columns(TicketRow.invocation_id)
        gives_way = select(InvocationRow.id).where(InvocationRow.cancel)
        if self._session.scalar(gives_way.where(InvocationRow.id.in_(held)).limit(1)) is not None:
            return False
        oldest = self._session.scalar(held.order_by(TicketRow.seq).limit(1))
        row = None if oldest is None else self.locked(oldest)
        if row is None:
            return False
        if row.state != InvocationState.RUNNING:
            self._end(row, Reason.SUPERSEDED)
            return True
        row.cancel, row.reason = True, Reason.SUPERSEDED
        row.updated_ms = max(row.updated_ms, self._now)
        self._effects.due(self._session)
        return False

    def _turn(self, ticket: TicketRow) -> int:
        """Return the round in which a ticket is served: the one after its user's last in line, or
        that which is going on."""
        in_line = self._of(ticket.key, TicketState.LINE)
        of_user = in_line.where(TicketRow.user_id == ticket.user_id)
        last = self._session.scalar(of_user.with_only_columns(func.max(TicketRow.turn)))
        if last is not None:
            return last + 1
        return self._session.scalar(in_line.with_only_columns(func.min(TicketRow.turn))) or 0

    def _hold(self, row: InvocationRow, way: Sequence[TicketRow]) -> InvocationRow:
        self._keep(row, way)
        row.next_ms = HELD_MS
        row.updated_ms = max(row.updated_ms, self._now)
        return row

    def _keep(self, row: InvocationRow, way: Sequence[TicketRow]) -> None:
        self._session.add_all(way)
        if way:
            row.limited = True
        self._session.flush()

    def _end(self, row: InvocationRow, why: Reason) -> None:
        """Have an invocation end that is not to begin, or not again."""
        row.state = InvocationState.CANCELED if row.attempt else InvocationState.SKIPPED
        row.reason, row.ended_ms = why, self._now
        row.updated_ms = max(row.updated_ms, self._now)
        self._leave(TicketRow.invocation_id == row.id)
        self._effects.ended(self._session, row.id)

    def _leave(self, whose: ColumnElement[bool]) -> None:
        self._session.flush()
        gone = delete(TicketRow).where(whose).returning(TicketRow.key, TicketRow.state)
        for key, state in self._session.execute(gone).all():
            if state == TicketState.HELD:
                self._freed.append(key)

    def _fill(self) -> None:
        """Give what places have become free to who is next."""
        while self._freed:
            self._give(self._freed.popleft())

    def _give(self, key: str) -> None:
        first = self._line(key, 1)
        rule = _rule(first[0]) if first else None
        if not isinstance(rule, Concurrency) or (room := self._room(key, rule)) <= 0:
            return
        for ticket in self._line(key, min(room, self._left) + SPARE):
            if not self._left:
                self._effects.more(self._session, key)
                return
            if (row := self.locked(ticket.invocation_id)) is None:
                continue
            ticket.state, room, self._left = TicketState.HELD, room - 1, self._left - 1
            self._walk(row, self._way(row.id, ticket.stage + 1))
            if not room:
                return

    def _room(self, key: str, rule: Concurrency) -> int:
        held = self._of(key, TicketState.HELD).with_only_columns(TicketRow.seq).limit(rule.limit)
        count = select(func.count()).select_from(held.subquery())
        return rule.limit - (self._session.scalar(count) or 0)

    def _line(self, key: str, most: int) -> Sequence[TicketRow]:
        in_line = self._of(key, TicketState.LINE)
        by = TicketRow.turn, TicketRow.ready_ms, TicketRow.seq
        return self._session.scalars(in_line.order_by(*by).limit(most)).all()

    def _of(self, key: str, state: TicketState) -> Select[TicketRow]:
        self._session.flush()
        return select(TicketRow).where(TicketRow.key == key, TicketRow.state == state)

    def _way(self, invocation_id: str, stage: int) -> Sequence[TicketRow]:
        """Return the tickets of an invocation from a stage on."""
        self._session.flush()
        return self._session.scalars(
            select(TicketRow)
            .where(TicketRow.invocation_id == invocation_id, TicketRow.stage >= stage)
            .order_by(TicketRow.stage)
        ).all()


def _rule(ticket: TicketRow) -> Rule | None:
    """Return the rule of a ticket; None: it is a delay that was asked for."""
    return rule_of(ticket.rule) if ticket.rule else None


def _lets_pass(ticket: TicketRow) -> bool:
    rule = _rule(ticket)
    return isinstance(rule, Concurrency) and rule.on_retry == "letOthersPass"


def _key(ticket: TicketRow, rule: Rule) -> Key:
    """Return what is measured for a ticket; keys that are too many go by one of their rule's."""
    return Key(ticket.account_id, ticket.key, f"{ticket.scope_id}:{rule.type}")
