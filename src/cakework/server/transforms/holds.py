"""Instances that this server holds for transforms: lent to it, as others are to routers.

    lent ──▶ in use ◀──▶ at hand ──▶ given back, 2 s after its last use or when it is recalled
                └─────▶ worn: ended

So what a router keeps to holds here as it does there (docs/decisions/0016): an instance is in one
hand, its lease runs out with its holder, and what ran in it is on record as interrupted then.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from cakework.domain import routes as wire
from cakework.domain.direct import HOLD_EVERY_S
from cakework.domain.errors import (
    CakeworkError,
    ConcurrencyExceeded,
    NoHandler,
    NoLiveVersion,
    NoRoom,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from cakework.domain.ids import VmId
from cakework.domain.invocations import Reason
from cakework.server.functions.adapter import NoAnswer
from cakework.server.functions.leases import OF_SERVER
from cakework.server.functions.lendings import CLOSE_S, Lendings, Refusal

IDLE_S = 2.0
"""How long an instance stays at hand without work; whoever needs one within it asks nobody."""
ASKED_AT_ONCE = 16
"""Instances of one function that are asked for."""
WAITING_MAX = 256
"""Calls that wait for an instance of one function."""
NOTED_TRIES = 10
NOTED_AGAIN_S = 1.0
NAME_CHARS = 32
HANDLERS = ("transform", "transformBatch")
HOLD_PERIOD_S = HOLD_EVERY_S
_ERRORS: dict[str, type[CakeworkError]] = {
    error.code: error
    for error in (
        *(NotFound, NoLiveVersion, NoHandler, ConcurrencyExceeded, NoRoom),
        *(QuotaExceeded, Unavailable),
    )
}
_log = structlog.stdlib.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Hold:
    """An instance that is lent to this server. ``left``: how many calls it may still serve.

    ``over`` is set when nothing comes of it any more: it was taken away, or its VM has ended.
    """

    function_id: str
    vm_id: VmId
    version: int
    start: str
    places: int
    left: int
    busy: int = 0
    served: int = 0
    worn: bool = False
    recalled: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    asked: set[asyncio.Future[Any]] = field(default_factory=set[asyncio.Future[Any]])
    """Answers that are waited for."""
    timer: asyncio.TimerHandle | None = None

    @property
    def is_free(self) -> bool:
        """Whether it takes one more call."""
        stays = not (self.worn or self.recalled or self.over.is_set())
        return stays and self.left > 0 and self.busy < self.places


@dataclass(eq=False, slots=True)
class _Pool:
    """The instances of a function that are held, and who waits for a place in one."""

    holds: list[Hold] = field(default_factory=list[Hold])
    waiting: deque[asyncio.Future[Hold]] = field(default_factory=deque[asyncio.Future[Hold]])
    asking: int = 0


class Holds:
    """The instances that the server ``server_id`` holds. ``close()`` when done."""

    def __init__(self, lendings: Lendings, server_id: str) -> None:
        self._lendings = lendings
        self._borrower = lendings.borrower(self._hear)
        self._borrower.router = f"{OF_SERVER}{server_id}"[:NAME_CHARS]
        self._pools: defaultdict[str, _Pool] = defaultdict(_Pool)
        self._at_work: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._borrowing: set[asyncio.Task[None]] = set()
        self._number = 0

    async def take(self, function_id: str) -> Hold:
        """Return an instance with a place for a call, which is the caller's until it is given back.

        Raises:
            NotFound, NoLiveVersion, NoHandler: there can be none.
            ConcurrencyExceeded, NoRoom, QuotaExceeded, Unavailable: there is none to be had.
        """
        pool = self._pools[function_id]
        hold = next((each for each in pool.holds if each.is_free), None)
        if hold is None:
            if len(pool.waiting) >= WAITING_MAX:
                raise ConcurrencyExceeded(
                    "Too many calls wait for this function already.", retry_after_s=1
                )
            hold = await self._waited(function_id, pool)
        else:
            _begin(hold)
        return hold

    def give_back(self, hold: Hold, *, again: bool, visit: wire.Visit | None) -> None:
        """Give a place back, and put on record what it was used for; without ``again`` the instance
        is to serve no more."""
        hold.busy -= 1
        hold.worn |= not again
        pool = self._pools[hold.function_id]
        returned = [self._returned(pool, hold)] if self._goes(hold) else []
        self.note([visit] if visit is not None else [], returned)
        if hold.is_free:
            self._pass_on(pool)
        self._rest(hold)

    def note(self, visits: list[wire.Visit], returned: list[wire.Returned] | None = None) -> None:
        """Put on record what calls have come to, then what is given back."""
        if visits or returned:
            # Of one kind of task, and begun in order: see Lendings.note.
            self._spawn(self._note(visits, returned or []))

    def go_on(self, work: Coroutine[Any, Any, None]) -> None:
        """See to work that goes on when its caller has been answered."""
        self._spawn(work)

    def watch(self, invocation_id: str) -> asyncio.Event:
        """Return what is set when somebody has given an invocation up; :meth:`forget` it."""
        return self._at_work.setdefault(invocation_id, asyncio.Event())

    def forget(self, invocation_id: str) -> None:
        """Watch no more."""
        self._at_work.pop(invocation_id, None)

    async def one_pass(self) -> None:
        """Say what is held, so that it stays."""
        held = {hold.vm_id: hold for pool in self._pools.values() for hold in pool.holds}
        if not held:
            return
        lost, gone = await self._lendings.hold(self._borrower.router, [*held], first=False)
        for vm_id in {*lost, *gone}:
            hold = held[VmId(vm_id)]
            hold.over.set()
            for answer in [each for each in hold.asked if not each.done()]:
                why = "The instance was lost."
                answer.set_exception(NoAnswer(why, reached=True, reason=Reason.INTERRUPTED))
                answer.exception()
            if not hold.busy:
                self._leave(hold)

    async def close(self) -> None:
        """Give everything back; what is under way is on record as interrupted soon."""
        for pool in [*self._pools.values()]:
            for hold in [each for each in pool.holds if not each.busy]:
                self._leave(hold)
            for waiter in pool.waiting:
                waiter.cancel()
        self._borrower.close()
        for task in self._borrowing:
            task.cancel()
        if tasks := self._tasks | self._borrowing:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _note(self, visits: list[wire.Visit], returned: list[wire.Returned]) -> None:
        for attempt in range(1, NOTED_TRIES + 1):
            self._number += 1
            router = self._borrower.router
            work = wire.Work(number=self._number, router=router, visits=visits, returned=returned)
            try:
                await self._lendings.note(work)
            except Exception:
                if attempt == NOTED_TRIES:
                    raise
                _log.warning("transform.not_noted_yet", exc_info=True)
                # What was to be given back is held no more, and so is ended soon.
                returned = []
                await asyncio.sleep(NOTED_AGAIN_S)
            else:
                return

    async def _waited(self, function_id: str, pool: _Pool) -> Hold:
        waiter: asyncio.Future[Hold] = asyncio.get_running_loop().create_future()
        pool.waiting.append(waiter)
        if pool.asking < min(len(pool.waiting), ASKED_AT_ONCE):
            self._ask(function_id, pool)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in pool.waiting:
                pool.waiting.remove(waiter)
            elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # It came just when its owner left.
                self.give_back(waiter.result(), again=True, visit=None)
            raise

    async def _borrow(self, function_id: str, pool: _Pool) -> None:
        try:
            lent = await self._lendings.lend(self._borrower, function_id, handlers=HANDLERS)
        except Refusal as refusal:
            kind = _ERRORS.get(refusal.code, Unavailable)
            self._refuse(pool, kind(refusal.detail, retry_after_s=refusal.retry_after_s))
        except Exception:
            _log.exception("transform.not_lent", function_id=function_id)
            self._refuse(pool, Unavailable("An instance could not be had; try again."))
        else:
            hold = Hold(
                function_id,
                VmId(lent.vm_id),
                lent.version,
                lent.start,
                lent.concurrency,
                lent.uses,
            )
            pool.holds.append(hold)
            self._pass_on(pool)
            self._rest(hold)
        finally:
            pool.asking -= 1
            if pool.asking < min(len(pool.waiting), ASKED_AT_ONCE):
                self._ask(function_id, pool)
            self._tidy(function_id, pool)

    def _ask(self, function_id: str, pool: _Pool) -> None:
        pool.asking += 1
        task = asyncio.create_task(self._borrow(function_id, pool))
        self._borrowing.add(task)
        task.add_done_callback(self._borrowing.discard)

    def _tidy(self, function_id: str, pool: _Pool) -> None:
        if not (pool.holds or pool.waiting or pool.asking):
            self._pools.pop(function_id, None)

    def _refuse(self, pool: _Pool, error: CakeworkError) -> None:
        while pool.waiting:
            waiter = pool.waiting.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                return

    def _pass_on(self, pool: _Pool) -> None:
        while pool.waiting:
            hold = next((each for each in pool.holds if each.is_free), None)
            if hold is None:
                return
            waiter = pool.waiting.popleft()
            if not waiter.done():
                _begin(hold)
                waiter.set_result(hold)

    def _rest(self, hold: Hold) -> None:
        pool = self._pools.get(hold.function_id)
        if pool is not None and not hold.busy and hold in pool.holds:
            loop = asyncio.get_running_loop()
            hold.timer = loop.call_later(IDLE_S, self._leave, hold)

    def _goes(self, hold: Hold) -> bool:
        return not hold.busy and not hold.is_free

    def _leave(self, hold: Hold) -> None:
        """Give an instance back that has no work."""
        pool = self._pools.get(hold.function_id)
        if pool is not None and not hold.busy and hold in pool.holds:
            self.note([], [self._returned(pool, hold)])

    def _returned(self, pool: _Pool, hold: Hold) -> wire.Returned:
        if hold in pool.holds:
            pool.holds.remove(hold)
        if hold.timer is not None:
            hold.timer.cancel()
        self._tidy(hold.function_id, pool)
        again = not (hold.worn or hold.over.is_set() or hold.left <= 0)
        return wire.Returned(vm_id=hold.vm_id, served=hold.served, again=again)

    def _hear(self, message: wire.Message) -> None:
        match message:
            case wire.Cut(invocation_id=invocation_id) if invocation_id in self._at_work:
                self._at_work[invocation_id].set()
            case wire.Recall(function_id=function_id, vm_id=vm_id):
                pool = self._pools.get(function_id)
                for hold in [*pool.holds] if pool is not None else ():
                    if vm_id in (None, hold.vm_id):
                        hold.recalled = True
                        self._leave(hold)
            case _:
                pass

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _begin(hold: Hold) -> None:
    hold.busy += 1
    hold.left -= 1
    hold.served += 1
    if hold.timer is not None:
        hold.timer.cancel()
        hold.timer = None


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        _log.exception("transform.not_noted")
