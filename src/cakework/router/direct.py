"""One request to a function: what it is told, how it ends, and what becomes of its place."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import h11

from cakework.domain import routes as wire
from cakework.domain.direct import ABORTED_S, LATER_S, SETTLED
from cakework.router.exchange import ClientGone, Exchange, VmBroke
from cakework.router.forwarding import answer_for_client, request_for_vm
from cakework.router.functions import Functions, Gone, Instance, Ticket
from cakework.router.heads import RequestHead
from cakework.router.refusals import Lines, Refusal
from cakework.router.upstreams import Destination, Lease, NotReached, Upstream, Upstreams
from cakework.router.wire import Wire

SETTLED_AT_ONCE_S = 0.02
"""Within which an adapter says that nothing of a request runs any more, where that is so."""
TOLD_BYTES_MAX = 64 * 1024
"""Of what an adapter tells of an error."""
ERROR_BYTES_MAX = {"type": 512, "message": 8_192, "stack": 20_000}
"""Of each part of an error, as JSON: with them a request's record is one line to the server."""
KEY_CHARS_MAX = 512
"""No API key is longer; what is goes to nobody."""
PLACES_TRIED = 3
_CHARACTERS = re.compile(r"(?:[^\\]|\\u[0-9a-f]{4}|\\[^u])*+")
"""As many as there are, each whole, of text in JSON."""
REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
_BY_ADAPTER = {
    b"handler_error": Refusal(502, "handler_failed", "the function failed"),
    b"bad_answer": Refusal(502, "handler_failed", "the function's answer is none"),
    b"version_failed": Refusal(502, "handler_failed", "the function could not be imported"),
    b"no_handler": Refusal(404, "no_handler", "the function has no handler for requests"),
}
"""What an adapter says itself in the place of the function, by its ``Cakework-Error``."""


class HandlerFailed(Exception):
    """The function failed before it answered: the adapter's word, and what it tells of it."""

    def __init__(self, word: bytes, told: bytes) -> None:
        super().__init__(word.decode())
        self.word = word
        self.told = told


class FunctionExchange(Exchange):
    """Passes a request to a function's adapter, and its answer back."""

    def __init__(
        self,
        client: Wire,
        near: h11.Connection,
        vm: Wire,
        head: RequestHead,
        ticket: Ticket,
        more: Lines,
        body_max: int,
    ) -> None:
        super().__init__(client, near, vm, head)
        self._ticket = ticket
        self._more = more
        self._body_max = body_max
        self._word: bytes | None = None
        self._told = bytearray()
        self._settled = False
        self._giving_up: asyncio.TimerHandle | None = None

    async def run(self, touch: Callable[[], None]) -> None:
        """Pass all of the answer to the client, or up to where the protocol is switched.

        Raises what an exchange does; HandlerFailed: the adapter answered in the function's place.
        """
        try:
            await super().run(touch)
        finally:
            if self._giving_up is not None:
                self._giving_up.cancel()

    @property
    def vm_may_persist(self) -> bool:
        """Whether the adapter's connection can carry another request."""
        return self._settled and self._is_over

    async def settled(self) -> bool:
        """Return once nothing of the request runs any more; False: the adapter is gone."""
        data = self._far.trailing_data[0]
        try:
            while len(data) < len(SETTLED):
                if not (more := await self._vm.read()):
                    return False
                data += more
        except ConnectionError:
            return False
        self._settled = data == SETTLED
        return self._settled

    def _request(self) -> h11.Request:
        visit = self._ticket.visit
        request = request_for_vm(self._head, self._client.peer)
        deadline = datetime.fromtimestamp(visit.deadline_ms / 1000, UTC)
        told = {
            b"Cakework-Invocation-Id": visit.id,
            b"Cakework-Function-Id": visit.function_id,
            b"Cakework-Version": str(visit.version),
            b"Cakework-Deadline": deadline.isoformat(timespec="milliseconds"),
            b"Cakework-Settled": "tell",
        }
        headers = [
            *request.headers.raw_items(),
            *((name, value.encode()) for name, value in told.items()),
        ]
        return h11.Request(method=request.method, target=request.target, headers=headers)

    def _taken(self, size: int) -> None:
        super()._taken(size)
        if self.bytes_in > self._body_max:
            raise too_large(self._body_max)

    def _half_close(self) -> None:
        """Tell the adapter, which takes it for a client that went away, and so it is, mostly: a
        while later it is not waited for an answer any more."""
        super()._half_close()
        loop = asyncio.get_running_loop()
        self._giving_up = loop.call_later(ABORTED_S, self._client.abort)

    def _answer(self, event: h11.Response, *, last: bool) -> bytes:
        for name, value in event.headers.raw_items():
            if name.lower() == b"cakework-error" and value in _BY_ADAPTER:
                self._word, self.status = value, None
                return b""
        answer = answer_for_client(event, last=last)
        told = [line.split(": ", 1) for line in self._more]
        ours = {name.lower().encode() for name, _ in told}
        headers = [
            (name, value)
            for name, value in answer.headers.raw_items()
            if not _is_platforms(name, ours)
        ]
        headers += [(name.encode(), value.encode()) for name, value in told]
        return self._near.send(
            h11.Response(status_code=answer.status_code, headers=headers, reason=answer.reason)
        )

    def _part(self, data: bytes) -> bytes:
        if self._word is None:
            return super()._part(data)
        if len(self._told) < TOLD_BYTES_MAX:
            self._told += data
        return b""

    def _end(self) -> bytes:
        if self._word is None:
            return super()._end()
        raise HandlerFailed(self._word, bytes(self._told))


