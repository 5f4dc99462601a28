"""Events: what somebody emits, each kept once, and given to the triggers that want it.

An event, and what the first hundred triggers make of it, are written in one transaction: all events
that are emitted together, or none. What is left is the loop's (``fan_out.py``).

    emitted ──▶ known already: a duplicate, which makes nothing
        └─────▶ kept, with its invocations ──▶ the rest of its triggers, by the loop ──▶ removed
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from sqlalchemy import Row, Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from cakework.domain.cloudevents import CAUSE
from cakework.domain.errors import FieldError, InvalidRequest, LoopDetected, NotFound, Unavailable
from cakework.domain.ids import ACCOUNT_ITSELF, AccountId, UserId
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.automations.arriving import Arrived, arrived
from cakework.server.automations.event_room import ROW_BYTES, EventRoom
from cakework.server.automations.plans import Plan, Planner
from cakework.server.automations.wishes import Edition, Look, Wishes, WishesOfAccount, edition_of
from cakework.server.clock import Clock
from cakework.server.functions.invocations import DEPTH_MAX, Invocations
from cakework.server.store.automation_models import EventRow
from cakework.server.store.database import Database
from cakework.server.store.function_models import InvocationRow
from cakework.server.store.sealing import Sealer
from cakework.server.store.together import after_commit
from cakework.turns import Turns

AT_ONCE = 100
"""Triggers to which an event is given in the transaction that keeps it."""
MADE_MOST = 2_000
"""Invocations that are made in one such transaction, of all events in it; on SQLite nobody else
writes meanwhile."""
MADE_BYTES = 8 << 20
"""Of the events of these invocations, each of which has it for itself."""
LIMITED_COST = 20
"""As so many of those one counts that has rules of flow control to pass."""
LOOK_S = 1.0
LOOK_WITHIN_S = 0.05
"""Time of a processor to compare events with triggers, before a transaction and within one. What is
not done then is the loop's."""
TRIES = 3
"""So often events are compared with triggers that change meanwhile, before that is done within the
transaction."""
RACES = 10
PREPARED_AT_ONCE = 2
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Emitted:
    """What became of an event: under which id it is kept, whether it was already, and how many
    invocations it has made by now."""

    id: str
    duplicate: bool
    invocations: int


class _Raced(Exception):
    """Somebody else wrote one of these events meanwhile."""


