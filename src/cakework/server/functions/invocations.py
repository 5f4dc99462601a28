"""Invocations: taken, found, waited for, canceled, replayed; dead letters.

What is answered as taken is on record. The dispatch loop does the work; who waits here is told when
an invocation has ended, by this process at once, of another's work within a second.
"""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from pydantic_core import from_json
from sqlalchemy import ColumnElement, Table, case, func, insert, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session, defer

from cakework.domain.errors import Conflict, InvalidRequest, NoLiveVersion, NotFound, TooLarge
from cakework.domain.functions import (
    FunctionSettings,
    RetryPolicy,
    VersionState,
    policy_of,
)
from cakework.domain.ids import (
    ACCOUNT_ITSELF,
    AccountId,
    FunctionId,
    InvocationId,
    TriggerId,
    UserId,
    new_invocation_id,
)
from cakework.domain.invocations import (
    DEAD,
    FINAL,
    STARTABLE,
    InvocationState,
    Reason,
    handler_of,
)
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.server.clock import Clock
from cakework.server.functions.flow import Flow, lock
from cakework.server.functions.starts import Job, Starts
from cakework.server.functions.waiting import WaitingLimits
from cakework.server.store.database import Database
from cakework.server.store.function_models import (
    ROW_BYTES,
    AttemptRow,
    FunctionRow,
    InvocationRow,
    VersionRow,
)
from cakework.server.store.pages import Place, cut, newest_first
from cakework.server.store.sealing import SEAL_BYTES, Sealer
from cakework.server.store.together import after_commit
from cakework.server.store.values import not_before, storable

EVENT_BYTES_MAX = 1 << 20
DELAY_S_MAX = 90 * 86_400
DEPTH_MAX = 8
LOOK_S = 1.0
_TABLE = cast("Table", InvocationRow.__table__)
LOOKED_AT_ONCE = 500
WITHOUT_BYTES = (
    defer(InvocationRow.event_sealed, raiseload=True),
    defer(InvocationRow.result_sealed, raiseload=True),
)
"""How records are read to be looked at: what is large is asked for where it is wanted."""


@dataclass(frozen=True, slots=True)
class NewInvocation:
    """What is asked for. ``event`` is a CloudEvent, or the beginning of one; times in seconds.

    ``replay_of`` is settled with it, if that is a dead letter; ``if_dead``: only if it is one.
    ``trigger_id`` makes it, for the occurrence at ``scheduled_ms`` or the event ``event_id``, with
    ``retry`` in the place of the function's policy. It goes to the ``handler`` that is given, or to
    that of its trigger.
    """

    event: dict[str, Any]
    user_id: UserId = ACCOUNT_ITSELF
    trigger: str = "api"
    version: int | None = None
    delay_s: float = 0.0
    ttl_s: float | None = None
    max_attempts: int | None = None
    depth: int = 0
    replay_of: str | None = None
    if_dead: bool = False
    cause_id: str | None = None
    trigger_id: str | None = None
    scheduled_ms: int | None = None
    event_id: str | None = None
    retry: RetryPolicy | None = None
    handler: str | None = None


@dataclass(frozen=True, slots=True)
class InvocationFilter:
    """Which invocations to list; None takes all. Times are unix milliseconds."""

    function_id: FunctionId | None = None
    user_id: UserId | None = None
    state: InvocationState | None = None
    dead: bool = False
    reason: Reason | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    trigger_id: TriggerId | None = None
    event_id: str | None = None

    def of(self, account: AccountId) -> list[ColumnElement[bool]]:
        """Return what is true of those of ``account``."""
        given = [
            InvocationRow.account_id == account,
            *(
                column == storable(value)
                for column, value in (
                    (InvocationRow.function_id, self.function_id),
                    (InvocationRow.user_id, self.user_id),
                    (InvocationRow.state, self.state),
                    (InvocationRow.reason, self.reason),
                    (InvocationRow.trigger_id, self.trigger_id),
                    (InvocationRow.event_id, self.event_id),
                )
                if value is not None
            ),
        ]
        if self.dead:
            given += is_dead_letter()
        if self.from_ms is not None:
            given.append(InvocationRow.created_ms >= self.from_ms)
        if self.to_ms is not None:
            given.append(InvocationRow.created_ms < self.to_ms)
        return given


