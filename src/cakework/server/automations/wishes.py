"""Wishes: what the event triggers of accounts want, ready to be compared with events.

What is kept of them is never gone by alone. It has an *edition*: how many triggers are active,
which of them is the newest, and the sum of when they were changed. Whoever goes by wishes looks in
its own transaction whether the store has the same edition, and reads them again if not. So whoever
changes a trigger has to give it a later ``updated_ms`` than it had.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select, true
from sqlalchemy.orm import Session

from cakework.domain.functions import RetryPolicy
from cakework.domain.ids import AccountId
from cakework.domain.patterns import BadPattern, Pattern, matches_type
from cakework.domain.triggers import EventConfig, TriggerType
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.database import Database

PATTERNS_MOST = 1_000
"""Filters that are kept compiled: one takes some tens of kilobytes at most."""
KEPT_BYTES = 64 << 20
"""Of wishes as they are written, of all accounts; those of one are kept whatever they take."""
READ_AT_ONCE = 1_000
LOOKS_BETWEEN = 16
"""Triggers that are looked at between looks at the clock."""
Edition = tuple[int, int, str]
_Row = Row[str, str, str, str, str | None, str | None, int, int]
Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """What one trigger wants, and of whom; and how what it makes is tried again."""

    id: str
    function_id: str
    user_id: str
    types: tuple[str, ...]
    source: str | None
    filter: str | None
    retry: RetryPolicy | None
    created_ms: int
    updated_ms: int

    @property
    def bytes(self) -> int:
        """How much it takes, about."""
        return 500 + len(self.filter or "") + 100 * len(self.types)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose wishes an event meets, in the order of their ids. ``after`` is the last trigger that
    was looked at, where others are left."""

    wishes: tuple[Wish, ...]
    after: str | None


class Look:
    """How long is looked: ``budget_s`` of a processor's time, from now on, on one thread."""

    def __init__(self, budget_s: float) -> None:
        self._until = time.thread_time() + budget_s
        self._count = 0
        self._over = False

    def is_over(self) -> bool:
        """Count one more trigger, and say whether it is not to be looked at."""
        self._count += 1
        if not self._over and self._count % LOOKS_BETWEEN == 0:
            self._over = time.thread_time() > self._until
        return self._over


@dataclass(frozen=True, slots=True)
class WishesOfAccount:
    """The wishes of an account, by user and type. ``edition`` is that of all of them."""

    edition: Edition
    bytes: int
    _all: Mapping[str, Wish] = field(repr=False)
    _exact: Mapping[tuple[str, str], Sequence[Wish]] = field(repr=False)
    _begins: Mapping[str, Sequence[Wish]] = field(repr=False)

    @classmethod
    def of(cls, wishes: Sequence[Wish]) -> "WishesOfAccount":
        """Return them, ready to be asked."""
        exact: dict[tuple[str, str], list[Wish]] = {}
        begins: dict[str, list[Wish]] = {}
        for wish in wishes:
            if any(each.endswith("*") for each in wish.types):
                begins.setdefault(wish.user_id, []).append(wish)
                continue
            for each in dict.fromkeys(wish.types):
                exact.setdefault((wish.user_id, each), []).append(wish)
        edition = len(wishes), sum(each.updated_ms for each in wishes), ""
        if wishes:
            edition = *edition[:2], max(each.id for each in wishes)
        whole = {each.id: each for each in wishes}
        return cls(edition, sum(each.bytes for each in wishes), whole, exact, begins)

    def get(self, trigger_id: str) -> Wish | None:
        """Return the wish of a trigger."""
        return self._all.get(trigger_id)

    def has(self, trigger_id: str, updated_ms: int) -> bool:
        """Return whether a trigger that was changed then is here."""
        wish = self._all.get(trigger_id)
        return wish is not None and wish.updated_ms == updated_ms

    def concerned(self, kind: str, user_id: str, after: str) -> list[Wish]:
        """Return whose wishes an event of a type may meet, and is theirs to see, in order."""
        users = dict.fromkeys(("", user_id))
        found = [wish for each in users for wish in self._exact.get((each, kind), ())]
        for each in users:
            for wish in self._begins.get(each, ()):
                if any(matches_type(asked, kind) for asked in wish.types):
                    found.append(wish)
        found = [wish for wish in found if wish.id > after] if after else found
        found.sort(key=lambda wish: wish.id)
        return found


NONE = WishesOfAccount.of([])
"""Those of an account without triggers."""


