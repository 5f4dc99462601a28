"""One request and its answer, streamed both ways at once.

    client ──near──▶ router ──far──▶ VM        request: the pump
    client ◀──near── router ◀──far── VM        answer:  the relay

Each direction waits for the slower of its two ends. The relay decides when the exchange is
over: an answer may begin, and end, before the request has. That a client has half-closed is
passed on; that it is lost closes the way to the VM at once, and the other way around.
"""

import asyncio
from collections.abc import Callable

import h11

from cakework.router.forwarding import (
    answer_for_client,
    interim_for_client,
    request_for_vm,
)
from cakework.router.heads import RequestHead
from cakework.router.refusals import Refusal, malformed
from cakework.router.wire import Wire

BODILESS = frozenset({204, 304})
"""Statuses whose answers have no body, whatever their heads say (RFC 9110, 6.4.1)."""

EVENTS_AT_ONCE = 64
"""A chunk of one byte is an event, of which it takes 100,000 to hold others up for a second."""


class ClientGone(Exception):
    """The client is no longer there to be answered."""


class VmBroke(Exception):
    """The VM closed the connection, or spoke something else than HTTP, before its answer ended."""


class Exchange:
    """Passes one request to a VM and its answer back.

    ``near`` has taken the request's head already. ``status`` is the answer's, once it began.
    """

    def __init__(self, client: Wire, near: h11.Connection, vm: Wire, head: RequestHead) -> None:
        self.status: int | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self._client = client
        self._near = near
        self._vm = vm
        self._far = h11.Connection(h11.CLIENT, max_incomplete_event_size=65536)
        self._head = head
        self._touch: Callable[[], None] = _ignore
        self._heard = False
        self._switched = False
        self._answered = False
        self._fault: Exception | None = None

    @property
    def has_heard(self) -> bool:
        """Whether the VM sent anything."""
        return self._heard

    @property
    def has_switched(self) -> bool:
        """Whether both sides agreed on another protocol, whose bytes are the wires' next."""
        return self._switched

    @property
    def vm_may_persist(self) -> bool:
        """Whether the VM's connection can carry another request.

        Not where a careless program could have left bytes in it that belong to this one: a body
        that it did not read, or sent where there is none.
        """
        return self._is_over and not self._far.trailing_data[0]

    @property
    def _is_over(self) -> bool:
        """Whether request and answer were of a kind that leaves nothing in the connection."""
        done = self._far.our_state is h11.DONE and self._far.their_state is h11.DONE
        plain = not self._head.has_body and not self._head.values(b"upgrade")
        bodiless = self._head.method == b"HEAD" or self.status in BODILESS
        return done and plain and not bodiless

    @property
    def client_may_persist(self) -> bool:
        """Whether the client's connection can carry another request."""
        return self._near.our_state is h11.DONE and self._near.their_state is h11.DONE

    async def run(self, touch: Callable[[], None]) -> None:
        """Pass all of the answer to the client, or up to where the protocol is switched.

        ``touch`` is called whenever bytes have moved.

        Raises:
            ClientGone: the client went away.
            VmBroke: the VM did not answer to the end.
            Refusal: the request's body is malformed.
        """
        if self._client.is_lost:
            raise ClientGone
        self._touch = touch
        self._client.on_lost = self._vm.abort
        pump = asyncio.create_task(self._pump())
        try:
            await self._relay()
        except (ConnectionError, h11.ProtocolError) as error:
            raise self._blame() from error
        finally:
            self._client.on_lost = None
            pump.cancel()
            await asyncio.wait([pump])
        if not pump.cancelled():
            pump.result()

    def _blame(self) -> Exception:
        if self._fault is not None:
            return self._fault
        return ClientGone() if self._client.is_lost else VmBroke()

    async def _pump(self) -> None:
        try:
            await self._send(self._far.send(self._request()))
            if self._near.their_state is h11.SEND_BODY:
                await self._pump_body()
            else:
                await self._send(self._far.send(h11.EndOfMessage()))
            await self._client.ended()
            self._half_close()
        except h11.RemoteProtocolError:
            self._fault = (
                ClientGone() if self._client.has_ended else malformed("the body is malformed")
            )
            self._vm.abort()
        except Refusal as refusal:
            self._fault = refusal
            self._vm.abort()
        except ConnectionError:
            # Whichever side it was, the relay finds out: it may still read an early answer.
            return

    def _request(self) -> h11.Request:
        """Return the head that the VM gets."""
        return request_for_vm(self._head, self._client.peer)

    def _answer(self, event: h11.Response, *, last: bool) -> bytes:
        """Return what the client gets of the head of an answer."""
        return self._near.send(answer_for_client(event, last=last))

    def _part(self, data: bytes) -> bytes:
        """Return what the client gets of a part of an answer's body."""
        return self._near.send(h11.Data(data=data))

    def _end(self) -> bytes:
        """Return what the client gets at the end of an answer."""
        return self._near.send(h11.EndOfMessage())

    def _taken(self, size: int) -> None:
        """Count bytes of the request's body."""
        self.bytes_in += size

    def _half_close(self) -> None:
        """Pass on that the client sends nothing more."""
        if not self._client.has_bytes:
            self._vm.write_eof()

    async def _pump_body(self) -> None:
        sent: list[bytes] = []
        number = 0
        while True:
            number += 1
            if not number % EVENTS_AT_ONCE:
                await asyncio.sleep(0)
            event = self._near.next_event()
            if event is h11.NEED_DATA:
                await self._send(b"".join(sent))
                sent.clear()
                self._near.receive_data(await self._client.read())
                self._touch()
            elif isinstance(event, h11.Data):
                self._taken(len(event.data))
                sent.append(self._far.send(h11.Data(data=event.data)))
            elif isinstance(event, h11.EndOfMessage):
                self._client.unread(self._near.trailing_data[0])
                sent.append(self._far.send(h11.EndOfMessage()))
                return await self._send(b"".join(sent))

    async def _send(self, data: bytes) -> None:
        if data:
            await self._vm.write(data)
            self._touch()

    async def _relay(self) -> None:
        while not (self._answered or self._switched):
            data = await self._vm.read()
            self._heard = self._heard or bool(data)
            self._touch()
            self._far.receive_data(data)
            more = True
            while more:
                passed, more = self._take_answer()
                if passed:
                    await self._client.write(passed)
                    self._touch()
                await asyncio.sleep(0)

    def _take_answer(self) -> tuple[bytes, bool]:
        """Return what some of what came is for the client; and whether there is more of it."""
        passed: list[bytes] = []
        for _ in range(EVENTS_AT_ONCE):
            if self._answered or self._switched:
                break
            event = self._far.next_event()
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.InformationalResponse):
                passed.append(self._interim(event))
            elif isinstance(event, h11.Response):
                self.status = event.status_code
                last = self._near.their_state is h11.SEND_BODY
                passed.append(self._answer(event, last=last))
            elif isinstance(event, h11.Data):
                self.bytes_out += len(event.data)
                passed.append(self._part(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._answered = True
                passed.append(self._end())
        else:
            return b"".join(passed), True
        return b"".join(passed), False

    def _interim(self, event: h11.InformationalResponse) -> bytes:
        if self._near.their_http_version == b"1.0":
            return b""
        passed = self._near.send(interim_for_client(event))
        if event.status_code == 101:
            if self._near.their_state is h11.SEND_BODY:
                raise h11.RemoteProtocolError("switched before the request had ended")
            self.status = 101
            self._switched = True
            self._vm.unread(self._far.trailing_data[0])
        return passed


def _ignore() -> None:
    return None
