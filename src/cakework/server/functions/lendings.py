"""Instances lent to routers, for requests to functions' URLs (direct work).

    free, or started for it ──▶ lent ──▶ given back ──▶ free
                                 └─────▶ not held any more, worn ──▶ ended

An instance that is lent is its router's, with all its places: the row says whose and until when,
and no other work takes it. One that its router does not say in time that it still holds is ended,
and what ran in it is on record as interrupted: so it is never in two hands, whoever was killed.
See docs/decisions/0016.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import structlog
from sqlalchemy import case, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cakework.domain import routes as wire
from cakework.domain.direct import GONE_MS, LEASE_MS, WAIT_S
from cakework.domain.errors import (
    CakeworkError,
    NoRoom,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from cakework.domain.functions import (
    FunctionSettings,
    HttpSettings,
    Isolation,
    VersionState,
    isolation_of,
)
from cakework.domain.ids import VmId
from cakework.domain.invocations import STARTABLE, Reason, reason_of
from cakework.domain.vms import EndCause
from cakework.server.clock import Clock
from cakework.server.functions.adapter import PORT
from cakework.server.functions.functions import Functions
from cakework.server.functions.instances import (
    CRASH_TOLD_S,
    SERVED_MAX,
    Instances,
    Wanted,
    gone_of,
)
from cakework.server.functions.secrets import Sees, view_of, views_of
from cakework.server.functions.starts import sees_for, wanted_by
from cakework.server.functions.visits import Visits
from cakework.server.services.keys import Keys
from cakework.server.store.database import Database
from cakework.server.store.function_models import (
    FunctionRow,
    InstanceRow,
    InstanceState,
    InvocationRow,
    VersionRow,
)
from cakework.turns import Turns

STARTS_AT_ONCE = 16
START_MS = 120_000
"""For which one is a router's that is being started for it."""
LOOKED_FOR_AT_ONCE = 200
LOOK_S = 0.1
"""How often it is looked whether other work has left a place for a request that waits."""
NOT_NOW_S = 0.25
"""Until an instance is tried again whose snapshot is not there yet."""
CLOSE_S = 5.0
TOLD_S = 0.25
"""How long an instance is not lent for what its router told before: what it gave back may be the
one, and is there sooner than another that would be started."""
HTTP = ("http",)
ROUTERS_MAX = 100
"""Of which it is remembered what they told last."""
_PREVIEW = re.compile(r"([0-9a-z]{1,60})-v([1-9][0-9]{0,8})")
_log = structlog.stdlib.get_logger(__name__)


