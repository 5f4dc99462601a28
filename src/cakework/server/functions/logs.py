"""Logs of functions: whose the lines are, and the log of one invocation.

The log of a function is kept as one (``server/logs/file.py``); what is found out here is which
attempt each line is of. The log of an invocation is what its attempts printed, one after the other:
a place in it is the number of an attempt and, below, that of a line in its instance's log.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sqlalchemy import ColumnElement, and_, or_, select

from cakework.domain.errors import NotFound
from cakework.domain.ids import AccountId, InvocationId
from cakework.domain.invocations import FINAL
from cakework.server.functions.invocations import Invocations
from cakework.server.logs.lines import (
    Line,
    LineQuery,
    Order,
    Page,
    Source,
    function_source,
    vm_source,
)
from cakework.server.logs.search import Bounds
from cakework.server.logs.store import LogStore
from cakework.server.services.logs import (
    FOLLOW_BATCH,
    FOLLOWED,
    RETRY_AFTER_S,
    Logs,
    Quiet,
    in_time,
    vm_log_complete,
    within,
)
from cakework.server.store.database import Database
from cakework.server.store.function_models import AttemptRow, FunctionVmRow, InvocationRow
from cakework.server.store.models import VmRow
from cakework.turns import Crowded, Turns

PLACE_BITS = 40
READ_AT_ONCE = 4
WHOLE_S = 2.0
"""What a call waits at most for the last lines of an invocation that has ended."""
LOOK_S = 0.02
FOLLOW_LOOK_S = 1.0
VMS_A_QUERY = 100


@dataclass(frozen=True, slots=True)
class Whose:
    """Of which version a line is, and of which attempt, if that can be told."""

    version: int
    invocation_id: str | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """Lines, and whose each of them is."""

    lines: Sequence[Line]
    whose: Sequence[Whose]


@dataclass(frozen=True, slots=True)
class InvocationPage:
    """A page of an invocation's log, looked at up to ``place``; ``more``: there is more behind.

    ``whole``: the invocation has ended, and all that it printed was there to be found. It was taken
    at ``began_ms`` and last changed at ``ended_ms``.
    """

    told: Told
    place: int
    more: bool
    whole: bool = False
    began_ms: int = 0
    ended_ms: int = 0


@dataclass(frozen=True, slots=True)
class _Invocation:
    row: InvocationRow
    attempts: list[AttemptRow]
    whole: frozenset[int]
    """Attempts of which no more lines are to come."""

    @property
    def is_whole(self) -> bool:
        """Whether it has ended, and all its lines are there."""
        return self.row.state in FINAL and len(self.whole) == len(self.attempts)


class FunctionLogs:
    """Reads the logs of functions and of their invocations."""

    def __init__(
        self, database: Database, store: LogStore, logs: Logs, invocations: Invocations
    ) -> None:
        """Read lines from ``store``; who follows is counted by ``logs``."""
        self._database = database
        self._store = store
        self._logs = logs
        self._invocations = invocations
        self._turns: Turns[AccountId] = Turns(READ_AT_ONCE)

    async def page(
        self,
        account: AccountId,
        query: LineQuery,
        render: Callable[[Page, tuple[int, int] | None, Told], bytes],
    ) -> bytes:
        """Return what ``render`` makes of a page of a function's log, in a thread.

        Raises:
            QuotaExceeded: too many searches of the account are under way.
        """
        async with in_time():
            return await self._store.described(
                query, account, lambda page: self.told(page.lines), render
            )

    async def told(self, lines: Sequence[Line]) -> Told:
        """Return lines of a function's log, and whose they are."""
        spans: dict[str, tuple[int, int]] = {}
        for line in lines:
            low, high = spans.get(line.vm_id, (line.seq, line.seq))
            spans[line.vm_id] = min(low, line.seq), max(high, line.seq)
        attempts: dict[str, list[AttemptRow]] = {}
        versions: dict[str, int] = {}
        row = FunctionVmRow
        left = iter(spans.items())
        async with self._database.reading() as session:
            while some := list(islice(left, VMS_A_QUERY)):
                which = or_(*(_may_have(vm_id, *span) for vm_id, span in some))
                for attempt in await session.scalars(select(AttemptRow).where(which)):
                    attempts.setdefault(attempt.vm_id, []).append(attempt)
                vms = row.vm_id.in_([vm_id for vm_id, _ in some])
                found = await session.execute(select(row.vm_id, row.version).where(vms))
                versions |= {each.vm_id: each.version for each in found}
        whose = [
            _whose(attempt_of(line, attempts.get(line.vm_id, ())), versions.get(line.vm_id, 0))
            for line in lines
        ]
        return Told(lines, whose)

    async def page_of(
        self,
        account: AccountId,
        invocation_id: InvocationId,
        query: LineQuery,
        render: Callable[[InvocationPage], bytes],
    ) -> bytes:
        """Return what ``render`` makes of a page of an invocation's log, in a thread.

        Of one that has ended it waits a moment for its last lines.

        Raises:
            NotFound: the account has no such invocation.
            QuotaExceeded: too many searches of the account are under way.
        """
        await self._invocations.get(account, invocation_id)
        until = time.monotonic() + (WHOLE_S if query.after is None else 0)
        found = await self._found(invocation_id)
        while found.row.state in FINAL and not found.is_whole and time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
            found = await self._found(invocation_id)
        async with in_time(), self._turns.hold(account):
            page = await self._read(account, found, query)
            row = found.row
            told = replace(
                page, whole=found.is_whole, began_ms=row.created_ms, ended_ms=row.updated_ms
            )
            return await asyncio.to_thread(render, told)

    async def follow_of(
        self, account: AccountId, invocation_id: InvocationId, query: LineQuery
    ) -> AsyncGenerator[Told | Quiet]:
        """Yield the lines of an invocation, attempt by attempt, as they come.

        Ends when it has ended and all is told. Holds one batch at a time.

        Raises:
            QuotaExceeded: the account follows as many logs as it may.
        """
        query = replace(query, batch=FOLLOW_BATCH)
        source: Source = query.source
        quiet_since = time.monotonic()
        with self._logs.counted(account):
            while not self._logs.closing:
                with self._logs.followers.follow(source) as changed:
                    try:
                        found = await self._found(invocation_id)
                        page = await self._read(account, found, query, FOLLOWED, follows=True)
                    except NotFound:
                        return
                    except Crowded:
                        await asyncio.sleep(RETRY_AFTER_S)
                        continue
                    query = replace(query, after=page.place)
                    if page.told.lines:
                        quiet_since = time.monotonic()
                        yield page.told
                    at = _at(found.attempts, page.place)
                    follows = vm_source(at.vm_id) if at is not None else query.source
                    if page.more or page.told.lines or follows != source:
                        source = follows
                        continue
                    if found.is_whole:
                        return
                    await within(changed, FOLLOW_LOOK_S)
                if time.monotonic() - quiet_since >= self._logs.heartbeat_s:
                    quiet_since = time.monotonic()
                    yield "quiet"

    async def behind(
        self, account: AccountId, invocation_id: InvocationId, number: int
    ) -> int | None:
        """Return the place behind a line of an invocation by its number in the function's log;
        None if it is not there any more.

        Raises:
            NotFound: the account has no such invocation.
        """
        row = await self._invocations.get(account, invocation_id)
        query = LineQuery(function_source(row.function_id), first=number, last=number)
        told = await self.told((await self._store.page(query, account)).lines)
        for line, whose in zip(told.lines, told.whose, strict=True):
            if whose.invocation_id == invocation_id and whose.attempt is not None:
                return place_of(whose.attempt, line.seq)
        return None

    async def _found(self, invocation_id: str) -> _Invocation:
        """Return an invocation as it is, and of which of its attempts all lines are there.

        Raises:
            NotFound: it is not on record any more.
        """
        attempts = select(AttemptRow).where(AttemptRow.invocation_id == invocation_id)
        async with self._database.reading() as session:
            row = await session.get(InvocationRow, invocation_id)
            if row is None:
                raise NotFound(f"There is no invocation {invocation_id}.")
            rows = list(await session.scalars(attempts.order_by(AttemptRow.attempt)))
            vms = [each.vm_id for each in rows if each.last_line is None]
            going = select(VmRow.id).where(VmRow.id.in_(vms), ~vm_log_complete())
            printing = set(await session.scalars(going))
            logged = FunctionVmRow.vm_id.in_([each.vm_id for each in rows])
            kept = set(await session.scalars(select(FunctionVmRow.vm_id).where(logged)))
        whole: set[int] = set()
        for each in rows:
            if each.last_line is None:
                there = each.vm_id not in printing
            else:
                came = await self._store.last_seq(vm_source(each.vm_id))
                # Of a log that is not kept any more nothing is to come.
                there = came >= each.last_line or each.vm_id not in kept
            if there:
                whole.add(each.attempt)
        return _Invocation(row, rows, frozenset(whole))

    async def _read(
        self,
        account: AccountId,
        found: _Invocation,
        query: LineQuery,
        bounds: Bounds | None = None,
        *,
        follows: bool = False,
    ) -> InvocationPage:
        """Return a page, of as many attempts as one call looks at; with ``follows`` up to the first
        of which more lines are to come."""
        newest = query.order is Order.NEWEST_FIRST
        within_bounds = bounds or Bounds()
        ends = time.monotonic() + within_bounds.seconds
        attempts = _behind(found.attempts, query.after, newest=newest)
        lines: list[Line] = []
        whose: list[Whose] = []
        place, left = query.after or 0, within_bounds.chars
        for count, attempt in enumerate(attempts, 1):
            asked = replace(_lines_of(attempt, query), batch=query.batch - len(lines))
            page = await self._store.page(asked, account, replace(within_bounds, chars=left))
            told = await self.told([replace(line, vm_id=attempt.vm_id) for line in page.lines])
            own = Whose(attempt.version, attempt.invocation_id, attempt.attempt)
            pairs = zip(told.lines, told.whose, strict=True)
            lines += (mine := [line for line, each in pairs if _is_same(each, own)])
            whose += [own] * len(mine)
            left -= sum(len(line.text) for line in mine)
            more = page.more or count < len(attempts)
            through = 0 if newest and not page.more else page.through
            place = place_of(attempt.attempt, through)
            done = len(lines) >= query.batch or left <= 0 or time.monotonic() >= ends
            if page.more or done or (follows and attempt.attempt not in found.whole):
                more = page.more or (more and not follows)
                return InvocationPage(Told(lines, whose), place, more)
        return InvocationPage(Told(lines, whose), place, more=False)


