"""Names for what runs in a namespace: a resolver inside it, on 127.0.0.1 or, for a machine
behind it, on its gateway, answered by the host.

It knows one kind of question, the IPv4 addresses of a name, which it looks up as the host
does; addresses that cannot be reached from there are left out of the answer, so nothing is
learnt of the names in the host's own network. Namespaces have no IPv6: such questions get an
empty answer, all others are refused. The packet filter holds whatever is answered here.

Wire format: RFC 1035, section 4.
"""

import asyncio
import ipaddress
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

from cakework.domain.addresses import is_refused
from cakework.node.cleanup import clean_up
from cakework.node.network.namespaces import run_inside
from cakework.node.unbroken import unbroken

ADDRESS = "127.0.0.1"
PORT = 53
LOOKUPS_AT_ONCE = 16
MOST_WAITING = 256
MOST_ADDRESSES = 12
"""As many as fit in 512 bytes behind the longest question."""
TTL_S = 30
_HEADER = struct.Struct("!HHHHHH")
_ANSWER = struct.Struct("!HHHIH4s")
_A, _AAAA, _IN = 1, 28, 1
_NAME_IS_THE_QUESTIONS = 0xC00C
_RESPONSE, _RECURSION_WANTED, _RECURSION_AVAILABLE = 0x8000, 0x0100, 0x0080
_OPCODE = 0x7800
_NO_ERROR, _SERVER_FAILURE, _NO_SUCH_NAME, _NOT_IMPLEMENTED = 0, 2, 3, 4

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""Returns the IPv4 addresses of a name; raises socket.gaierror."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: ``raw`` is the question as it came, ``name`` without its last dot."""

    ident: int
    flags: int
    name: str
    kind: int
    raw: bytes


class HostNames:
    """Looks names up as the host does, a bounded number at once. ``close()`` when done."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="names")

    async def lookup(self, name: str) -> list[str]:
        """Return the IPv4 addresses of ``name``. Raises socket.gaierror."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _addresses, name)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Take no more questions."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@asynccontextmanager
async def serve_names(
    namespace_fd: int, lookup: Lookup, allow: Sequence[str], address: str = ADDRESS
) -> AsyncGenerator[None]:
    """Answer on port 53 of an ``address`` of the namespace while the block runs.

    ``allow`` are ranges whose addresses are given although they are not public.

    Raises:
        OSError: the namespace has a resolver there already.
    """
    resolver = _Resolver(lookup, [ipaddress.IPv4Network(one) for one in allow])
    try:
        await unbroken(_listen(namespace_fd, resolver, address))
        yield
    finally:
        await clean_up("resolver", resolver.end)


def parse_question(packet: bytes) -> Question:
    """Read a query of one question.

    Raises:
        ValueError: it is none.
    """
    if len(packet) < _HEADER.size:
        raise ValueError("too short for a query")
    ident, flags, count, _, _, _ = _HEADER.unpack_from(packet)
    if flags & _RESPONSE or count != 1:
        raise ValueError("not a query of one question")
    labels: list[str] = []
    at = _HEADER.size
    while at < len(packet) and (length := packet[at]):
        label = packet[at + 1 : at + 1 + length]
        if length > 63 or len(label) < length:
            raise ValueError("not a name")
        labels.append(label.decode("ascii"))
        at += 1 + length
    end = at + 5
    if end > len(packet) or end - _HEADER.size > 259:
        raise ValueError("the question does not end")
    kind, kind_of_net = struct.unpack_from("!HH", packet, at + 1)
    if kind_of_net != _IN:
        raise ValueError("not a question about the internet")
    return Question(ident, flags, ".".join(labels), kind, packet[_HEADER.size : end])


def answer_to(question: Question, addresses: Sequence[str], code: int = _NO_ERROR) -> bytes:
    """Return the packet that answers ``question``."""
    kept = addresses[:MOST_ADDRESSES]
    flags = _RESPONSE | (question.flags & (_OPCODE | _RECURSION_WANTED)) | _RECURSION_AVAILABLE
    header = _HEADER.pack(question.ident, flags | code, 1, len(kept), 0, 0)
    records = (
        _ANSWER.pack(_NAME_IS_THE_QUESTIONS, _A, _IN, TTL_S, 4, ipaddress.IPv4Address(one).packed)
        for one in kept
    )
    return header + question.raw + b"".join(records)


def reachable(address: str, allow: Sequence[ipaddress.IPv4Network]) -> bool:
    """Say whether ``address`` is a public one, or in a range that is allowed."""
    parsed = ipaddress.IPv4Address(address)
    if any(parsed in network for network in allow):
        return True
    return not is_refused(parsed)


class _Resolver(asyncio.DatagramProtocol):
    def __init__(self, lookup: Lookup, allow: Sequence[ipaddress.IPv4Network]) -> None:
        self._lookup = lookup
        self._allow = allow
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transport is an instance of it.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(self._tasks) >= MOST_WAITING:
            return
        task = asyncio.create_task(self._attend(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Close its socket, if it has one, and answer no more."""
        if self._transport is not None:
            self._transport.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _attend(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            question = parse_question(data)
        except ValueError:
            return
        answer = await self._answer(question)
        if self._transport and not self._transport.is_closing():
            self._transport.sendto(answer, addr)

    async def _answer(self, question: Question) -> bytes:
        if question.flags & _OPCODE or question.kind not in (_A, _AAAA):
            return answer_to(question, (), _NOT_IMPLEMENTED)
        try:
            found = await self._lookup(question.name)
        except (socket.gaierror, UnicodeError) as error:
            passing = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            return answer_to(question, (), _SERVER_FAILURE if passing else _NO_SUCH_NAME)
        known = [address for address in found if reachable(address, self._allow)]
        if not known:
            return answer_to(question, (), _NO_SUCH_NAME)
        return answer_to(question, known if question.kind == _A else ())


async def _listen(namespace_fd: int, resolver: _Resolver, address: str) -> None:
    own = await asyncio.to_thread(run_inside, namespace_fd, partial(_udp_socket, address))
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: resolver, sock=own)


def _addresses(name: str) -> list[str]:
    found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def _udp_socket(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.bind((address, PORT))
    except BaseException:
        made.close()
        raise
    return made