class Refusal(Exception):
    """No instance is lent: a code of the function's URL, and why."""

    def __init__(self, code: str, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class _Waiters:
    """Who waits for an instance of one function: each looks in its turn, when there may be one."""

    count: int = 0
    maybe: asyncio.Event = field(default_factory=asyncio.Event)
    look: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is lent: an instance that fits, by a function's settings of now."""

    function: FunctionRow
    settings: FunctionSettings
    wanted: Wanted


class Lendings:
    """Lends instances to the routers that are connected, and has their account of them kept."""

    def __init__(
        self,
        database: Database,
        functions: Functions,
        instances: Instances,
        visits: Visits,
        keys: Keys,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """Keep records in ``database``; ``hint`` says that places are free for other work."""
        self._database = database
        self._functions = functions
        self._instances = instances
        self._visits = visits
        self._keys = keys
        self._clock = clock
        self._hint = hint
        self._borrowers: set[Borrower] = set()
        self._starts: Turns[str] = Turns(STARTS_AT_ONCE)
        self._waiters: dict[str, _Waiters] = {}
        self._watching: asyncio.Task[None] | None = None
        self._looked_for: dict[str, asyncio.Future[FunctionRow | None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._settings: dict[str, tuple[int, FunctionSettings]] = {}
        self._noted: dict[str, int] = {}
        self._closing = False

    def borrower(self, tell: Callable[[wire.Message], None]) -> "Borrower":
        """Return what one router's connection asks here; ``tell`` tells it something."""
        borrower = Borrower(self, tell)
        self._borrowers.add(borrower)
        return borrower

    def left(self, borrower: "Borrower") -> None:
        """Take note that a connection is over: its router may be gone, or be back in a moment."""
        self._borrowers.discard(borrower)
        if borrower.router:
            self._spawn(self._shorten(borrower.router))

    async def close(self) -> None:
        """Give up what is under way. Leases stay, for the next process to go on with."""
        self._closing = True
        for waits in self._waiters.values():
            waits.maybe.set()
        tasks = [task for task in (self._watching, self._looking, *self._ending) if task]
        if tasks:
            # What is being written is written to its end.
            await asyncio.wait(tasks, timeout=CLOSE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def changed(self, function_id: str) -> None:
        """Have every router look at a function anew, and give its instances back."""
        self._tell_all(wire.Recall(function_id=function_id))
        self._may_be(function_id)

    async def one_pass(self) -> None:
        """End what nobody holds any more; have given back what is not to serve any longer."""
        await self.to_its_end(self._look_after())

    async def _look_after(self) -> None:
        now = self._clock()
        async with self._database.reading() as session:
            expired = list(
                await session.scalars(
                    select(InstanceRow.vm_id).where(InstanceRow.leased_until_ms < now)
                )
            )
            canceled = await self._visits.canceled(session)
        if expired:
            _log.warning("lending.lost", vm_ids=expired)
            await self._lose(expired)
        for invocation_id in canceled:
            self._tell_all(wire.Cut(invocation_id=invocation_id))
        await self._recall_old(now)
        async with self._database.writing() as session:
            await self._visits.interrupt_lost(session, now)

    async def find(self, host: str) -> FunctionRow | None:
        """Return the function behind a hostname. Whoever asks meanwhile is served by one query."""
        found = self._looked_for.get(host)
        if found is None:
            found = self._looked_for[host] = asyncio.get_running_loop().create_future()
            if self._looking is None:
                self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(found)

    async def lend(
        self,
        borrower: "Borrower",
        function_id: str,
        version: int | None = None,
        handlers: Sequence[str] = HTTP,
    ) -> wire.Lent:
        """Lend an instance of what is live, or of a version, started if there is none and may be.

        It has one of ``handlers``.

        Raises:
            Refusal: there is none to be had, within ``WAIT_S`` at most.
        """
        waits = self._waiters.setdefault(function_id, _Waiters())
        waits.count += 1
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(WAIT_S):
                while not (self._closing or borrower.closed):
                    waits.maybe.clear()
                    wished = function_id, version, handlers
                    lent = await self._try(borrower.router, wished, waits)
                    if lent is not None:
                        return lent
                    await waits.maybe.wait()
        except TimeoutError as error:
            detail = "As many of the function's instances as may be are busy; try again."
            raise Refusal("concurrency_exceeded", detail, 1) from error
        finally:
            waits.count -= 1
            if not waits.count:
                del self._waiters[function_id]
        raise Refusal("unavailable", "The server is ending.", 1)

    async def hold(
        self, router: str, vm_ids: list[str], *, first: bool
    ) -> tuple[list[str], list[str]]:
        """Have a router keep what it holds; return which of it is not lent to it, and of which the
        VM has ended.

        ``first``, on a connection: whatever else is lent to it never reached it.
        """
        now = self._clock()
        lost: list[str] = []
        theirs = InstanceRow.leased_by == router
        async with self._database.writing() as session:
            kept = set(
                await session.scalars(
                    update(InstanceRow)
                    .where(theirs, InstanceRow.vm_id.in_(vm_ids))
                    .values(leased_until_ms=now + LEASE_MS)
                    .returning(InstanceRow.vm_id)
                )
            )
            gone = await gone_of(session, kept)
            if first:
                unknown = select(InstanceRow.vm_id).where(theirs, InstanceRow.vm_id.not_in(kept))
                lost = list(await session.scalars(unknown))
        if lost:
            await self._lose(lost)
        return [vm_id for vm_id in vm_ids if vm_id not in kept], sorted(gone)

    async def note(self, work: wire.Work) -> None:
        """Write down what has become of requests, and take back what is given back."""
        now = self._clock()
        # Told again, it may have been lent once more to the same router since.
        returned = work.returned if work.number > self._noted.get(work.router, -1) else []
        worn = {each.vm_id for each in returned if not each.again}
        # Why a VM ended is known when it has.
        visits = await self._visits.told(work.visits)
        crashed = [v for v in visits if v.reason == Reason.CRASH and v.vm_id in worn]
        noted = [visit for visit in visits if visit not in crashed]
        ended: list[str] = []
        freed: set[str] = set()
        async with self._database.writing() as session:
            await self._visits.note(session, noted)
            for each in returned:
                row = await self._take_back(session, work.router, each, now)
                if row is None:
                    continue
                freed.add(row.function_id)
                if row.state == InstanceState.DRAINING:
                    ended.append(row.vm_id)
        self._noted[work.router] = max(work.number, self._noted.pop(work.router, -1))
        if len(self._noted) > ROUTERS_MAX:
            del self._noted[next(iter(self._noted))]
        for vm_id in ended:
            theirs = [visit for visit in crashed if visit.vm_id == vm_id]
            crashed = [visit for visit in crashed if visit.vm_id != vm_id]
            self._spawn(self._end(VmId(vm_id), theirs))
        if crashed:
            async with self._database.writing() as session:
                await self._visits.note(session, crashed)
        for function_id in freed:
            self._may_be(function_id)
        if freed:
            self._hint()

    async def is_key_of(self, account_id: str, key: str) -> bool:
        """Say whether an API key is one of an account's."""
        try:
            return await self._keys.verify(key) == account_id
        except Unauthenticated:
            return False

    async def _look(self) -> None:
        try:
            while self._looked_for:
                hosts = list(islice(self._looked_for, LOOKED_FOR_AT_ONCE))
                asked = {host: self._looked_for.pop(host) for host in hosts}
                try:
                    query = select(FunctionRow).where(FunctionRow.hostname.in_(hosts))
                    async with self._database.reading() as session:
                        rows = {row.hostname: row for row in await session.scalars(query)}
                except Exception as error:
                    for found in asked.values():
                        found.set_exception(error)
                        # Whoever asked may have left.
                        found.exception()
                    continue
                for host, found in asked.items():
                    found.set_result(rows.get(host))
        finally:
            self._looking = None

    async def _watch(self) -> None:
        """Wake those who wait when there may be something for them."""
        try:
            while self._waiters:
                await asyncio.sleep(LOOK_S)
                try:
                    await self._wake_some()
                except Exception:
                    _log.exception("lending.look_failed")
        finally:
            self._watching = None

    async def _wake_some(self) -> None:
        free = func.sum(case((InstanceRow.state == InstanceState.IDLE, 1), else_=0))
        query = (
            select(InstanceRow.function_id, func.count(), free)
            .where(
                InstanceRow.function_id.in_(list(self._waiters)),
                InstanceRow.state != InstanceState.DRAINING,
            )
            .group_by(InstanceRow.function_id)
        )
        async with self._database.reading() as session:
            found = {each: (count, idle) for each, count, idle in await session.execute(query)}
            functions = list(
                await session.scalars(
                    select(FunctionRow).where(FunctionRow.id.in_(list(self._waiters)))
                )
            )
        most = {row.id: self._functions.settings(row).max_instances for row in functions}
        for function_id in list(self._waiters):
            count, idle = found.get(function_id, (0, 0))
            if idle or count < most.get(function_id, count + 1):
                self._may_be(function_id)

    def _may_be(self, function_id: str) -> None:
        if (waits := self._waiters.get(function_id)) is not None:
            waits.maybe.set()

    async def _try(
        self, router: str, wished: tuple[str, int | None, Sequence[str]], waits: _Waiters
    ) -> wire.Lent | None:
        """Lend what is there, or start one; None: there is none, and there may be no more."""
        function_id = wished[0]
        async with waits.look, self._database.writing() as session:
            wish = await self._wish(session, *wished)
            row = await self._take(session, router, wish)
            started = row is None
            if row is None:
                count = await session.run_sync(
                    lambda session: self._instances.count(session, function_id)
                )
                if count >= wish.settings.max_instances:
                    return None
                row = await session.run_sync(
                    lambda session: self._instances.reserve(session, wish.wanted)
                )
                row.leased_by, row.running = router, wish.wanted.concurrency
                # Nobody says of it that it is held before it is lent.
                row.leased_until_ms = self._clock() + START_MS
        if started:
            try:
                await self._have_started(row, router, wish)
            except NoRoom as error:
                raise Refusal("no_room", error.detail, 1) from error
            except QuotaExceeded as error:
                raise Refusal("quota_exceeded", error.detail, error.retry_after_s) from error
            except Unavailable as error:
                raise Refusal("unavailable", error.detail, 1) from error
            except CakeworkError as error:
                _log.warning("instance.not_started", function_id=function_id, detail=error.detail)
                await asyncio.sleep(NOT_NOW_S)
                waits.maybe.set()
                return None
        alone = wish.wanted.isolation is Isolation.INVOCATION
        return wire.Lent(
            ask=0,
            function_id=function_id,
            vm_id=row.vm_id,
            version=row.version,
            port=PORT,
            concurrency=wish.wanted.concurrency,
            uses=1 if alone else max(1, SERVED_MAX - row.served),
            timeout_s=wish.settings.direct_timeout_s,
            start="fork" if started or not row.served else "warm",
        )

    async def _have_started(self, row: InstanceRow, router: str, wish: _Wish) -> None:
        """Have an instance started, which goes on when it takes too long for who asked."""
        start = asyncio.create_task(self._start(row, wish))
        self._ending.add(start)
        start.add_done_callback(self._ending.discard)
        try:
            await asyncio.shield(start)
        except asyncio.CancelledError:
            start.add_done_callback(lambda _: self._spawn(self.unlend(router, row.vm_id)))
            raise

    async def _start(self, row: InstanceRow, wish: _Wish) -> None:
        async with self._starts.hold(wish.function.account_id):
            await self._instances.start(row, wish.settings)
        await self._lend_started(row.vm_id)

    async def unlend(self, router: str, vm_id: str) -> None:
        """Take an instance back that was lent to a router and never reached it."""
        given = wire.Returned(vm_id=vm_id, served=0, again=True)
        async with self._database.writing() as session:
            row = await self._take_back(session, router, given, self._clock())
        if row is not None:
            self._may_be(row.function_id)
            self._hint()

    async def _wish(
        self,
        session: AsyncSession,
        function_id: str,
        number: int | None,
        handlers: Sequence[str],
    ) -> _Wish:
        function = await session.get(FunctionRow, function_id)
        if function is None:
            raise Refusal("not_found", "There is no such function any more.")
        number = number or function.live_version
        if number is None:
            raise Refusal("no_live_version", "Nothing of this function is live yet.")
        version = await session.get(VersionRow, (function_id, number))
        if version is None or version.state != VersionState.READY:
            raise Refusal("not_found", f"There is no version {number} that is ready.")
        if not set(handlers) & set((version.handlers or "").split()):
            what = "requests" if handlers == HTTP else handlers[0]
            raise Refusal("no_handler", f"What is live of this function has no handler for {what}.")
        settings = self._functions.settings(function)
        sees = sees_for(function, "", settings)
        view = await session.run_sync(lambda session: view_of(session, sees))
        if view.fault is not None:
            # Not which: visitors read it.
            raise Refusal("unavailable", "The function's secrets are not all there.", 5)
        return _Wish(function, settings, wanted_by(function, version.number, "", settings, view))

    async def _take(self, session: AsyncSession, router: str, wish: _Wish) -> InstanceRow | None:
        """Take all places of an instance that has no work, the one used last."""
        wanted = wish.wanted
        fits = [
            InstanceRow.function_id == wanted.function_id,
            InstanceRow.version == wanted.version,
            InstanceRow.user_id == wanted.of_user,
            InstanceRow.made_with == wanted.made_with,
            InstanceRow.state == InstanceState.IDLE,
            InstanceRow.running == 0,
            InstanceRow.leased_by.is_(None),
            InstanceRow.served < SERVED_MAX,
        ]
        if wanted.isolation is Isolation.INVOCATION:
            fits.append(InstanceRow.served == 0)
        found = await session.scalar(
            select(InstanceRow.vm_id)
            .where(*fits)
            .order_by(InstanceRow.used_ms.desc())
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if found is None:
            return None
        return await session.scalar(
            update(InstanceRow)
            .where(InstanceRow.vm_id == found)
            .values(
                state=InstanceState.BUSY,
                running=wanted.concurrency,
                leased_by=router,
                leased_until_ms=self._clock() + LEASE_MS,
            )
            .returning(InstanceRow)
            .execution_options(populate_existing=True)
        )

    async def _lend_started(self, vm_id: str) -> None:
        now = self._clock()
        async with self._database.writing() as session:
            lent = await session.scalar(
                update(InstanceRow)
                .where(InstanceRow.vm_id == vm_id, InstanceRow.leased_by.is_not(None))
                .values(state=InstanceState.BUSY, leased_until_ms=now + LEASE_MS)
                .returning(InstanceRow.vm_id)
            )
        if lent is None:
            raise CakeworkError("The instance was ended while it was started.")

    async def _take_back(
        self, session: AsyncSession, router: str, given: wire.Returned, now: int
    ) -> InstanceRow | None:
        row = await session.scalar(
            update(InstanceRow)
            .where(InstanceRow.vm_id == given.vm_id, InstanceRow.leased_by == router)
            .values(
                running=0,
                leased_by=None,
                leased_until_ms=None,
                served=InstanceRow.served + given.served,
                used_ms=now,
            )
            .returning(InstanceRow)
            .execution_options(populate_existing=True)
        )
        if row is None:
            return None
        worn = row.served >= SERVED_MAX or now >= row.until_ms
        if not given.again or worn:
            row.state = InstanceState.DRAINING
        elif row.state == InstanceState.BUSY:
            row.state = InstanceState.IDLE
        return row

    async def _end(self, vm_id: VmId, crashed: list[wire.Visit]) -> None:
        reason = Reason.CRASH
        try:
            vm = await self._instances.remove(vm_id, CRASH_TOLD_S if crashed else 0.0)
            reason = reason_of(EndCause(vm.cause) if vm is not None and vm.cause else None)
        except CakeworkError as error:
            # It drains, and is ended by the next pass.
            _log.info("instance.not_ended", vm_id=vm_id, detail=error.detail)
        if crashed:
            told = [visit.model_copy(update={"reason": reason}) for visit in crashed]
            async with self._database.writing() as session:
                await self._visits.note(session, told)

    async def _lose(self, vm_ids: list[str]) -> None:
        """Take instances from routers that do not hold them any more, and end them."""
        now = self._clock()
        async with self._database.writing() as session:
            lost = list(
                await session.scalars(
                    update(InstanceRow)
                    .where(InstanceRow.vm_id.in_(vm_ids), InstanceRow.leased_by.is_not(None))
                    .values(
                        state=InstanceState.DRAINING,
                        running=0,
                        leased_by=None,
                        leased_until_ms=None,
                    )
                    .returning(InstanceRow.vm_id)
                )
            )
            await self._visits.interrupt(session, lost, now)
        for vm_id in lost:
            self._spawn(self._end(VmId(vm_id), []))

    async def _shorten(self, router: str) -> None:
        """Have a router that is gone lose what it holds, unless it is back soon."""
        until = self._clock() + GONE_MS
        async with self._database.writing() as session:
            if any(each.router == router for each in self._borrowers):
                return
            await session.execute(
                update(InstanceRow)
                .where(InstanceRow.leased_by == router, InstanceRow.leased_until_ms > until)
                .values(leased_until_ms=until)
            )

    async def _recall_old(self, now: int) -> None:
        """Recall instances of what is not live any more, of other settings, too old, or that other
        work waits for."""
        lent = select(InstanceRow, FunctionRow).outerjoin(
            FunctionRow, FunctionRow.id == InstanceRow.function_id
        )
        lent = lent.where(InstanceRow.leased_by.is_not(None))
        async with self._database.reading() as session:
            rows: list[tuple[InstanceRow, FunctionRow | None]] = [
                (row[0], row[1]) for row in await session.execute(lent)
            ]
            ids = {row.function_id for row, _ in rows}
            due = select(InvocationRow.function_id).where(
                InvocationRow.state.in_(STARTABLE),
                InvocationRow.next_ms <= now,
                InvocationRow.function_id.in_(ids),
            )
            waiting = set(await session.scalars(due.distinct())) if ids else set[str]()
            made_with = await session.run_sync(
                lambda session: self._made_with_of(session, [row[1] for row in rows])
            )
        for row, function in rows:
            current = function is not None and (row.version, row.made_with) == (
                function.live_version,
                made_with[function.id],
            )
            if not current or now >= row.until_ms or row.function_id in waiting:
                self._tell_all(wire.Recall(function_id=row.function_id, vm_id=row.vm_id))

    def _made_with_of(
        self, session: Session, functions: Iterable[FunctionRow | None]
    ) -> dict[str, str]:
        """Return what instances of functions are made with now, by settings and secrets."""
        there = {function.id: function for function in functions if function is not None}
        known = {each: told for each, told in self._settings.items() if each in there}
        asked: dict[str, Sees] = {}
        for function in there.values():
            told = known.get(function.id)
            if told is None or told[0] != function.updated_ms:
                known[function.id] = function.updated_ms, self._functions.settings(function)
            asked[function.id] = sees_for(function, "", known[function.id][1])
        self._settings = known
        views = views_of(session, asked.values())
        return {each: views[sees].made_with(known[each][1]) for each, sees in asked.items()}

    def _tell_all(self, message: wire.Message) -> None:
        for borrower in self._borrowers:
            borrower.tell(message)

    async def to_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something whether or not who waits for it is cancelled."""
        await asyncio.shield(self._spawn(work))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(_logged(work))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task


class Borrower:
    """One router's connection: what it asks for, and tells, in order."""

    def __init__(self, lendings: Lendings, tell: Callable[[wire.Message], None]) -> None:
        self.router = ""
        self.closed = False
        self.tell = tell
        self._lendings = lendings
        self._known = asyncio.Event()
        """Set when it has said what it holds."""
        self._told: asyncio.Queue[wire.Hold | wire.Work | asyncio.Event] = asyncio.Queue()

    def close(self) -> None:
        """Take note that the connection is over, and its router maybe."""
        self.closed = True
        self._lendings.left(self)

    def hear(self, message: wire.Hold | wire.Work) -> None:
        """Take what is to be done in order, by :meth:`run`."""
        self.router = message.router
        self._told.put_nowait(message)

    async def run(self) -> None:
        """Do what is told, one after the other, until cancelled."""
        while True:
            message = await self._told.get()
            if isinstance(message, asyncio.Event):
                message.set()
                continue
            # What fails is told again, when nothing is heard of it.
            await self._lendings.to_its_end(self._do(message))

    async def answer(self, question: wire.Find | wire.Key | wire.Borrow) -> None:
        """Answer a question."""
        match question:
            case wire.Find():
                answer = self._find(question)
            case wire.Key():
                answer = self._check(question)
            case wire.Borrow():
                answer = self._borrow(question)
        await self._lendings.to_its_end(answer)

    async def _find(self, question: wire.Find) -> None:
        async with self._answering(question.ask):
            host, version = version_in(question.host)
            row = await self._lendings.find(host)
            if row is None:
                raise Refusal("not_found", "There is no function with this hostname.")
            http = http_of(row)
            self.tell(
                wire.Found(
                    ask=question.ask,
                    function_id=row.id,
                    account_id=row.account_id,
                    # Others than the account's own have no business with what is not live.
                    auth=http.auth if version is None else "key",
                    methods=None if http.methods is None else list(http.methods),
                    origins=None if http.cors is None else list(http.cors.origins),
                    concurrency=places_of(row),
                    version=version,
                )
            )

    async def _check(self, question: wire.Key) -> None:
        async with self._answering(question.ask):
            good = await self._lendings.is_key_of(question.account_id, question.key)
            self.tell(wire.Checked(ask=question.ask, good=good))

    async def _borrow(self, question: wire.Borrow) -> None:
        async with self._answering(question.ask):
            async with asyncio.timeout(CLOSE_S):
                await self._known.wait()
            await self._caught_up()
            lent = await self._lendings.lend(self, question.function_id, question.version)
            self.tell(lent.model_copy(update={"ask": question.ask}))

    async def _caught_up(self) -> None:
        """Return when what was told until now is done; within ``TOLD_S``, be it done or not."""
        done = asyncio.Event()
        self._told.put_nowait(done)
        with suppress(TimeoutError):
            async with asyncio.timeout(TOLD_S):
                await done.wait()

    async def _do(self, message: wire.Hold | wire.Work) -> None:
        if isinstance(message, wire.Work):
            await self._lendings.note(message)
            self.tell(wire.Noted(number=message.number))
            return
        first = not self._known.is_set()
        lost, gone = await self._lendings.hold(message.router, message.vm_ids, first=first)
        self._known.set()
        self.tell(wire.Held(ask=message.ask, lost=lost, gone=gone))

    @asynccontextmanager
    async def _answering(self, ask: int) -> AsyncGenerator[None]:
        try:
            yield
        except Refusal as refusal:
            self.tell(
                wire.Refused(
                    ask=ask,
                    code=refusal.code,
                    detail=refusal.detail[:1000],
                    retry_after_s=refusal.retry_after_s,
                )
            )
        except Exception:
            _log.exception("lending.failed")
            self.tell(wire.Refused(ask=ask, code="unavailable", detail="It failed; try again."))


def version_in(host: str) -> tuple[str, int | None]:
    """Return a function's hostname, and the version that is meant, for ``<label>-v8.<domain>``."""
    label, _, domain = host.partition(".")
    found = _PREVIEW.fullmatch(label)
    return (host, None) if found is None else (f"{found[1]}.{domain}", int(found[2]))


def http_of(function: FunctionRow) -> HttpSettings:
    """Return who may come in at a function's URL."""
    return FunctionSettings.model_validate_json(function.settings).http


def places_of(function: FunctionRow) -> int:
    """Return how many requests an instance of a function takes at once."""
    settings = FunctionSettings.model_validate_json(function.settings)
    alone = isolation_of(settings, function.user_id, "") is Isolation.INVOCATION
    return 1 if alone else settings.concurrency


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        _log.exception("lending.failed")
