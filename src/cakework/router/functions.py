"""Functions behind hostnames, and the instances of them that are lent to this router.

    found ──▶ waits for a place ──▶ in an instance ──▶ settled ──▶ place free ──▶ given back
                  └ borrowed from the server, if none is free here

A warm request asks nobody: its function was found and its instance is here. Of an instance that
is lent every place is this router's, and it counts them. What becomes of requests is told to the
server in batches, and told again until that is on record.
"""

import asyncio
import hashlib
import itertools
import secrets
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from ulid import ULID

from cakework.domain import routes as wire
from cakework.domain.direct import HOLD_EVERY_S, WAIT_S
from cakework.domain.errors import Unavailable
from cakework.router.refusals import Refusal
from cakework.router.wire import Wire

ANSWER_S = 5.0
"""Within which a server that is there answers."""
TOLD_EVERY_S = 0.05
FOUND_FOR_S = 5.0
"""How long a function is taken to be as it was found; a change is told at once."""
FOUND_MAX = 10_000
GOOD_FOR_S = 2.0
"""How long a key is remembered that was looked at, as by the API."""
KEYS_MAX = 1_000
IDLE_S = 2.0
"""How long an instance stays here without work; a new request within it asks nobody."""
SETTLING_S = 0.05
"""How long it is waited for a place whose answer is given, before another instance is asked for."""
ASKED_AT_ONCE = 16
"""Instances of one function that are asked for."""
ASKED_IN_ALL = 500
"""Half of what the server is asked at once (``link.ASKED_MAX``): the rest is for other questions,
above all for what keeps those instances that are here."""
ASKED_OF_ACCOUNT = ASKED_IN_ALL // 4
LENT_MAX = 3_000
WAITING_MAX = 256
"""Requests that wait for a place of one function."""
NOT_NOW_S = 0.5
"""Until it is asked again for an instance that there was no room for."""
VISITS_AT_ONCE = 100
WORK_BYTES = 40_000
"""Of requests in a line, or one: a line of more than 64 KiB ends the connection."""
BACKLOG_MAX = 10_000
"""Requests that are remembered while the server takes no account of them."""
PATH_CHARS_MAX = 512
_STATUSES = {
    "not_found": 404,
    "no_handler": 404,
    "no_live_version": 409,
    "concurrency_exceeded": 429,
    "quota_exceeded": 429,
    "no_room": 503,
}
_FOR_GOOD = ("not_found", "no_handler", "no_live_version")
_log = structlog.stdlib.get_logger(__name__)


class Gone(Exception):
    """The client went away while it waited."""


@dataclass(eq=False, slots=True)
class Instance:
    """An instance that is lent to this router, one of ``pool``."""

    pool: "_Pool"
    vm_id: str
    account_id: str
    function_id: str
    version: int
    port: int
    concurrency: int
    left: int
    timeout_s: int
    start: str
    busy: int = 0
    settling: int = 0
    served: int = 0
    worn: bool = False
    """It is to serve no more, and to be ended."""
    recalled: bool = False
    lost: bool = False
    gone: bool = False
    """Its VM has ended; connections may not have heard of it."""
    timer: asyncio.TimerHandle | None = None

    @property
    def is_free(self) -> bool:
        """Whether it takes one more request."""
        may = not (self.worn or self.recalled or self.lost) and self.left > 0
        return may and self.busy < self.concurrency


@dataclass(eq=False, slots=True)
class _Pool:
    """The instances of one function, or of one version of it, and who waits for a place in one."""

    function_id: str
    version: int | None
    account_id: str
    concurrency: int
    instances: list[Instance] = field(default_factory=list[Instance])
    waiting: deque[asyncio.Future[Instance]] = field(
        default_factory=deque[asyncio.Future[Instance]]
    )
    asking: int = 0
    not_before: float = 0.0