@dataclass(frozen=True, slots=True)
class Found:
    """An invocation with its attempts, its event and its result as JSON or bytes of a type.

    ``result`` is None where there is none, or where it has more bytes than were asked for; so is
    ``event``. ``max_attempts`` is None when its function is gone.
    """

    row: InvocationRow
    attempts: list[AttemptRow]
    event: bytes | None
    result: bytes | None
    max_attempts: int | None

    def up_to(self, bytes_max: int) -> "Found":
        """Return it without events and results of more than ``bytes_max`` bytes."""
        event, result = (
            each if each is not None and len(each) <= bytes_max else None
            for each in (self.event, self.result)
        )
        return replace(self, event=event, result=result)


@dataclass(frozen=True, slots=True)
class Entry:
    """An invocation that is to be taken: the columns of its record."""

    values: dict[str, Any] = field(repr=False)

    def row(self) -> InvocationRow:
        """Return its record, a new object each time."""
        return InvocationRow(**self.values)

    def as_loop(self) -> dict[str, Any]:
        """Return the columns of one that leads too deep."""
        ended = {"ended_ms": self.values["updated_ms"]}
        return {**self.values, "state": InvocationState.FAILED, "reason": Reason.LOOP, **ended}


OnEnd = Callable[[Session, Sequence[str]], None]
"""Told, within the transaction that writes it, which invocations have come to their ends."""