class Direct:
    """Carries out requests to functions for one client's connection."""

    def __init__(
        self,
        client: Wire,
        functions: Functions,
        upstream: Upstream,
        upstreams: Upstreams,
        body_max: int,
    ) -> None:
        self.vm: Wire | None = None
        """The connection into the instance, while there is one."""
        self.exchange: FunctionExchange | None = None
        self.vm_id: str | None = None
        self.invocation_id: str | None = None
        self._client = client
        self._functions = functions
        self._upstream = upstream
        self._upstreams = upstreams
        self._body_max = body_max

    async def serve(
        self, found: wire.Found, head: RequestHead, near: h11.Connection, more: Lines
    ) -> bool:
        """Have a request served; say whether another may follow on the client's connection.

        Raises:
            Refusal: the router is to answer.
            ClientGone: there is nobody to answer.
        """
        begun = time.monotonic()
        for _ in range(PLACES_TRIED):
            try:
                instance = await self._functions.place(found, self._client)
            except Gone as error:
                raise ClientGone from error
            waited_ms = (time.monotonic() - begun) * 1000
            place = _Place(self._functions, instance)
            try:
                served = await self._in_place(place, found, head, near, more, waited_ms)
            finally:
                place.leave()
            if served is not None:
                return served
        raise Refusal(503, "unavailable", "the function's instances cannot be reached now")

    async def _in_place(
        self,
        place: "_Place",
        found: wire.Found,
        head: RequestHead,
        near: h11.Connection,
        more: Lines,
        waited_ms: float,
    ) -> bool | None:
        """Return None when the instance could not be reached: another may be tried."""
        instance = place.instance
        self.vm_id = instance.vm_id
        destination = Destination(head.host, instance.vm_id, instance.port, 0)
        reuse = head.method in REPEATABLE and not head.has_body
        async with contextlib.AsyncExitStack() as stack:
            leasing = self._upstream.lease(destination, reuse=reuse)
            try:
                lease = await stack.enter_async_context(leasing)
            except NotReached:
                self._functions.wear(instance)
                place.used = False
                return None
            start = instance.start
            ticket = self._functions.begin(
                instance, found.account_id, head.method.decode(), head.path
            )
            self.invocation_id = ticket.id
            told = (
                *more,
                f"Cakework-Invocation-Id: {ticket.id}",
                f"Cakework-Start: {start}",
                f"Server-Timing: cakework;dur={waited_ms:.1f}",
            )
            exchange = self.exchange = FunctionExchange(
                self._client, near, lease.wire, head, ticket, told, self._body_max
            )
            self.vm = lease.wire
            ticket.cut = lease.wire.abort
            try:
                await self._carry_out(place, exchange, lease, ticket, destination)
            except Refusal as refusal:
                if exchange.status is not None:
                    raise ClientGone from refusal
                raise _with(refusal, told) from refusal
            finally:
                self.vm = None
                # Whatever it was, it is over.
                ticket.end("failed", "interrupted")
            return exchange.client_may_persist

    async def _carry_out(
        self,
        place: "_Place",
        exchange: FunctionExchange,
        lease: Lease,
        ticket: Ticket,
        destination: Destination,
    ) -> None:
        place.worn = True
        orderly = True
        failed: HandlerFailed | None = None
        try:
            async with asyncio.timeout(place.instance.timeout_s):
                try:
                    await exchange.run(_ignore)
                except HandlerFailed as error:
                    failed = error
                if exchange.has_switched:
                    orderly = await _talk(self._client, lease.wire)
        except VmBroke as error:
            if self._client.has_ended:
                ticket.end("canceled", "canceled_by_caller")
                place.leave_after(ABORTED_S)
                raise ClientGone from error
            reason = "crash"
            if exchange.status is not None and await self._listens(destination):
                # It broke its answer off itself.
                reason = "handler_error"
            ticket.end("failed", reason)
            raise Refusal(502, "handler_failed", "the function ended without an answer") from error
        except TimeoutError as error:
            ticket.end("failed", "timeout")
            raise Refusal(504, "timeout", "the function did not answer in time") from error
        except (ClientGone, Refusal):
            # It cannot be answered to the end, or did not ask to the end.
            ticket.end("canceled", "canceled_by_caller")
            place.leave_after(ABORTED_S)
            raise
        if failed is None:
            ticket.end("succeeded")
        else:
            ticket.end("failed", _reason(failed.word), _error(failed.told))
        if exchange.has_switched:
            place.worn = not orderly
        else:
            await self._settle(place, exchange, lease)
        if failed is not None:
            refusal = _BY_ADAPTER[failed.word]
            raise Refusal(refusal.status, refusal.code, refusal.detail)

    async def _settle(self, place: "_Place", exchange: FunctionExchange, lease: Lease) -> None:
        """Keep the place until nothing of the request runs any more."""
        settling = self._functions.settling(place.instance)
        waiting = asyncio.create_task(exchange.settled())
        try:
            done, _ = await asyncio.wait([waiting], timeout=SETTLED_AT_ONCE_S)
        except asyncio.CancelledError:
            waiting.cancel()
            settling()
            raise
        if done:
            place.worn = not waiting.result()
            lease.keep = exchange.vm_may_persist
            place.settling = settling
            return
        lease.handed_on = True
        place.stays(_later(place, waiting, lease.wire, self._upstreams), settling)

    async def _listens(self, destination: Destination) -> bool:
        try:
            other = await self._upstreams.connect(destination)
        except Refusal:
            return False
        self._upstreams.leave(other)
        return True