class Events:
    """The events of accounts."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        wishes: Wishes,
        planner: Planner,
        invocations: Invocations,
        room: EventRoom,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """Keep events in ``database``; ``hint`` says that some have triggers left."""
        self._database = database
        self._sealer = sealer
        self._wishes = wishes
        self._planner = planner
        self._invocations = invocations
        self._room = room
        self._clock = clock
        self._hint = hint
        self._turns: Turns[AccountId] = Turns(PREPARED_AT_ONCE)

    async def emit(
        self,
        account: AccountId,
        given: Sequence[Json],
        user_id: UserId = ACCOUNT_ITSELF,
        token: str | None = None,
    ) -> list[Emitted]:
        """Take events, of ``user_id`` where they name nobody, in the form in which
        :mod:`cakework.domain.cloudevents` returns them; they are durable when this returns what
        became of each.

        Raises:
            InvalidRequest: an event is of another user, or its cause is not known.
            LoopDetected: its cause leads too deep.
            QueueFull: of what they would make as much waits as may, or as much is kept as may.
        """
        depths = await self._depths(account, given)
        wishes = await self._wishes.of(account)
        async with self._turns.hold(account):
            events, plans = await asyncio.to_thread(
                self._prepared, account, given, depths, user_id, token, wishes
            )
        emitted = await self._kept(account, events, plans, wishes, token)
        step(Step.SERVER_EVENT_ACCEPTED)
        return emitted

    async def _kept(
        self,
        account: AccountId,
        events: Sequence[Arrived],
        plans: Sequence[Plan],
        wishes: WishesOfAccount,
        token: str | None,
    ) -> list[Emitted]:
        """Keep events, when what is planned goes by what the store has."""
        stale = races = 0
        while True:
            last = stale >= TRIES
            record = partial(
                self._record, account, events, None if last else plans, wishes.edition, token
            )
            try:
                emitted = await self._database.together(record, account)
            except _Raced as error:
                races += 1
                if races > RACES:
                    raise Unavailable(
                        "The same events come all the time; send them again."
                    ) from error
                continue
            if emitted is not None:
                return emitted
            stale += 1
            wishes = await self._wishes.of(account, unless=wishes)
            async with self._turns.hold(account):
                plans = await asyncio.to_thread(self._plans, account, events, wishes, LOOK_S)

    async def _depths(self, account: AccountId, given: Sequence[Json]) -> dict[str, int]:
        """Return the depth of what is caused by each invocation that events name."""
        causes = dict.fromkeys(event[CAUSE] for event in given if CAUSE in event)
        if not causes:
            return {}
        row = InvocationRow
        query = select(row.id, row.depth).where(row.account_id == account, row.id.in_(causes))
        async with self._database.reading() as session:
            depths = {each[0]: each[1] + 1 for each in await session.execute(query)}
        for number, event in enumerate(given):
            cause = event.get(CAUSE)
            if cause is not None and cause not in depths:
                field = FieldError(f"events.{number}.{CAUSE}", "is no invocation that there is")
                raise InvalidRequest(
                    f"The request is not valid: {field.field} {field.message}.", [field]
                )
            if cause is not None and depths[cause] > DEPTH_MAX:
                raise LoopDetected(
                    f"{cause} comes of an event {DEPTH_MAX} deep, of which each comes of the one "
                    "before; it may not emit another."
                )
        return depths

    def _prepared(
        self,
        account: AccountId,
        given: Sequence[Json],
        depths: dict[str, int],
        user_id: UserId,
        token: str | None,
        wishes: WishesOfAccount,
    ) -> tuple[list[Arrived], list[Plan]]:
        events = arrived(given, depths, user_id, token, self._sealer, self._clock())
        return events, self._plans(account, events, wishes, LOOK_S)

    def _plans(
        self,
        account: AccountId,
        events: Sequence[Arrived],
        wishes: WishesOfAccount,
        look_s: float,
    ) -> list[Plan]:
        look, left, left_bytes = Look(look_s), MADE_MOST, MADE_BYTES
        plans: list[Plan] = []
        for each in events:
            size = len(each.incoming.told)
            most = min(AT_ONCE, left, left_bytes // size)
            plans.append(self._planner.plan(account, each.incoming, wishes, look, most))
            left -= len(plans[-1].made)
            left_bytes -= size * len(plans[-1].made)
        return plans

    def _record(
        self,
        account: AccountId,
        events: Sequence[Arrived],
        plans: Sequence[Plan] | None,
        edition: Edition,
        token: str | None,
        session: Session,
    ) -> list[Emitted] | None:
        """Write what is new, and return what became of each; None: triggers are others by now than
        those that were gone by, and nothing is written."""
        if plans is None:
            wishes = self._wishes.within(session, account)
            plans = self._plans(account, events, wishes, LOOK_WITHIN_S)
        elif edition_of(session, account) != edition:
            return None
        known = _known(session, account, [each.digest for each in events])
        new: dict[str, tuple[Arrived, Plan]] = {}
        for event, plan in zip(events, plans, strict=True):
            if event.digest not in known:
                new.setdefault(event.digest, (event, plan))
        self._room.check(session, account, sum(_weight(event) for event, _ in new.values()))
        try:
            new = self._affordable(session, account, new)
            entries = [made.entry for _, plan in new.values() for made in plan.made]
            self._invocations.enter_all(session, account, entries)
        except NotFound:
            # A function, with its triggers, went since a moment ago.
            return None
        _insert(session, [_values(account, *new[each], token) for each in sorted(new)])
        if any(plan.after is not None for _, plan in new.values()):
            after_commit(session, self._hint)
        return _told(events, known, new, token)

    def _affordable(
        self, session: Session, account: AccountId, new: dict[str, tuple[Arrived, Plan]]
    ) -> dict[str, tuple[Arrived, Plan]]:
        """Return as much of what is planned as one transaction may take, by what the store says of
        rules; of each event the rest is left. Raises NotFound: a function is gone."""
        entries = [made.entry for _, plan in new.values() for made in plan.made]
        if len(entries) * LIMITED_COST <= MADE_MOST:
            return new
        limited = self._invocations.limited(session, account, entries)
        left, affordable = MADE_MOST, dict[str, tuple[Arrived, Plan]]()
        for digest, (event, plan) in new.items():
            count = 0
            for made in plan.made:
                left -= LIMITED_COST if made.entry.values["id"] in limited else 1
                if left < 0:
                    break
                count += 1
            affordable[digest] = event, plan.first(count)
        return affordable


def _known(
    session: Session, account: AccountId, digests: Sequence[str]
) -> dict[str, Row[str, str, int, str | None]]:
    """Return what is kept already of some events, by their digests."""
    row = EventRow
    query = select(row.digest, row.id, row.made, row.request_token)
    query = query.where(row.account_id == account, row.digest.in_(digests))
    return {each.digest: each for each in session.execute(query)}


def _weight(event: Arrived) -> int:
    return ROW_BYTES + len(event.sealed)


def _values(account: AccountId, event: Arrived, plan: Plan, token: str | None) -> Json:
    incoming = event.incoming
    return {
        "id": incoming.id,
        "account_id": account,
        "user_id": incoming.user_id,
        "digest": event.digest,
        "type": incoming.event["type"],
        "subject": incoming.event.get("subject"),
        "event_sealed": event.sealed,
        "bytes": _weight(event),
        "made": len(plan.made),
        "after": plan.after,
        "depth": incoming.depth,
        "cause_id": incoming.cause_id,
        "request_token": token,
        "created_ms": event.now_ms,
    }


def _insert(session: Session, values: Sequence[Json]) -> None:
    """Write events, in the order of their digests, so that no two servers wait for one another.

    Raises:
        _Raced: one is there that was not a moment ago.
    """
    if not values:
        return
    of = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    table = cast("Table", EventRow.__table__)
    insert = of.insert(table).on_conflict_do_nothing(index_elements=["account_id", "digest"])
    written = session.execute(insert.returning(table.c.id), list(values))
    if len(written.all()) < len(values):
        raise _Raced


def _told(
    events: Sequence[Arrived],
    known: dict[str, Row[str, str, int, str | None]],
    new: dict[str, tuple[Arrived, Plan]],
    token: str | None,
) -> list[Emitted]:
    """Return what became of each. What this very request kept, before it was cut off, is new."""
    told: list[Emitted] = []
    seen: set[str] = set()
    for each in events:
        repeated = each.digest in seen
        seen.add(each.digest)
        if (row := known.get(each.digest)) is not None:
            ours = token is not None and row.request_token == token
            told.append(Emitted(row.id, repeated or not ours, row.made))
        else:
            event, plan = new[each.digest]
            told.append(Emitted(event.incoming.id, repeated, len(plan.made)))
    return told