class Ending:
    """What is set when an invocation has ended; with ``found``, if this process settled it."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.found: Found | None = None
        self.waiting = 0


class Endings:
    """Who waits for the end of an invocation in this process."""

    def __init__(self) -> None:
        self._waiting: dict[str, Ending] = {}

    def tell(self, invocation_id: str, found: Found | None = None) -> None:
        """An invocation has ended; ``found`` is what it is then, with its last attempt."""
        if (ending := self._waiting.pop(invocation_id, None)) is not None:
            ending.found = found
            ending.told.set()

    @contextmanager
    def of(self, invocation_id: str) -> Generator[Ending]:
        """Give what is told when an invocation ends, while the block runs."""
        ending = self._waiting.setdefault(invocation_id, Ending())
        ending.waiting += 1
        try:
            yield ending
        finally:
            ending.waiting -= 1
            if not ending.waiting and self._waiting.get(invocation_id) is ending:
                del self._waiting[invocation_id]

    @property
    def ids(self) -> list[str]:
        """What is waited for."""
        return list(self._waiting)


class Invocations:
    """The invocations of accounts."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        starts: Starts,
        limits: WaitingLimits,
        flow: Flow,
        endings: Endings,
        clock: Clock,
        hint: Callable[[], None],
        begin: Callable[[Job], None],
    ) -> None:
        """Keep records in ``database``; ``hint`` says that there is work, ``begin`` that some was
        begun."""
        self._database = database
        self._sealer = sealer
        self._starts = starts
        self._limits = limits
        self._flow = flow
        self._begin = begin
        self._endings = endings
        self._clock = clock
        self._hint = hint
        self._looked = 0.0

    async def take(
        self,
        account: AccountId,
        function_id: FunctionId,
        new: NewInvocation,
        token: str | None = None,
    ) -> InvocationRow:
        """Take an invocation; it is durable when this returns its record.

        Raises:
            NotFound: the account has no such function, or the function no such version.
            NoLiveVersion: nothing of the function is live.
            TooLarge: the event.
            QueueFull: as many wait as may.
            Conflict: what was to be replayed if it is a dead letter is none (any more).
        """
        new_row = self.new_row(account, function_id, new, token)

        def work(session: Session) -> InvocationRow:
            made = _made_by(session, token)
            if made is not None:
                return made
            made = new_row()
            function = self._function(session, made)
            self._limits.check(session, made)
            if new.replay_of is not None:
                ids = [InvocationId(new.replay_of)]
                if not settle(session, account, ids, made.created_ms) and new.if_dead:
                    raise Conflict(f"{new.replay_of} is no dead letter.")
            return self._recorded(session, function, made)

        row = await self._database.together(work, account)
        step(Step.SERVER_INVOCATION_ACCEPTED)
        self._hint()
        return row

    def enter(
        self, session: Session, account: AccountId, function_id: FunctionId, new: NewInvocation
    ) -> InvocationRow:
        """Take an invocation within a transaction: it is durable when that commits.

        What leads too deep is taken as failed (``loop``). Where nothing of the function is live by
        the time it would begin, it fails (``version_failed``); both are dead letters then. By rules
        of flow control it may be skipped at once, or another be returned that has its event now.

        Raises:
            NotFound: the account has no such function.
            TooLarge, QueueFull: as :meth:`take` does. Nothing is written then.
        """
        row = self.new_row(account, function_id, new, None)()
        function = session.get(FunctionRow, function_id)
        if function is None or function.account_id != account:
            raise NotFound(f"There is no function {function_id}.")
        if row.depth > DEPTH_MAX:
            row.state, row.reason = InvocationState.FAILED, Reason.LOOP
            row.ended_ms = row.updated_ms
            self._limits.check_bytes(session, row)
            session.add(row)
            return row
        self._limits.check(session, row)
        after_commit(session, self._hint)
        return self._recorded(session, function, row)

    def pass_over(
        self,
        session: Session,
        account: AccountId,
        function_id: FunctionId,
        new: NewInvocation,
        why: Reason,
    ) -> InvocationRow:
        """Record, within a transaction, an invocation that is not to be done (``skipped``).

        Raises:
            TooLarge: the event.
            QueueFull: the account's records take as much as they may. Nothing is written then.
        """
        row = self.new_row(account, function_id, new, None)()
        row.state, row.reason = InvocationState.SKIPPED, why
        row.ended_ms = row.updated_ms
        self._limits.check_bytes(session, row)
        session.add(row)
        return row

    def enter_all(
        self, session: Session, account: AccountId, entries: Sequence[Entry]
    ) -> dict[str, InvocationId]:
        """Take invocations within a transaction as :meth:`enter` does, all of them or none: these
        are written when this returns, so whoever raises after it has to take them back.

        Returns which others have the events of those that are none by themselves, by their ids.
        """
        parts: dict[str, InvocationId] = {}
        functions = _functions_of(session, account, entries)
        deep = [each for each in entries if each.values["depth"] > DEPTH_MAX]
        waiting = [each.values for each in entries if each.values["depth"] <= DEPTH_MAX]
        for each in deep:
            self._limits.check_bytes(session, each.row())
        counts = Counter[str](values["function_id"] for values in waiting)
        size = sum(values["kept_bytes"] for values in waiting)
        self._limits.check_all(session, account, counts, size)
        if entries:
            limited = self._flow.limited(session, functions, waiting)
            # Not as objects, of which each costs as much as several rows.
            plain = [values for values in waiting if values["id"] not in limited]
            written = [*plain, *(each.as_loop() for each in deep)]
            if written:
                session.execute(insert(_TABLE), written)
            for values in waiting:
                if values["id"] in limited:
                    function = functions[values["function_id"]]
                    told = self._recorded(session, function, InvocationRow(**values))
                    if told.id != values["id"]:
                        parts[values["id"]] = InvocationId(told.id)
            session.flush()
        if waiting:
            after_commit(session, self._hint)
        return parts

    def limited(self, session: Session, account: AccountId, entries: Sequence[Entry]) -> set[str]:
        """Return the ids of those that have rules to pass, which takes many times as long to write.

        Raises:
            NotFound: the function of one is gone.
        """
        functions = _functions_of(session, account, entries)
        return self._flow.limited(session, functions, [each.values for each in entries])

    async def call(
        self,
        account: AccountId,
        function_id: FunctionId,
        new: NewInvocation,
        token: str | None,
        wait_s: float,
    ) -> Found:
        """Take an invocation and wait for its end; returns it then, or as it is after ``wait_s``.

        Where an instance is free for it, and nothing waits before it, it is begun with the
        transaction that records it. Raises what :meth:`take` does.
        """
        new_row = self.new_row(account, function_id, new, token)

        def work(session: Session) -> tuple[InvocationRow, Job | None]:
            made = _made_by(session, token)
            if made is not None:
                return made, None
            made = new_row()
            function = self._function(session, made)
            self._limits.check_bytes(session, made)
            limited = self._flow.has_rules(session, function, made)
            if limited:
                self._limits.check_waiting(session, made)
                told = self._flow.admit(session, function, made)
                if told is not made:
                    return told, None
            job = None
            if made.ended_ms is None:
                job = self._starts.of_new(session, function, made)
            if job is None:
                if not limited:
                    self._limits.check_waiting(session, made)
                session.add(made)
            return made, job

        row, job = await self._database.together(work, account)
        step(Step.SERVER_INVOCATION_ACCEPTED)
        with self._endings.of(row.id) as ending:
            if job is not None:
                step(Step.SERVER_INVOCATION_CLAIMED)
                self._begin(job)
            else:
                self._hint()
            if row.state not in FINAL:
                await _within(ending.told, min(wait_s, LOOK_S))
        if ending.found is not None and ending.found.row.attempt == 1:
            return ending.found
        ended = await self.wait(account, InvocationId(row.id), max(0.0, wait_s - LOOK_S))
        (found,) = await self.found([ended])
        return found

    def _recorded(
        self, session: Session, function: FunctionRow, row: InvocationRow
    ) -> InvocationRow:
        """Record an invocation as its rules have it; return it, or the one it is part of."""
        told = self._flow.admit(session, function, row)
        if told is row:
            session.add(row)
        return told

    def new_row(
        self,
        account: AccountId,
        function_id: FunctionId,
        new: NewInvocation,
        token: str | None,
    ) -> Callable[[], InvocationRow]:
        """Return what makes the row of an invocation: a new object of the same each time."""
        return self.entry(account, function_id, new, token).row

    def entry(
        self,
        account: AccountId,
        function_id: FunctionId,
        new: NewInvocation,
        token: str | None = None,
        event: bytes | None = None,
    ) -> Entry:
        """Return an invocation that is to be taken. ``event`` is its event as JSON, where that is
        whole already.

        Raises:
            InvalidRequest, TooLarge: the event.
        """
        invocation_id, now = new_invocation_id(), self._clock()
        if event is None:
            event = _told(whole_event(new.event, invocation_id, function_id, now))
        if len(event) > EVENT_BYTES_MAX:
            raise TooLarge(f"The event has {len(event)} bytes, and {EVENT_BYTES_MAX} are allowed.")
        sealed = self._sealer.seal(event, f"event:{invocation_id}")
        weight = ROW_BYTES + len(sealed)
        values: dict[str, Any] = {
            "id": invocation_id,
            "account_id": account,
            "function_id": function_id,
            "user_id": new.user_id,
            "trigger": new.trigger,
            "kind": "queued",
            "state": InvocationState.QUEUED,
            "version": new.version,
            "pinned": new.version is not None,
            "attempt": 0,
            "unreached": 0,
            "max_attempts": new.max_attempts,
            "event_sealed": sealed,
            "event_bytes": len(event),
            "kept_bytes": weight,
            "cancel": False,
            "next_ms": now + round(new.delay_s * 1000),
            "ttl_ms": None if new.ttl_s is None else now + round(new.ttl_s * 1000),
            "depth": new.depth,
            "replay_of": new.replay_of,
            "cause_id": new.cause_id,
            "trigger_id": new.trigger_id,
            "scheduled_ms": new.scheduled_ms,
            "event_id": new.event_id,
            "retry": None if new.retry is None else new.retry.model_dump_json(by_alias=True),
            "handler": new.handler,
            "request_token": token,
            "created_ms": now,
            "updated_ms": now,
        }
        return Entry(values)

    async def get(self, account: AccountId, invocation_id: InvocationId) -> InvocationRow:
        """Return an invocation of the account, without its bytes. Raises NotFound."""
        async with self._database.reading() as session:
            row = await session.get(InvocationRow, invocation_id, options=WITHOUT_BYTES)
        if row is None or row.account_id != account:
            raise NotFound(f"There is no invocation {invocation_id}.")
        return row

    async def found(
        self, rows: Sequence[InvocationRow], bytes_max: int | None = None
    ) -> list[Found]:
        """Return what belongs to the records of invocations: of events and results only those of
        at most ``bytes_max`` bytes, None for all."""
        ids, functions = [row.id for row in rows], {row.function_id for row in rows}
        query = select(AttemptRow).where(AttemptRow.invocation_id.in_(ids))
        policies = select(FunctionRow.id, FunctionRow.settings).where(FunctionRow.id.in_(functions))
        sealed = select(
            InvocationRow.id,
            _short(InvocationRow.event_sealed, bytes_max),
            _short(InvocationRow.result_sealed, bytes_max),
        ).where(InvocationRow.id.in_(ids))
        async with self._database.reading() as session:
            attempts = list(await session.scalars(query.order_by(AttemptRow.attempt)))
            told = {each.id: each.settings for each in (await session.execute(policies)).all()}
            kept = {each[0]: each[1:] for each in (await session.execute(sealed)).all()}
        policies_of = {
            each: FunctionSettings.model_validate_json(settings).retry
            for each, settings in told.items()
        }
        of: dict[str, list[AttemptRow]] = {each: [] for each in ids}
        for attempt in attempts:
            of[attempt.invocation_id].append(attempt)
        found: list[Found] = []
        for row in rows:
            event, result = kept.get(row.id, (None, None))
            found.append(
                Found(
                    row,
                    of[row.id],
                    self._opened(event, f"event:{row.id}"),
                    self._opened(result, f"result:{row.id}"),
                    _most_attempts(row, policies_of),
                )
            )
        return found

    def _opened(self, sealed: bytes | None, name: str) -> bytes | None:
        return None if sealed is None else self._sealer.unseal(sealed, name)

    def event(self, row: InvocationRow) -> bytes:
        """Return the event of an invocation, read whole, as JSON."""
        return self._sealer.unseal(row.event_sealed, f"event:{row.id}")

    async def wait(
        self, account: AccountId, invocation_id: InvocationId, wait_s: float
    ) -> InvocationRow:
        """Return an invocation when it has ended, or as it is after ``wait_s``. Raises NotFound."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            with self._endings.of(invocation_id) as ending:
                row = await self.get(account, invocation_id)
                if row.state in FINAL or loop.time() >= until:
                    return row
                while not ending.told.is_set() and (left_s := until - loop.time()) > 0:
                    try:
                        async with asyncio.timeout(min(left_s, LOOK_S)):
                            await ending.told.wait()
                    except TimeoutError:
                        await self._look()

    async def _look(self) -> None:
        """Look which invocations have ended that are waited for, for all who wait: whoever asks
        first, since another process may have settled them."""
        now = asyncio.get_running_loop().time()
        if now < self._looked + LOOK_S / 2:
            return
        self._looked, ids = now, self._endings.ids
        for start in range(0, len(ids), LOOKED_AT_ONCE):
            some = ids[start : start + LOOKED_AT_ONCE]
            goes_on = select(InvocationRow.id).where(
                InvocationRow.id.in_(some), InvocationRow.state.not_in(FINAL)
            )
            async with self._database.reading() as session:
                waits = set(await session.scalars(goes_on))
            for each in some:
                if each not in waits:
                    self._endings.tell(each)

    async def page(
        self, account: AccountId, wanted: InvocationFilter, after: Place | None
    ) -> tuple[list[InvocationRow], Place | None]:
        """Return up to 100 invocations, newest first, and the place where the next page goes on."""
        query = select(InvocationRow).where(*wanted.of(account)).options(*WITHOUT_BYTES)
        query = newest_first(query, InvocationRow.created_ms, InvocationRow.id, after)
        async with self._database.reading() as session:
            rows = list(await session.scalars(query))
        return cut(rows, lambda row: Place(row.created_ms, row.id))

    async def cancel(self, account: AccountId, invocation_id: InvocationId) -> InvocationRow:
        """Have an invocation given up; one that has ended stays as it is. Raises NotFound."""
        limited = (await self.get(account, invocation_id)).limited
        now = self._clock()
        changed = not_before(InvocationRow.updated_ms, now)
        which = InvocationRow.id == invocation_id
        async with self._database.writing() as session:
            if limited:
                await session.run_sync(lock)
            gone = await session.execute(
                update(InvocationRow)
                .where(which, InvocationRow.state.in_(STARTABLE))
                .values(
                    state=InvocationState.CANCELED,
                    reason=Reason.CANCELED_BY_CALLER,
                    ended_ms=now,
                    updated_ms=changed,
                )
                .returning(InvocationRow.id)
            )
            if gone.first() is None:
                await session.execute(
                    update(InvocationRow)
                    .where(which, InvocationRow.state == InvocationState.RUNNING)
                    .values(cancel=True, updated_ms=changed)
                )
            elif limited:
                await session.run_sync(lambda session: self._flow.ended(session, [invocation_id]))
        self._endings.tell(invocation_id)
        self._hint()
        return await self.get(account, invocation_id)

    async def replay(
        self,
        account: AccountId,
        invocation_id: InvocationId,
        version: int | None,
        event: dict[str, Any] | None,
        token: str | None = None,
    ) -> InvocationRow:
        """Take an invocation again, as a new one; of a dead letter that settles the old one.

        Raises what :meth:`take` does; Conflict: it has not ended.
        """
        row = await self.get(account, invocation_id)
        if row.kind == "direct":
            raise Conflict("A request to the function's URL is not kept, and cannot be repeated.")
        if row.state not in FINAL:
            raise Conflict("The invocation has not ended; cancel it first.")
        if event is None:
            (found,) = await self.found([row])
            event = json.loads(found.event or b"{}")
        again = NewInvocation(
            event or {},
            UserId(row.user_id),
            "replay",
            version,
            depth=row.depth,
            replay_of=row.id,
            retry=None if row.retry is None else policy_of(row.retry, RetryPolicy()),
            handler=handler_of(row.trigger, row.handler),
        )
        return await self.take(account, FunctionId(row.function_id), again, token)

    def _function(self, session: Session, row: InvocationRow) -> FunctionRow:
        """Return the function of an invocation that is to be recorded."""
        function = session.get(FunctionRow, row.function_id)
        if function is None or function.account_id != row.account_id:
            raise NotFound(f"There is no function {row.function_id}.")
        if row.version is not None:
            version = session.get(VersionRow, (row.function_id, row.version))
            if version is None or version.state != VersionState.READY:
                raise NotFound(
                    f"There is no version {row.version} of {row.function_id} that is ready."
                )
            if version.shelved:
                raise Conflict(
                    f"Of version {row.version} the source alone is kept; promote it first."
                )
        elif function.live_version is None:
            raise NoLiveVersion(
                "Nothing of this function is live yet; deploy it, or promote a version."
            )
        return function


def without_bytes(session: Session, ids: Sequence[str]) -> list[Found]:
    """Return invocations as a transaction has left them, with neither events nor results."""
    rows = session.scalars(
        select(InvocationRow).where(InvocationRow.id.in_(ids)).options(*WITHOUT_BYTES)
    ).all()
    of: dict[str, list[AttemptRow]] = {each: [] for each in ids}
    attempts = select(AttemptRow).where(AttemptRow.invocation_id.in_(ids))
    for attempt in session.scalars(attempts.order_by(AttemptRow.attempt)):
        of[attempt.invocation_id].append(attempt)
    functions = {row.function_id for row in rows}
    policies = select(FunctionRow.id, FunctionRow.settings).where(FunctionRow.id.in_(functions))
    policies_of = {
        each: FunctionSettings.model_validate_json(settings).retry
        for each, settings in session.execute(policies)
    }
    return [Found(row, of[row.id], None, None, _most_attempts(row, policies_of)) for row in rows]


def most_attempts(row: InvocationRow, of_function: RetryPolicy) -> int:
    """Return how many attempts an invocation has at most, by its function's policy."""
    return row.max_attempts or policy_of(row.retry, of_function).max_attempts