class _Place:
    """A place in an instance, left once, now or later."""

    def __init__(self, functions: Functions, instance: Instance) -> None:
        self.instance = instance
        self.worn = False
        self.used = True
        self.settling: Callable[[], None] | None = None
        self._functions = functions
        self._left = False
        self._stays = False

    def leave(self) -> None:
        """Leave it, unless it is to be left later."""
        if self._stays:
            if self.worn:
                self._functions.wear(self.instance)
            return
        self._leave()

    def leave_after(self, seconds: float) -> None:
        """Leave it then; it is worn already."""
        self._stays = True
        asyncio.get_running_loop().call_later(seconds, self._leave)

    def stays(self, work: "asyncio.Task[None]", settling: Callable[[], None]) -> None:
        """Leave it when ``work`` is over."""
        self._stays, self.worn, self.settling = True, False, settling
        work.add_done_callback(lambda _: self._leave())

    def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        if self.worn:
            self._functions.wear(self.instance)
        if self.settling is not None:
            self.settling()
        self._functions.leave(self.instance, used=self.used)


def admit(found: wire.Found, head: RequestHead, body_max: int) -> Lines:
    """Return the headers that an answer to a request has besides, if it may come in.

    Raises:
        Refusal: it may not.
    """
    more = cors(found, head)
    if found.methods is not None and head.method.decode() not in found.methods:
        allow = f"Allow: {', '.join(found.methods)}"
        detail = "the function takes no such method"
        raise Refusal(405, "method_not_allowed", detail, headers=(*more, allow))
    if any(int(value) > body_max for value in head.values(b"content-length")):
        raise _with(too_large(body_max), more)
    return more


def cors(found: wire.Found, head: RequestHead) -> Lines:
    """Return what an answer says of the origin that asks."""
    if found.origins is None:
        return ()
    for value in head.values(b"origin"):
        origin = value.decode("latin-1")
        if "*" in found.origins:
            return ("Access-Control-Allow-Origin: *",)
        if origin in found.origins:
            return (f"Access-Control-Allow-Origin: {origin}", "Vary: Origin")
    return () if "*" in found.origins else ("Vary: Origin",)