def attempt_of(line: Line, attempts: Iterable[AttemptRow]) -> AttemptRow | None:
    """Return the attempt that printed a line, of those of its VM; None: none, or not to be told."""
    found = [each for each in attempts if _has(each, line)]
    if len(found) > 1:
        found = [a for a in found if not any(_precedes(b, a) for b in found if b is not a)]
    return found[0] if len(found) == 1 else None


def place_of(attempt: int, seq: int) -> int:
    """Return the place behind a line of an attempt."""
    return attempt << PLACE_BITS | seq


def _has(attempt: AttemptRow, line: Line) -> bool:
    if attempt.last_line is not None and line.seq > attempt.last_line:
        return False
    if attempt.first_line is not None:
        return line.seq > attempt.first_line
    return line.at_ms >= attempt.started_ms


def _precedes(one: AttemptRow, other: AttemptRow) -> bool:
    """Whether a line that either may have is rather that of ``one``: they ran one after the other,
    and it is not known where ``other`` ended, or began."""
    if one.ended_ms is not None and one.ended_ms <= other.started_ms:
        return one.last_line is not None and other.first_line is None
    if other.ended_ms is not None and other.ended_ms <= one.started_ms:
        return other.last_line is None
    return False


def _may_have(vm_id: str, low: int, high: int) -> ColumnElement[bool]:
    """Say in SQL which attempts may have printed one of some lines of a VM."""
    row = AttemptRow
    return and_(
        row.vm_id == vm_id,
        or_(row.first_line.is_(None), row.first_line < high),
        or_(row.last_line.is_(None), row.last_line >= low),
        or_(row.first_line.is_(None), row.last_line.is_(None), row.first_line < row.last_line),
    )


