"""One client's connection: request after request, each routed by its own Host header."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Generator
from dataclasses import dataclass

import h11
import structlog

from cakework.crowd import Crowd
from cakework.router.exchange import ClientGone, Exchange, VmBroke
from cakework.router.heads import HeadScanner, RequestHead, parse_head
from cakework.router.patience import Patience, Sleepers
from cakework.router.refusals import AnswerForm, Refusal, malformed, render
from cakework.router.routes import Limits, Routes
from cakework.router.tunnel import tunnel
from cakework.router.upstreams import Destination, Lease, NotReached, Upstreams
from cakework.router.wire import Wire
from cakework.turns import Turns

REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
"""Methods that may be sent a second time when a connection used before turns out stale."""


@dataclass(slots=True)
class _Visit:
    """A request as it is told about in the log."""

    request_id: str
    head: RequestHead
    vm_id: str | None = None
    exchange: Exchange | None = None
    refusal: Refusal | None = None


class Conversation:
    """Serves the requests that come on ``client``."""

    def __init__(
        self,
        client: Wire,
        *,
        routes: Routes,
        sleepers: Sleepers,
        upstreams: Upstreams,
        crowd: Crowd[Wire],
        accounts: Turns[str],
        ending: asyncio.Event,
        limits: Limits,
    ) -> None:
        """Serve ``client``, one of ``crowd``; each request takes one of its account's turns.

        Once ``ending`` is set, the request at work is the last.
        """
        self.account = ""
        """Whose VM the request at work is for."""
        self._ending = ending
        self._vm: Wire | None = None
        self._client = client
        self._routes = routes
        self._sleepers = sleepers
        self._upstream = upstreams.for_client()
        self._crowd = crowd
        self._accounts = accounts
        self._served = 0
        self._limits = limits
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

    @property
    def held(self) -> int:
        """How many bytes wait in both its connections, to be taken by who is slower."""
        return self._client.held + (self._vm.held if self._vm is not None else 0)

    def give_way(self) -> None:
        """Break off what is at work."""
        self._client.reset()

    async def hold(self) -> None:
        """Serve requests until either side wants no more, then close the connection."""
        try:
            with contextlib.closing(self._upstream):
                more = True
                while more:
                    more = await self._serve_one() and not self._ending.is_set()
                    # What was sent in advance lets nobody wait either.
                    await asyncio.sleep(0)
            await self._finish(self._client)
        except (ClientGone, ConnectionError):
            self._client.reset()

    async def _serve_one(self) -> bool:
        try:
            head = await self._read_head()
        except Refusal as refusal:
            form = AnswerForm(new_request_id())
            self._log.info("proxy.refused", request_id=form.request_id, code=refusal.code)
            await self._say(render(refusal, form))
            return False
        if head is None:
            return False
        self._served += 1
        with self._crowd.speaking(self._client):
            return await self._answer(head)

    async def _read_head(self) -> RequestHead | None:
        """Return the next request's head, or None when the client wants no more.

        Raises:
            Refusal: the head is malformed, too long, or took too long to come.
        """
        # Who comes, comes to ask; who has asked may come back to it.
        wait_s = self._limits.keep_alive_s
        if not self._served:
            wait_s = min(wait_s, self._limits.head_timeout_s)
        try:
            async with asyncio.timeout(wait_s):
                data = await self._client.read()
        except TimeoutError:
            return None
        scanner = HeadScanner(self._limits.head_bytes)
        try:
            async with asyncio.timeout(self._limits.head_timeout_s):
                while data:
                    if found := scanner.feed(data):
                        self._client.unread(found[1])
                        return parse_head(found[0])
                    data = await self._client.read()
        except TimeoutError as error:
            raise Refusal(408, "request_timeout", "the head took too long to come") from error
        return None

    async def _answer(self, head: RequestHead) -> bool:
        visit = _Visit(new_request_id(), head)
        begun = time.monotonic()
        try:
            return await self._forward(visit)
        except Refusal as refusal:
            visit.refusal = refusal
            return await self._refuse(visit, refusal)
        finally:
            self._record(visit, time.monotonic() - begun)

    async def _forward(self, visit: _Visit) -> bool:
        patience = self._patience(visit.head.host)
        route = await patience.route()
        vm_id = visit.vm_id = route.vm_id
        activity = self._sleepers.activity
        if activity.count(vm_id) >= self._limits.connections_per_vm:
            raise Refusal(503, "too_many_connections", "the VM has too many connections already")
        with self._turn(route.account_id):
            return await self._visit(visit, vm_id, patience)

    @contextlib.contextmanager
    def _turn(self, account: str) -> Generator[None]:
        """Count a request among those to the account's VMs. Raises Refusal: there are too many."""
        if not self._accounts.take(account):
            detail = "the VM's account has too many connections already"
            raise Refusal(503, "too_many_connections", detail)
        self.account = account
        try:
            yield
        finally:
            self.account = ""
            self._accounts.give_back(account)

    async def _visit(self, visit: _Visit, vm_id: str, patience: Patience) -> bool:
        async with contextlib.AsyncExitStack() as stack:
            visiting = self._sleepers.activity.visit(vm_id, patience.deadline)
            try:
                await stack.enter_async_context(visiting)
            except TimeoutError as error:
                raise Refusal(504, "vm_timeout", "the VM was put to rest for too long") from error
            near = _take_head(visit.head, self._limits.head_bytes)
            while not self._client.is_lost:
                try:
                    return await self._reach(visit, near, await patience.destination())
                except NotReached as failure:
                    if not await patience.again(failure):
                        raise
            raise ClientGone

    async def _reach(self, visit: _Visit, near: h11.Connection, destination: Destination) -> bool:
        head = visit.head
        reuse = head.method in REPEATABLE and not head.has_body
        while True:
            async with self._upstream.lease(destination, reuse=reuse) as lease:
                exchange = Exchange(self._client, near, lease.wire, head)
                visit.exchange = exchange
                self._vm = lease.wire
                try:
                    if await self._carry_out(exchange, lease):
                        return exchange.client_may_persist
                finally:
                    self._vm = None
            reuse = False

    def _patience(self, host: str) -> Patience:
        deadline = asyncio.get_running_loop().time() + self._limits.wake_timeout_s
        return Patience(host, self._routes, self._sleepers.waker, deadline)

    async def _carry_out(self, exchange: Exchange, lease: Lease) -> bool:
        """Return whether the exchange took place; not when a used connection was stale."""
        try:
            async with asyncio.timeout(self._limits.idle_timeout_s) as clock:
                touch = _Touch(clock, self._limits.idle_timeout_s)
                await exchange.run(touch)
                if exchange.has_switched:
                    await tunnel(self._client, lease.wire, touch)
                    await self._finish(lease.wire)
        except VmBroke as error:
            if lease.reused and not exchange.has_heard:
                return False
            problem = Refusal(502, "vm_closed", "the VM closed the connection without an answer")
            raise _too_late(exchange, problem) from error
        except TimeoutError as error:
            problem = Refusal(504, "vm_timeout", "the VM did not answer in time")
            raise _too_late(exchange, problem) from error
        except Refusal as refusal:
            raise _too_late(exchange, refusal) from refusal
        lease.keep = exchange.vm_may_persist
        return True

    async def _finish(self, wire: Wire) -> None:
        limits = self._limits
        await wire.finish(flush_s=limits.idle_timeout_s, linger_s=limits.linger_s)

    async def _refuse(self, visit: _Visit, refusal: Refusal) -> bool:
        head = visit.head
        keep_alive = head.may_persist and not head.has_body
        form = AnswerForm(visit.request_id, head.method != b"HEAD", keep_alive)
        await self._say(render(refusal, form))
        return keep_alive

    async def _say(self, answer: bytes) -> None:
        """Send an answer of the router's own. Raises ClientGone: it was not taken in time."""
        try:
            async with asyncio.timeout(self._limits.head_timeout_s):
                await self._client.write(answer)
        except TimeoutError as error:
            raise ClientGone from error

    def _record(self, visit: _Visit, took_s: float) -> None:
        exchange, refusal = visit.exchange, visit.refusal
        answered = exchange.status if exchange else None
        self._log.info(
            "proxy.request",
            request_id=visit.request_id,
            vm_id=visit.vm_id,
            host=visit.head.host,
            method=visit.head.method.decode(),
            path=visit.head.path,
            status=refusal.status if refusal else answered,
            code=refusal.code if refusal else None,
            bytes_in=exchange.bytes_in if exchange else 0,
            bytes_out=exchange.bytes_out if exchange else 0,
            duration_ms=round(took_s * 1000, 1),
        )


class _Touch:
    """Puts off the end of an idle connection whenever it is called."""

    def __init__(self, clock: asyncio.Timeout, idle_s: float) -> None:
        self._clock = clock
        self._idle_s = idle_s

    def __call__(self) -> None:
        if not self._clock.expired():
            self._clock.reschedule(asyncio.get_running_loop().time() + self._idle_s)


def new_request_id() -> str:
    """Return an id for an answer of the router's own."""
    return secrets.token_hex(12)


def _take_head(head: RequestHead, bytes_max: int) -> h11.Connection:
    near = h11.Connection(h11.SERVER, max_incomplete_event_size=bytes_max)
    near.receive_data(head.raw)
    try:
        near.next_event()
    except h11.RemoteProtocolError as error:
        raise malformed("the head is malformed") from error
    return near


def _too_late(exchange: Exchange, problem: Refusal) -> Exception:
    """Return ``problem``, unless an answer has begun: then only cutting it off tells."""
    return problem if exchange.status is None else ClientGone()