def _most_attempts(row: InvocationRow, policies: dict[str, RetryPolicy]) -> int | None:
    """Return how many attempts there are at most; None where the function, or its policy, is
    gone."""
    policy = policies.get(row.function_id)
    return row.max_attempts if policy is None else most_attempts(row, policy)


def is_dead_letter() -> list[ColumnElement[bool]]:
    """Return what is true of a dead letter."""
    return [
        InvocationRow.kind == "queued",
        InvocationRow.state.in_(DEAD),
        InvocationRow.settled_ms.is_(None),
    ]


def settle(session: Session, account: AccountId, ids: Sequence[InvocationId], now_ms: int) -> int:
    """Take dead letters off their list; returns how many there were."""
    settled = session.execute(
        update(InvocationRow)
        .where(InvocationRow.account_id == account, InvocationRow.id.in_(ids), *is_dead_letter())
        .values(settled_ms=now_ms, replay_ms=None)
        .returning(InvocationRow.id)
    )
    return len(settled.all())


async def _within(told: asyncio.Event, wait_s: float) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await told.wait()
    except TimeoutError:
        return


def _short(
    column: InstrumentedAttribute[bytes] | InstrumentedAttribute[bytes | None],
    bytes_max: int | None,
) -> ColumnElement[bytes | None]:
    """Return what is sealed in ``column`` where that has at most ``bytes_max`` bytes, else None."""
    if bytes_max is None:
        return cast("ColumnElement[bytes | None]", column)
    return case((func.length(column) <= bytes_max + SEAL_BYTES, column), else_=None)


