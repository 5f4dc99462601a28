"""Flow control of invocations: which of them may begin, and which are held, skipped or gathered.

An invocation whose function or trigger has rules gets a ticket for each that it has to pass, and is
due in the year 9999 meanwhile: so it is queued, and nothing that looks for due work sees it. All of
it is in rows. Whoever changes them has the flow to itself (:func:`lock`), so that two at once never
find the same place free.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import func, inspect, select
from sqlalchemy.orm import Session

from cakework.domain.flow import (
    USER_ID,
    Batch,
    Concurrency,
    Rule,
    Throttle,
    in_turn,
    limits_of,
    told_rule,
    value_key,
)
from cakework.domain.functions import FunctionSettings
from cakework.server.clock import Clock
from cakework.server.functions.gatherings import Gatherings
from cakework.server.functions.meters import Meters
from cakework.server.functions.passages import FEW, GIVEN_AT_ONCE, Effects, Passage
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.flow_models import TicketRow, TicketState
from cakework.server.store.function_models import FunctionRow, InvocationRow
from cakework.server.store.sealing import Sealer
from cakework.server.store.together import after_commit

_LOCK = 0x666C6F77
Scoped = list[tuple[str, Rule]]


class Flow:
    """Flow control, within the transactions in which invocations are taken and end."""

    def __init__(
        self,
        sealer: Sealer,
        settings: Callable[[FunctionRow], FunctionSettings],
        meters: Meters,
        gatherings: Gatherings,
        tell: Callable[[str], None],
        clock: Clock,
        due: Callable[[], None],
        soon: Callable[[], None],
    ) -> None:
        """``tell`` says which invocation has ended here; ``due`` that one may begin, ``soon`` that
        the flow loop has something to do."""
        self._sealer = sealer
        self._settings = settings
        self._meters = meters
        self._gatherings = gatherings
        self._clock = clock
        self._effects = Effects(
            lambda session, ended: after_commit(session, partial(tell, ended)),
            lambda session: after_commit(session, due),
            lambda session: after_commit(session, soon),
            lambda session, key: after_commit(session, partial(self._more, key)),
        )
        self._soon = soon
        self._unfilled: dict[str, None] = {}

    def has_rules(self, session: Session, function: FunctionRow, row: InvocationRow) -> bool:
        """Say whether an invocation that is to be recorded has rules to pass."""
        return bool(self._scoped(session, function, row))

    def limited(
        self,
        session: Session,
        functions: Mapping[str, FunctionRow],
        entries: Sequence[Mapping[str, Any]],
    ) -> set[str]:
        """Return the ids of those of some invocations, as columns, that have rules to pass."""
        rules = {each: bool(self._settings(row).limits) for each, row in functions.items()}
        ids = {each["trigger_id"] for each in entries if each["trigger_id"]}
        triggers = set[str]()
        if ids:
            having = select(TriggerRow.id).where(TriggerRow.limits.is_not(None))
            triggers.update(session.scalars(having.where(TriggerRow.id.in_(ids))))
        return {
            each["id"]
            for each in entries
            if rules[each["function_id"]] or each["trigger_id"] in triggers
        }

    def admit(self, session: Session, function: FunctionRow, row: InvocationRow) -> InvocationRow:
        """Have an invocation pass the rules that there are for it, before it is recorded.

        Returns what is to be answered: ``row``, which may be due later now, held, or have ended; or
        another, which has its event now, and then ``row`` is not to be recorded.
        """
        scoped = self._scoped(session, function, row)
        if not scoped:
            return row
        passage = self.passage(session, FEW)
        event = self._event(row, scoped)
        way = [self._ticket(row, scope, rule, event) for scope, rule in scoped]
        if row.next_ms > self._clock():
            way.insert(0, self._ticket(row, function.id, None, event))
        for stage, ticket in enumerate(way):
            ticket.stage = stage
        return passage.enter(row, way)

    def ended(self, session: Session, ids: Sequence[str]) -> None:
        """Take back what invocations hold that have come to their ends."""
        if limited := _limited(session, ids):
            self.passage(session, max(FEW, len(limited))).leave(limited)

    def again(self, session: Session, row: InvocationRow) -> None:
        """Have an invocation let others pass until its next attempt, if it is to."""
        if row.limited:
            self.passage(session, FEW).pause(row)

    def unfilled(self) -> list[str]:
        """Return the keys of which places are left to be given, each once; to be done now."""
        keys, self._unfilled = list(self._unfilled), {}
        return keys

    def passage(self, session: Session, most: int | None = None) -> Passage:
        """Return who lets invocations pass within a transaction, which has the flow from then on;
        of those in line at most ``most``, or as many as one transaction may.

        What else it changes of invocations it does after this, lest two wait for each other.
        """
        lock(session)
        most = GIVEN_AT_ONCE if most is None else most
        now = self._clock()
        return Passage(session, self._meters, self._gatherings, self._effects, now, most)

    def rules(self, function: FunctionRow | None, trigger: TriggerRow | None) -> Scoped:
        """Return the rules of a trigger and of a function, as they are now, in their order."""
        scoped: Scoped = []
        if trigger is not None:
            scoped += [(trigger.id, rule) for rule in in_turn(limits_of(trigger.limits))]
        if function is not None:
            limits = self._settings(function).limits
            scoped += [(function.id, rule) for rule in in_turn(limits)]
        return scoped

    def _more(self, key: str) -> None:
        self._unfilled[key] = None
        self._soon()

    def _scoped(self, session: Session, function: FunctionRow, row: InvocationRow) -> Scoped:
        trigger = session.get(TriggerRow, row.trigger_id) if row.trigger_id else None
        scoped = self.rules(function, trigger)
        if row.replay_of is None:
            return scoped
        # Somebody wants it to be done: it may have to wait for that, and is not skipped.
        return [
            (scope, rule.model_copy(update={"strategy": "queue"}))
            if isinstance(rule, Concurrency)
            else (scope, rule)
            for scope, rule in scoped
            if isinstance(rule, Concurrency | Throttle)
        ]

    def _event(self, row: InvocationRow, scoped: Scoped) -> dict[str, Any]:
        """Return the event of an invocation, if any rule looks into it."""
        if all(rule.key in (None, USER_ID) for _, rule in scoped):
            return {}
        return json.loads(self._sealer.unseal(row.event_sealed, f"event:{row.id}"))

    def _ticket(
        self, row: InvocationRow, scope: str, rule: Rule | None, event: dict[str, Any]
    ) -> TicketRow:
        counted = ["delay", row.id] if rule is None else _counted(row, rule, event)
        told = json.dumps([row.account_id, scope, *counted])
        return TicketRow(
            account_id=row.account_id,
            function_id=row.function_id,
            user_id=row.user_id,
            invocation_id=row.id,
            scope_id=scope,
            rule="" if rule is None else told_rule(rule),
            key=self._sealer.mark(told.encode(), "flow").hex(),
            state=TicketState.LATER,
            turn=0,
            ready_ms=row.created_ms,
            since_ms=row.created_ms,
            size=0,
            bytes=0,
        )


def lock(session: Session) -> None:
    """Have others who change what is held wait until this transaction ends.

    On SQLite that is so already.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _counted(row: InvocationRow, rule: Rule, event: dict[str, Any]) -> list[object]:
    """Return what is one to a rule. Events that an instance may not have one after the other, or
    that are tried again otherwise, are not gathered."""
    counted: list[object] = [rule.type, rule.key, value_key(event, rule.key, row.user_id)]
    if not isinstance(rule, Batch):
        return counted
    version = row.version if row.pinned else None
    made_by = [row.user_id, row.trigger, row.trigger_id, row.retry]
    return [*counted, *made_by, version, row.max_attempts]


def _limited(session: Session, ids: Sequence[str]) -> list[str]:
    """Return which of some invocations have tickets; of what is at hand nothing is read."""
    limited, unknown = list[str](), list[str]()
    of = inspect(InvocationRow)
    for each in ids:
        row = session.identity_map.get(of.identity_key_from_primary_key((each,)))
        if row is None:
            unknown.append(each)
        elif row.limited:
            limited.append(each)
    if unknown:
        query = select(InvocationRow.id)
        limited += session.scalars(
            query.where(InvocationRow.id.in_(unknown), InvocationRow.limited.is_(True))
        )
    return limited
