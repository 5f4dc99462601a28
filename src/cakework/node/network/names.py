"""Names for what runs in a namespace: a resolver inside it, on 127.0.0.1 or, for a machine
behind it, on its gateway, answered by the host.

It knows one kind of question, the IPv4 addresses of a name, which it looks up as the host
does; addresses that cannot be reached from there are left out of the answer, so nothing is
learnt of the names in the host's own network. Namespaces have no IPv6: such questions get an
empty answer, all others are refused. The packet filter holds whatever is answered here.

Who asks without end, or for names whose servers do not answer, holds up himself: of each
namespace so many questions are read per second and wait at once, the others stay with the kernel,
which drops what does not fit; and accounts take turns in having theirs looked up.

Wire format: RFC 1035, section 4.
"""

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from cakework.domain.addresses import is_refused
from cakework.node.cleanup import clean_up
from cakework.node.network.namespaces import run_inside
from cakework.turns import Turns
from cakework.unbroken import unbroken

ADDRESS = "127.0.0.1"
PORT = 53
LOOKUPS_AT_ONCE = 16
TIMEOUT_S = 20.0
"""Longest that a question waits: glibc asks for the third and last time after 10 s
(resolv.conf(5): timeout, attempts)."""
MOST_WAITING = 256
"""Questions of one namespace that wait for their answers at once."""
QUESTIONS_AT_ONCE, QUESTIONS_PER_S = 1000, 100
"""Questions of one namespace: that many, and so many more each second."""
QUESTION_BYTES_MAX = 512
"""RFC 1035, section 2.3.4."""
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
    """Looks names up as the host does, in threads, accounts in turns. ``close()`` when done.

    A look-up cannot be broken off, and one whose name server does not answer takes half a minute;
    so its turn is held until it is over, whoever has given up waiting for it.
    """

    def __init__(
        self, find: Callable[[str], list[str]] | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Find addresses with ``find``, which blocks; without it, with getaddrinfo(3)."""
        self._find = find or _addresses
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="names")
        self._turns: Turns[str] = Turns(LOOKUPS_AT_ONCE)

    async def lookup(self, account: str, name: str) -> list[str]:
        """Return the IPv4 addresses of ``name``, for a build or an import of ``account``.

        Raises:
            socket.gaierror: it has none, or (EAI_AGAIN) they are not known in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._turns.wait(account)
                found = await asyncio.shield(self._begin(account, name))
        except TimeoutError as error:
            raise socket.gaierror(socket.EAI_AGAIN, "not known in time") from error
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Take no more questions."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, account: str, name: str) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        try:
            found = loop.run_in_executor(self._threads, self._find, name)
        except BaseException:
            self._turns.give_back(account)
            raise
        found.add_done_callback(lambda found: self._over(account, found))
        return found

    def _over(self, account: str, found: asyncio.Future[list[str]]) -> None:
        self._turns.give_back(account)
        if not found.cancelled():
            # Of who has given up waiting, nobody else asks for it.
            found.exception()


@asynccontextmanager
async def serve_names(
    namespace_fd: int, lookup: Lookup, allow: Sequence[str], address: str = ADDRESS
) -> AsyncGenerator[None]:
    """Answer on port 53 of an ``address`` of the namespace while the block runs.

    ``allow`` are ranges whose addresses are given although they are not public.

    Raises:
        OSError: the namespace has a resolver there already.
    """
    resolver = Resolver(lookup, [ipaddress.IPv4Network(one) for one in allow])
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


class Resolver:
    """Answers what comes at a UDP socket. ``end()`` when done."""

    def __init__(self, lookup: Lookup, allow: Sequence[ipaddress.IPv4Network] = ()) -> None:
        """Give addresses that are public, or in ``allow``."""
        self._socket: socket.socket | None = None
        self._lookup = lookup
        self._allow = allow
        self._tasks: set[asyncio.Task[None]] = set()
        self._may_read = float(QUESTIONS_AT_ONCE)
        self._counted_at = 0.0
        self._later: asyncio.TimerHandle | None = None

    def listen(self, own: socket.socket) -> None:
        """Begin to read from a socket that is its own from now on."""
        self._socket = own
        self._counted_at = asyncio.get_running_loop().time()
        self._go_on()

    async def end(self) -> None:
        """Close the socket and answer no more."""
        if self._later is not None:
            self._later.cancel()
        if self._socket is not None:
            self._rest(self._socket)
            self._socket.close()
            self._socket = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _read(self, own: socket.socket) -> None:
        """Read one question, if it is time for one more; else look at none until it is."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        grown = self._may_read + (now - self._counted_at) * QUESTIONS_PER_S
        self._may_read, self._counted_at = min(grown, QUESTIONS_AT_ONCE), now
        if self._may_read < 1:
            self._rest(own)
            wait_s = (1 - self._may_read) / QUESTIONS_PER_S
            self._later = loop.call_later(wait_s, self._go_on)
            return
        try:
            data, address = own.recvfrom(QUESTION_BYTES_MAX + 1)
        except OSError:
            # There was nothing, or a fault of an answer of before is told: nobody waits for it.
            return
        self._may_read -= 1
        task = asyncio.create_task(self._attend(data, address))
        self._tasks.add(task)
        task.add_done_callback(self._attended)
        if len(self._tasks) >= MOST_WAITING:
            self._rest(own)

    def _rest(self, own: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(own.fileno())

    def _go_on(self) -> None:
        self._later = None
        if self._socket is not None and len(self._tasks) < MOST_WAITING:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._socket.fileno(), self._read, self._socket)

    def _attended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if len(self._tasks) == MOST_WAITING - 1 and self._later is None:
            self._go_on()

    async def _attend(self, data: bytes, address: tuple[str, int]) -> None:
        if len(data) > QUESTION_BYTES_MAX:
            return
        try:
            question = parse_question(data)
        except ValueError:
            return
        answer = await self._answer(question)
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Who asked may be gone, or be slow: answers get lost, and questions come again.
                self._socket.sendto(answer, address)

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


async def _listen(namespace_fd: int, resolver: Resolver, address: str) -> None:
    own = await asyncio.to_thread(run_inside, namespace_fd, partial(_udp_socket, address))
    resolver.listen(own)


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