def preflight(found: wire.Found, head: RequestHead) -> bytes | None:
    """Return the answer to what a browser asks before a request; None: it is none of that."""
    asked = head.values(b"access-control-request-method")
    if found.origins is None or head.method != b"OPTIONS" or not asked or head.has_body:
        return None
    lines = ["HTTP/1.1 204 No Content", *cors(found, head)]
    if any(line.startswith("Access-Control-Allow-Origin") for line in lines):
        methods = ", ".join(found.methods) if found.methods else asked[0].decode("latin-1")
        lines.append(f"Access-Control-Allow-Methods: {methods}")
        for value in head.values(b"access-control-request-headers"):
            lines.append(f"Access-Control-Allow-Headers: {value.decode('latin-1')}")
        lines.append("Access-Control-Max-Age: 600")
    if not head.may_persist:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def too_large(body_max: int) -> Refusal:
    """Refuse a body."""
    return Refusal(413, "payload_too_large", f"a body has {body_max} bytes at most")


def without_key(head: RequestHead) -> RequestHead:
    """Return a head without the API key that it came in with: it is not for the function."""
    headers = tuple((key, value) for key, value in head.headers if not _is_key(key))
    return RequestHead(head.raw, head.method, head.target, head.version, headers, head.host)


def key_of(head: RequestHead) -> str:
    """Return the API key of a request, empty for none."""
    values = head.values(b"x-api-key")
    key = values[0].decode("latin-1") if len(values) == 1 else ""
    return key if len(key) <= KEY_CHARS_MAX else ""


async def _talk(client: Wire, vm: Wire) -> bool:
    """Pass bytes both ways until the instance has ended its side; say whether it did.

    When the client goes, the function is told, and has a moment to end.
    """

    async def up() -> None:
        with contextlib.suppress(ConnectionError):
            while data := await client.read():
                await vm.write(data)
        vm.write_eof()

    async def down() -> bool:
        taken = True
        try:
            while data := await vm.read():
                if taken:
                    try:
                        await client.write(data)
                    except ConnectionError:
                        taken = False
        except ConnectionError:
            return False
        client.write_eof()
        return True

    upward, downward = asyncio.create_task(up()), asyncio.create_task(down())
    try:
        await asyncio.wait([upward, downward], return_when=asyncio.FIRST_COMPLETED)
        if client.has_ended and not downward.done():
            await asyncio.wait([downward], timeout=ABORTED_S)
        elif not downward.done():
            await asyncio.wait([downward])
        return downward.done() and not downward.cancelled() and downward.result()
    finally:
        for task in (upward, downward):
            task.cancel()
        await asyncio.wait([upward, downward])


def _later(
    place: _Place, waiting: "asyncio.Task[bool]", vm: Wire, upstreams: Upstreams
) -> "asyncio.Task[None]":
    async def wait() -> None:
        done, _ = await asyncio.wait([waiting], timeout=LATER_S)
        place.worn = not (done and waiting.result())
        waiting.cancel()
        upstreams.leave(vm)

    return asyncio.create_task(wait())


def _with(refusal: Refusal, more: Lines) -> Refusal:
    headers = (*refusal.headers, *more)
    return Refusal(refusal.status, refusal.code, refusal.detail, refusal.retry_after_s, headers)


def _reason(word: bytes) -> str:
    return "handler_error" if word == b"handler_error" else word.decode()


def _error(told: bytes) -> dict[str, Any] | None:
    """Return what an adapter tells of an error, which is the user's word."""
    try:
        whole: object = json.loads(told)
    except (ValueError, RecursionError):
        return None
    error: object = cast("dict[str, object]", whole).get("error") if isinstance(whole, dict) else 0
    if not isinstance(error, dict):
        return None
    given = cast("dict[str, object]", error)
    kept: dict[str, Any] = {
        name: _within(text, most)
        for name, most in ERROR_BYTES_MAX.items()
        if isinstance(text := given.get(name), str)
    }
    return {**kept, "retriable": False}


def _within(text: str, bytes_max: int) -> str:
    """Return as much of ``text`` as has ``bytes_max`` bytes in JSON, without what is no UTF-8."""
    told = json.dumps(text)[1:-1]
    if len(told) > bytes_max:
        whole = _CHARACTERS.match(told, 0, bytes_max)
        text = json.loads(f'"{whole[0] if whole else ""}"')
    return text.encode(errors="replace").decode()


def _is_platforms(name: bytes, ours: set[bytes]) -> bool:
    """Whether a header of a function's answer is the platform's to give."""
    lower = name.lower()
    if lower == b"server-timing" or lower == b"vary":
        return False
    return lower.startswith(b"cakework-") or lower in ours


def _is_key(name: bytes) -> bool:
    return name.lower().replace(b"_", b"-") == b"x-api-key"


def _ignore() -> None:
    return None