@dataclass(eq=False, slots=True)
class Ticket:
    """One request to a function, as it is told to the server. ``cut`` ends it."""

    visit: wire.Visit
    tell: Callable[["Ticket"], None]
    cut: Callable[[], None] | None = None
    canceled: bool = False

    @property
    def id(self) -> str:
        """The invocation's id."""
        return self.visit.id

    def end(self, state: str, reason: str | None = None, error: dict[str, Any] | None = None):
        """Say how it ended; the first word counts."""
        if self.visit.state is None:
            if self.canceled and state != "succeeded":
                state, reason, error = "canceled", "canceled_by_caller", None
            self.visit = self.visit.model_copy(
                update={"state": state, "reason": reason, "error": error, "ended_ms": _now_ms()}
            )
            self.tell(self)


class Link(Protocol):
    """What is needed of the way to the server."""

    @property
    def is_whole(self) -> bool:
        """Whether it is there."""
        ...

    def say(self, message: wire.Message) -> None:
        """Tell it something, if it is there."""
        ...

    async def ask(
        self, question: Callable[[int], wire.Message], within_s: float = ANSWER_S
    ) -> wire.Message:
        """Return its answer. Raises Unavailable: there is none in time."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    found: wire.Found | None
    until: float


class Functions:
    """The functions that this router knows, and what it holds of them."""

    def __init__(self, link: Link, *, wait_s: float) -> None:
        """Ask over ``link``; a request waits ``wait_s`` for a place."""
        self.router = secrets.token_hex(16)
        self.wait_s = wait_s
        self._link = link
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._keys: OrderedDict[bytes, tuple[float, bool]] = OrderedDict()
        self._pools: dict[tuple[str, int | None], _Pool] = {}
        self._asking: Counter[str] = Counter()
        """How many instances are asked for, by account."""
        self._lent: dict[str, Instance] = {}
        self._tickets: dict[str, Ticket] = {}
        self._untold: dict[str, wire.Visit] = {}
        self._returned: list[wire.Returned] = []
        self._telling: asyncio.TimerHandle | None = None
        self._unnoted: OrderedDict[int, wire.Work] = OrderedDict()
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._noted = asyncio.Event()
        self._ending = False

    def holds(self, vm_id: str) -> bool:
        """Whether an instance is lent to this router, and there."""
        instance = self._lent.get(vm_id)
        return instance is not None and not instance.gone

    def recalled(self, vm_id: str) -> bool:
        """Whether an instance is lent to this router still, and is to be given back."""
        instance = self._lent.get(vm_id)
        return instance is not None and instance.recalled

    async def find(self, host: str) -> wire.Found | None:
        """Return the function behind ``host``; None: there is none.

        Raises:
            Refusal: nobody says.
        """
        known = self._known.get(host)
        if known is not None and known.until > _clock():
            return known.found
        try:
            answer = await self._link.ask(lambda ask: wire.Find(ask=ask, host=host))
        except Unavailable:
            if known is not None:
                return known.found
            raise Refusal(503, "unavailable", "the server does not answer now") from None
        if isinstance(answer, wire.Found):
            self._known[host] = _Known(answer, _clock() + FOUND_FOR_S)
            self._known.move_to_end(host)
            if len(self._known) > FOUND_MAX:
                self._known.popitem(last=False)
            return answer
        self._known.pop(host, None)
        if isinstance(answer, wire.Refused) and answer.code != "not_found":
            raise _refusal(answer)
        return None

    async def is_key_of(self, account_id: str, key: str) -> bool:
        """Say whether an API key is one of an account's. Raises Refusal: nobody says."""
        digest = hashlib.sha256(f"{account_id}\0{key}".encode(errors="surrogateescape")).digest()
        known = self._keys.get(digest)
        if known is not None and known[0] > _clock():
            return known[1]
        try:
            answer = await self._link.ask(
                lambda ask: wire.Key(ask=ask, account_id=account_id, key=key)
            )
        except Unavailable:
            raise Refusal(503, "unavailable", "the server does not answer now") from None
        if not isinstance(answer, wire.Checked):
            raise Refusal(503, "unavailable", "the server does not answer now")
        self._keys[digest] = _clock() + GOOD_FOR_S, answer.good
        self._keys.move_to_end(digest)
        if len(self._keys) > KEYS_MAX:
            self._keys.popitem(last=False)
        return answer.good

    async def place(self, found: wire.Found, client: Wire) -> Instance:
        """Return an instance in which one place is the caller's, to be left again.

        Raises:
            Gone: the client went away.
            Refusal: there is none to be had.
        """
        key = found.function_id, found.version
        pool = self._pools.get(key)
        if pool is None:
            pool = _Pool(*key, found.account_id, found.concurrency)
            self._pools[key] = pool
        pool.concurrency = found.concurrency
        if not pool.waiting and (instance := _free(pool)) is not None:
            return _take(instance)
        if len(pool.waiting) >= WAITING_MAX:
            raise Refusal(429, "concurrency_exceeded", "too many wait for this function already")
        future: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
        pool.waiting.append(future)
        self._pump(pool)

        def leave() -> None:
            if not future.done():
                future.set_exception(Gone())

        client.on_lost = leave
        instance = None
        try:
            if client.is_lost:
                raise Gone
            async with asyncio.timeout(self.wait_s):
                instance = await future
            return instance
        except TimeoutError as error:
            detail = "as many of the function's instances as may be are busy; try again"
            raise Refusal(429, "concurrency_exceeded", detail) from error
        finally:
            client.on_lost = None
            if future in pool.waiting:
                pool.waiting.remove(future)
            given = not future.cancel() and not future.cancelled() and future.exception() is None
            if given and instance is None:
                # It came when nobody waited any more.
                self.leave(future.result(), used=False)
            self._forget(pool)

    def begin(self, instance: Instance, account_id: str, method: str, path: str) -> Ticket:
        """Have a request on record that begins now in an instance."""
        now = _now_ms()
        visit = wire.Visit(
            id=f"inv_{ULID()}",
            account_id=account_id,
            function_id=instance.function_id,
            version=instance.version,
            vm_id=instance.vm_id,
            start=instance.start,
            method=method,
            path=path[:PATH_CHARS_MAX],
            began_ms=now,
            deadline_ms=now + instance.timeout_s * 1000,
        )
        instance.start = "warm"
        instance.served += 1
        ticket = Ticket(visit, self._tell)
        self._tickets[visit.id] = ticket
        self._tell(ticket)
        return ticket

    def settling(self, instance: Instance) -> Callable[[], None]:
        """Take note that a place is about to be free; what is returned says that it is not yet."""
        instance.settling += 1
        over = False

        def end() -> None:
            nonlocal over
            if over:
                return
            over = True
            timer.cancel()
            instance.settling -= 1
            self._pump(instance.pool)

        timer = asyncio.get_running_loop().call_later(SETTLING_S, end)
        return end

    def leave(self, instance: Instance, *, used: bool = True) -> None:
        """Give a place up."""
        instance.busy -= 1
        if not used:
            instance.left += 1
        self._pump(instance.pool)
        self._rest(instance)

    def wear(self, instance: Instance) -> None:
        """Have an instance serve nothing more; it is ended when it has nothing to do."""
        instance.worn = True
        self._pump(instance.pool)

    def hear(self, message: wire.Message) -> None:
        """Take what the server tells."""
        match message:
            case wire.Lent(vm_id=vm_id):
                # Nobody waits for the answer any more.
                self._returned.append(wire.Returned(vm_id=vm_id, served=0, again=True))
                self._soon()
            case wire.Recall(function_id=function_id, vm_id=vm_id):
                self._recall(function_id, vm_id)
            case wire.Cut(invocation_id=invocation_id):
                ticket = self._tickets.get(invocation_id)
                if ticket is not None and ticket.cut is not None and ticket.visit.state is None:
                    ticket.canceled = True
                    ticket.cut()
            case wire.Noted(number=number):
                self._unnoted.pop(number, None)
                self._noted.set()
            case _:
                return

    def met(self) -> None:
        """Go on with a server that is there: tell what it did not note, and what is held."""
        for work in self._unnoted.values():
            self._link.say(work)
        self._spawn(self._hold())

    async def run(self) -> None:
        """Say every few seconds what is held, until cancelled."""
        while True:
            await asyncio.sleep(HOLD_EVERY_S)
            if self._link.is_whole:
                self.met()

    async def close(self) -> None:
        """Give back what is without work, and wait a moment until all is on record."""
        self._ending = True
        for instance in list(self._lent.values()):
            self._rest(instance)
        self._flush()
        try:
            async with asyncio.timeout(SETTLING_S * 20):
                while self._unnoted and self._link.is_whole:
                    self._noted.clear()
                    await self._noted.wait()
        except TimeoutError:
            _log.info("functions.untold", count=len(self._unnoted))
        for task in self._tasks:
            task.cancel()

    def _recall(self, function_id: str, vm_id: str | None) -> None:
        if vm_id is None:
            for host in [h for h, k in self._known.items() if _is(k.found, function_id)]:
                del self._known[host]
        for instance in list(self._lent.values()):
            if instance.function_id == function_id and vm_id in (None, instance.vm_id):
                instance.recalled = True
                self._rest(instance)

    def _rest(self, instance: Instance) -> None:
        """Give an instance back that is not to stay, or see to that it will be."""
        if instance.timer is not None:
            instance.timer.cancel()
            instance.timer = None
        if instance.busy or instance.vm_id not in self._lent:
            return
        if instance.worn or instance.recalled or instance.left <= 0 or self._ending:
            self._give_back(instance)
        else:
            loop = asyncio.get_running_loop()
            instance.timer = loop.call_later(IDLE_S, self._give_back, instance)

    def _give_back(self, instance: Instance) -> None:
        if instance.busy or instance.vm_id not in self._lent:
            return
        self._drop(instance)
        again = not instance.worn and instance.left > 0
        self._returned.append(
            wire.Returned(vm_id=instance.vm_id, served=instance.served, again=again)
        )
        self._soon()

    def _drop(self, instance: Instance) -> None:
        if instance.timer is not None:
            instance.timer.cancel()
        del self._lent[instance.vm_id]
        instance.pool.instances.remove(instance)
        self._pump(instance.pool)
        self._forget(instance.pool)

    def _forget(self, pool: _Pool) -> None:
        unused = not (pool.instances or pool.waiting or pool.asking)
        key = pool.function_id, pool.version
        if unused and self._pools.get(key) is pool:
            del self._pools[key]

    def _pump(self, pool: _Pool) -> None:
        """Give free places to who waits, and ask for as many instances as are needed beyond."""
        while pool.waiting:
            if pool.waiting[0].done():
                pool.waiting.popleft()
                continue
            if (instance := _free(pool)) is None:
                break
            pool.waiting.popleft().set_result(_take(instance))
        settling = sum(each.settling for each in pool.instances if not each.worn)
        need = -(-max(0, len(pool.waiting) - settling) // pool.concurrency)
        if need and pool.not_before > _clock():
            return
        while pool.asking < min(need, ASKED_AT_ONCE) and self._may_ask(pool.account_id):
            pool.asking += 1
            self._asking[pool.account_id] += 1
            self._spawn(self._borrow(pool))

    def _may_ask(self, account_id: str) -> bool:
        return (
            len(self._lent) < LENT_MAX
            and self._asking.total() < ASKED_IN_ALL
            and self._asking[account_id] < ASKED_OF_ACCOUNT
        )

    def _asked(self, account_id: str) -> None:
        """Take note that a question was answered, for which others may have waited."""
        could = self._may_ask(account_id)
        self._asking[account_id] -= 1
        if not self._asking[account_id]:
            del self._asking[account_id]
        if not could:
            for pool in [each for each in self._pools.values() if each.waiting]:
                self._pump(pool)

    async def _borrow(self, pool: _Pool) -> None:
        answer: wire.Message | None = None
        if self._returned:
            # One of these may be what is lent.
            self._flush()
        try:
            answer = await self._link.ask(
                lambda ask: wire.Borrow(
                    ask=ask, function_id=pool.function_id, version=pool.version
                ),
                WAIT_S + ANSWER_S,
            )
        except Unavailable:
            answer = wire.Refused(ask=0, code="unavailable", detail="the server does not answer")
        finally:
            pool.asking -= 1
        if isinstance(answer, wire.Lent):
            self._lend(pool, answer)
        elif isinstance(answer, wire.Refused):
            self._refused(pool, answer)
        self._asked(pool.account_id)
        self._pump(pool)
        self._forget(pool)

    def _lend(self, pool: _Pool, lent: wire.Lent) -> None:
        instance = Instance(
            pool,
            lent.vm_id,
            pool.account_id,
            lent.function_id,
            lent.version,
            lent.port,
            lent.concurrency,
            lent.uses,
            lent.timeout_s,
            lent.start,
        )
        self._lent[lent.vm_id] = instance
        pool.instances.append(instance)
        self._pump(pool)
        self._rest(instance)

    def _refused(self, pool: _Pool, refused: wire.Refused) -> None:
        """Tell those who wait, unless it may be otherwise for them in a moment."""
        if refused.code == "concurrency_exceeded":
            return
        if refused.code not in _FOR_GOOD and pool.instances:
            pool.not_before = _clock() + NOT_NOW_S
            asyncio.get_running_loop().call_later(NOT_NOW_S, self._pump, pool)
            return
        for future in pool.waiting:
            if not future.done():
                future.set_exception(_refusal(refused))
        pool.waiting.clear()

    async def _hold(self) -> None:
        vm_ids = list(self._lent)
        try:
            answer = await self._link.ask(
                lambda ask: wire.Hold(ask=ask, router=self.router, vm_ids=vm_ids)
            )
        except Unavailable:
            return
        if not isinstance(answer, wire.Held):
            return
        for vm_id in answer.lost:
            if (instance := self._lent.get(vm_id)) is not None:
                _log.warning("function.instance_lost", vm_id=vm_id)
                instance.lost = True
                self._drop(instance)
        for vm_id in answer.gone:
            if (instance := self._lent.get(vm_id)) is not None and not instance.gone:
                instance.gone = True
                self.wear(instance)
                self._rest(instance)

    def _tell(self, ticket: Ticket) -> None:
        self._untold[ticket.id] = ticket.visit
        if ticket.visit.state is not None:
            self._tickets.pop(ticket.id, None)
        self._soon()

    def _soon(self) -> None:
        if self._telling is None:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(TOLD_EVERY_S, self._flush)

    def _flush(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        visits, self._untold = list(self._untold.values()), {}
        returned, self._returned = self._returned, []
        while visits or returned:
            some, size = list[wire.Visit](), 0
            while visits and len(some) < VISITS_AT_ONCE:
                size += len(visits[0].model_dump_json().encode())
                if some and size > WORK_BYTES:
                    break
                some.append(visits.pop(0))
            # What is given back, after all that was done in it.
            back, returned = ([], returned) if visits else (returned[:500], returned[500:])
            work = wire.Work(
                number=next(self._numbers), router=self.router, visits=some, returned=back
            )
            self._unnoted[work.number] = work
            self._link.say(work)
        self._bound()

    def _bound(self) -> None:
        count = sum(len(work.visits) for work in self._unnoted.values())
        for number, work in self._unnoted.items():
            if count <= BACKLOG_MAX:
                return
            if work.visits:
                _log.warning("functions.forgotten", count=len(work.visits))
                count -= len(work.visits)
                self._unnoted[number] = work.model_copy(update={"visits": []})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _free(pool: _Pool) -> Instance | None:
    """Return the instance with a free place that was lent last."""
    return next((each for each in reversed(pool.instances) if each.is_free), None)


def _take(instance: Instance) -> Instance:
    if instance.timer is not None:
        instance.timer.cancel()
        instance.timer = None
    instance.busy += 1
    instance.left -= 1
    return instance


def _refusal(refused: wire.Refused) -> Refusal:
    status = _STATUSES.get(refused.code, 503)
    code = refused.code if refused.code in _STATUSES else "unavailable"
    return Refusal(status, code, refused.detail, refused.retry_after_s or 1)


def _is(found: wire.Found | None, function_id: str) -> bool:
    return found is not None and found.function_id == function_id


def _clock() -> float:
    return time.monotonic()


def _now_ms() -> int:
    return round(time.time() * 1000)