class Wishes:
    """The wishes of accounts."""

    def __init__(self, database: Database) -> None:
        """Read triggers from ``database``."""
        self._database = database
        self._kept: OrderedDict[AccountId, WishesOfAccount] = OrderedDict()
        self._compiled = lru_cache(PATTERNS_MOST)(compiled)

    async def of(
        self, account: AccountId, *, unless: WishesOfAccount | None = None
    ) -> WishesOfAccount:
        """Return the wishes of an account, as they were kept or else as they are; as they are where
        those that are kept are ``unless``."""
        kept = self._kept.get(account)
        if kept is None or kept is unless:
            known = kept or NONE
            found = await self._database.look(lambda session: _read(session, account, known))
            kept = await asyncio.to_thread(_renewed, known, *found)
            self._keep(account, kept)
        else:
            self._kept.move_to_end(account)
        return kept

    def within(self, session: Session, account: AccountId) -> WishesOfAccount:
        """Return the wishes of an account as a transaction finds them."""
        known = self._kept.get(account, NONE)
        return _renewed(known, *_read(session, account, known))

    def _keep(self, account: AccountId, wishes: WishesOfAccount) -> None:
        self._kept[account] = wishes
        self._kept.move_to_end(account)
        while len(self._kept) > 1 and sum(each.bytes for each in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)

    def wanted(
        self,
        event: Event,
        wishes: Iterable[Wish],
        look: Look,
        most: int,
        after: str = "",
    ) -> Wanted:
        """Return which of ``wishes`` an event meets, at most ``most`` of them; it takes time of a
        processor, up to what ``look`` allows."""
        found: list[Wish] = []
        verdicts: dict[str | None, bool] = {None: True}
        for wish in wishes:
            if len(found) == most or look.is_over():
                return Wanted(tuple(found), after)
            if wish.source is None or wish.source == event.get("source"):
                # Those that a platform makes for its users are often alike.
                if wish.filter not in verdicts:
                    verdicts[wish.filter] = self._takes(wish.filter or "", event)
                if verdicts[wish.filter]:
                    found.append(wish)
            after = wish.id
        return Wanted(tuple(found), None)

    def _takes(self, filter_: str, event: Event) -> bool:
        pattern = self._compiled(filter_)
        return pattern is not None and pattern.matches(event)


def edition_of(session: Session, account: AccountId) -> Edition:
    """Return the edition of an account's wishes, as the store has them."""
    row = TriggerRow
    query = select(func.count(), func.coalesce(func.sum(row.updated_ms), 0), func.max(row.id))
    count, changed, newest = session.execute(query.where(*_active(account))).one()
    return count, int(changed), newest or ""


def _active(account: AccountId) -> tuple[ColumnElement[bool], ...]:
    return (
        TriggerRow.account_id == account,
        TriggerRow.type == TriggerType.EVENT,
        TriggerRow.enabled == true(),
        TriggerRow.paused_reason.is_(None),
    )


def _read(
    session: Session, account: AccountId, known: WishesOfAccount
) -> tuple[Sequence[str], Sequence[_Row]]:
    """Return the ids of active triggers, and those of them that are not as they are known."""
    row = TriggerRow
    active = session.execute(select(row.id, row.updated_ms).where(*_active(account))).all()
    ids = [each.id for each in active]
    changed = [each.id for each in active if not known.has(each.id, each.updated_ms)]
    query = select(
        *(row.id, row.function_id, row.user_id, row.config, row.filter, row.retry),
        *(row.created_ms, row.updated_ms),
    ).where(*_active(account))
    rows: list[_Row] = []
    for start in range(0, len(changed), READ_AT_ONCE):
        some = row.id.in_(changed[start : start + READ_AT_ONCE])
        rows += session.execute(query.where(some)).all()
    return ids, rows


def _renewed(known: WishesOfAccount, ids: Sequence[str], rows: Sequence[_Row]) -> WishesOfAccount:
    """Return the wishes of triggers: those in ``rows`` as they are there, others as known."""
    read = {each.id: _wish(each) for each in rows}
    found = (read.get(each) or known.get(each) for each in ids)
    return WishesOfAccount.of([each for each in found if each is not None])


def _wish(row: _Row) -> Wish:
    config = EventConfig.model_validate_json(row.config)
    retry = None if row.retry is None else RetryPolicy.model_validate_json(row.retry)
    return Wish(
        *(row.id, row.function_id, row.user_id, config.types, config.source, row.filter),
        *(retry, row.created_ms, row.updated_ms),
    )


def compiled(text: str) -> Pattern | None:
    """Return a filter; None where it is none any more, and takes nothing."""
    try:
        return Pattern.compile(json.loads(text))
    except BadPattern:
        return None