def _functions_of(
    session: Session, account: AccountId, entries: Sequence[Entry]
) -> dict[str, FunctionRow]:
    """Return the functions of some invocations by their ids. Raises NotFound: one is gone."""
    wanted = {each.values["function_id"] for each in entries}
    there = select(FunctionRow)
    there = there.where(FunctionRow.id.in_(wanted), FunctionRow.account_id == account)
    functions = {row.id: row for row in session.scalars(there)}
    for function_id in wanted - functions.keys():
        raise NotFound(f"There is no function {function_id}.")
    return functions


def _made_by(session: Session, token: str | None) -> InvocationRow | None:
    """Return what an idempotent request has made."""
    if token is None:
        return None
    return session.scalar(select(InvocationRow).where(InvocationRow.request_token == token))


def _told(event: dict[str, Any]) -> bytes:
    """Return an event as JSON that every reader of ours takes."""
    try:
        told = json.dumps(event, allow_nan=False).encode()
        from_json(told)
    except (RecursionError, ValueError) as error:
        raise InvalidRequest("The event is nested too deeply, or is no JSON.") from error
    return told


def whole_event(
    event: dict[str, Any], invocation_id: str, function_id: str, now_ms: int
) -> dict[str, Any]:
    """Return a CloudEvent: what is given, and what it lacks."""
    if "data" in event and "data_base64" in event:
        raise InvalidRequest("An event has `data` or `data_base64`, and not both.")
    if "data_base64" in event:
        try:
            base64.b64decode(event["data_base64"], validate=True)
        except (ValueError, TypeError) as error:
            raise InvalidRequest("The event's `data_base64` is not base64.") from error
    return {
        "specversion": "1.0",
        "id": invocation_id,
        "source": f"/functions/{function_id}",
        "type": "cakework.invoke",
        "time": datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        **event,
    }
