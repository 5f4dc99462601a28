"""Fan-out: events with more triggers than were looked at at once, given to the rest by a loop.

    after = ""  ──▶ after = trg_…  ──▶ …  ──▶ after = None
            (next triggers' invocations, and how far it is: one transaction)

Each transaction makes what the next hundred triggers want, and moves the event's cursor with it; so
each invocation is made once, whatever ends in between and however many servers are at it. Accounts
take turns, and of one account its events. What finds a full queue waits where it is.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy import select, true, tuple_, update
from sqlalchemy.orm import Session

from cakework.domain.errors import NotFound, QueueFull
from cakework.domain.ids import AccountId
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.automations.events import (
    LIMITED_COST,
    LOOK_WITHIN_S,
    MADE_BYTES,
    MADE_MOST,
)
from cakework.server.automations.plans import Incoming, Made, Plan, Planner
from cakework.server.automations.wishes import Look, Wishes, WishesOfAccount, edition_of
from cakework.server.functions.invocations import Invocations
from cakework.server.store.automation_models import EventRow
from cakework.server.store.database import Database
from cakework.server.store.pages import Place
from cakework.server.store.sealing import Sealer

MADE_AT_ONCE = MADE_MOST // LIMITED_COST
"""Invocations that are made in one transaction, at most: all of them may have rules to pass."""
EVENTS_AT_ONCE = 8
"""Of one account, before the next one's turn."""
LOOK_S = 0.2
"""Time of a processor to compare one event with triggers, before the next one's turn."""
TRIES = 2
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """An event, as far as it was found to be."""

    incoming: Incoming = field(repr=False)
    after: str


class FanOut:
    """Gives events to the triggers that are left."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        wishes: Wishes,
        planner: Planner,
        invocations: Invocations,
        hint: Callable[[], None],
    ) -> None:
        """Find them in ``database``; ``hint`` has another pass come at once."""
        self._database = database
        self._sealer = sealer
        self._wishes = wishes
        self._planner = planner
        self._invocations = invocations
        self._hint = hint
        self._places: dict[AccountId, Place] = {}

    async def one_pass(self) -> None:
        """Give some events of each account to some more of their triggers."""
        row = EventRow
        query = select(row.account_id).where(row.after.is_not(None)).distinct()
        async with self._database.reading() as session:
            accounts = [AccountId(each) for each in await session.scalars(query)]
        moved = False
        for each in accounts:
            try:
                moved |= await self._of_account(each)
            except Exception:
                _log.exception("event.account_not_given", account_id=each)
        self._places = {each: at for each, at in self._places.items() if each in accounts}
        if moved:
            self._hint()

    async def _of_account(self, account: AccountId) -> bool:
        """Go on with events of an account; say whether any got further."""
        moved = False
        for event_id, after in await self._next(account):
            try:
                unfinished = await self._opened(event_id, after)
                if unfinished is not None:
                    moved |= await self._go_on(account, unfinished)
            except Exception:
                _log.exception("event.not_given", event_id=event_id)
        return moved

    async def _next(self, account: AccountId) -> list[tuple[str, str]]:
        """Return the events whose turn it is, each with how far it is."""
        row, place = EventRow, self._places.pop(account, None)
        query = select(row.id, row.after, row.created_ms)
        query = query.where(row.account_id == account, row.after.is_not(None))
        query = query.order_by(row.created_ms, row.id).limit(EVENTS_AT_ONCE)
        behind = true()
        if place is not None:
            behind = tuple_(row.created_ms, row.id) > (place.created_ms, place.id)
        async with self._database.reading() as session:
            found = (await session.execute(query.where(behind))).all()
            if not found and place is not None:
                found = (await session.execute(query)).all()
        if len(found) == EVENTS_AT_ONCE:
            self._places[account] = Place(found[-1].created_ms, found[-1].id)
        return [(each.id, each.after or "") for each in found]

    async def _opened(self, event_id: str, after: str) -> _Unfinished | None:
        async with self._database.reading() as session:
            row = await session.get(EventRow, event_id)
        if row is None or row.after != after:
            return None
        return await asyncio.to_thread(self._read, row, after)

    def _read(self, row: EventRow, after: str) -> _Unfinished:
        told = self._sealer.unseal(row.event_sealed, f"event:{row.id}")
        event = json.loads(told)
        incoming = Incoming(
            *(row.id, row.user_id, event, told, row.depth, row.cause_id, row.created_ms)
        )
        return _Unfinished(incoming, after)

    async def _go_on(self, account: AccountId, unfinished: _Unfinished) -> bool:
        """Give one event to the next of its triggers; say whether it got further."""
        wishes = await self._wishes.of(account)
        for _ in range(TRIES):
            plan = await asyncio.to_thread(self._planned, account, unfinished, wishes, LOOK_S)
            work = partial(self._write, account, unfinished, plan, wishes)
            moved = await self._database.together(work, account)
            if moved is not None:
                break
            wishes = await self._wishes.of(account, unless=wishes)
        else:
            # Triggers of this account change all the time.
            work = partial(self._write, account, unfinished, None, wishes)
            moved = await self._database.together(work, account)
        step(Step.SERVER_EVENT_FANNED)
        return bool(moved)

    def _planned(
        self,
        account: AccountId,
        unfinished: _Unfinished,
        wishes: WishesOfAccount,
        look_s: float,
    ) -> Plan:
        look, after, incoming = Look(look_s), unfinished.after, unfinished.incoming
        most = min(MADE_AT_ONCE, MADE_BYTES // len(incoming.told))
        return self._planner.plan(account, incoming, wishes, look, most, after)

    def _write(
        self,
        account: AccountId,
        unfinished: _Unfinished,
        plan: Plan | None,
        wishes: WishesOfAccount,
        session: Session,
    ) -> bool | None:
        """Write what comes of a plan, and how far the event is then; returns whether it got
        further, or None: triggers are others by now than those that were gone by."""
        event_id, after = unfinished.incoming.id, unfinished.after
        row = EventRow
        mine = select(row.made).where(row.id == event_id, row.after == after)
        made = session.scalar(mine.with_for_update(skip_locked=True))
        if made is None:
            # Another server is at it, or was.
            return False
        if plan is None:
            wishes = self._wishes.within(session, account)
            plan = self._planned(account, unfinished, wishes, LOOK_WITHIN_S)
        elif edition_of(session, account) != wishes.edition:
            return None
        try:
            taken = self._taken(session, account, plan.made)
        except NotFound:
            return None
        reached = plan.after
        if taken < len(plan.made):
            reached = plan.made[taken - 1].trigger_id if taken else after
        if reached == after:
            return False
        session.execute(
            update(row)
            .where(row.id == event_id)
            .values(after=reached, made=made + taken)
            .execution_options(synchronize_session=False)
        )
        return True

    def _taken(self, session: Session, account: AccountId, made: tuple[Made, ...]) -> int:
        """Take invocations, one after the other if there is no room for all; returns how many were
        taken until there was none."""
        try:
            self._invocations.enter_all(session, account, [each.entry for each in made])
        except QueueFull:
            for number, each in enumerate(made):
                try:
                    self._invocations.enter_all(session, account, [each.entry])
                except (QueueFull, NotFound):
                    return number
        return len(made)