def _whose(attempt: AttemptRow | None, version: int) -> Whose:
    if attempt is None:
        return Whose(version)
    return Whose(attempt.version, attempt.invocation_id, attempt.attempt)


def _is_same(one: Whose, other: Whose) -> bool:
    return (one.invocation_id, one.attempt) == (other.invocation_id, other.attempt)


def _at(attempts: Sequence[AttemptRow], place: int) -> AttemptRow | None:
    """Return the attempt that a place is in; the first, if it is before all of them."""
    number = max(1, place >> PLACE_BITS)
    return next((each for each in attempts if each.attempt >= number), None)


def _behind(
    attempts: Sequence[AttemptRow], place: int | None, *, newest: bool
) -> Sequence[AttemptRow]:
    """Return the attempts that have lines behind a place, in the order asked for."""
    number = None if place is None else place >> PLACE_BITS
    if newest:
        return [each for each in reversed(attempts) if number is None or each.attempt <= number]
    return [each for each in attempts if number is None or each.attempt >= number]


def _lines_of(attempt: AttemptRow, query: LineQuery) -> LineQuery:
    """Return the query for lines of an attempt, which are in its instance's log."""
    number, seq = divmod(query.after or 0, 1 << PLACE_BITS)
    from_ms, first = query.from_ms, attempt.first_line
    if first is None:
        from_ms = max(from_ms or 0, attempt.started_ms)
    return replace(
        query,
        source=vm_source(attempt.vm_id),
        after=seq if query.after is not None and number == attempt.attempt else None,
        first=None if first is None else first + 1,
        last=attempt.last_line,
        from_ms=from_ms,
    )
