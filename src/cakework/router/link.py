"""The way from a router to its server: which hostname is which VM, and wakes.

The router keeps what the server told, so visitors of VMs that run wait for no answer of the
server's, nor need it be there. Whatever else it would say (that there is no such VM, that it is
stopped) it says only once the server has confirmed it.
"""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import structlog

from cakework.domain import routes as wire
from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    NoRoom,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from cakework.domain.vms import VmState
from cakework.line_wire import LineWire
from cakework.router.activity import Activity
from cakework.router.functions import Functions

RETRY_FIRST_S = 0.05
RETRY_LAST_S = 1.0
ANSWER_S = 5.0
"""Within which a server that is there confirms what it told."""
ASKED_MAX = 1000
"""Who asks beyond them is told that nobody answers: so a server that hangs takes only these."""
_log = structlog.stdlib.get_logger(__name__)
_REASONS = {error.code: error for error in (Conflict, NoRoom, NotFound, QuotaExceeded, Unavailable)}
_AWAY = "The server does not answer now; VMs that run are reached all the same."


class ServerLink:
    """Knows the routes that the server at ``path`` tells of, and has it start VMs."""

    def __init__(self, path: Path, activity: Activity) -> None:
        self._path = path
        self._activity = activity
        self._routes: dict[str, wire.VmRoute] = {}
        self._told: set[str] = set()
        """Hosts told of by a server that has not told of all yet."""
        self._wire: LineWire | None = None
        self._whole = False
        self._connections = 0
        self._gates: dict[tuple[int, int], str] = {}
        """VMs by their gates that are shut: of which connection, and its number there."""
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[wire.Message | None]] = {}
        self._wakes: dict[str, asyncio.Task[wire.Message | None]] = {}
        self.functions: Functions | None = None
        """What is told of functions, and when the server is there."""

    @property
    def is_whole(self) -> bool:
        """Whether the server is there and has told of everything."""
        return self._whole

    def find(self, host: str) -> wire.VmRoute | None:
        """Return the route of ``host``, as was last told."""
        return self._routes.get(host.rstrip("."))

    async def confirm(self) -> None:
        """Return once everything is told that the server knew when this was called.

        Raises:
            Unavailable: it does not answer.
        """
        if len(self._asked) >= ASKED_MAX:
            raise Unavailable(_AWAY)
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._answer(lambda ask: wire.Ask(ask=ask))
        except TimeoutError as error:
            raise Unavailable(_AWAY) from error

    async def wake(self, vm_id: str) -> None:
        """Have the server start a VM, asked once for all who wait; return when it is started.

        Raises:
            CakeworkError: it cannot be, or the server is not there.
        """
        task = self._wakes.get(vm_id)
        if task is None:
            question = self._answer(lambda ask: wire.Wake(ask=ask, vm_id=vm_id))
            task = self._wakes[vm_id] = asyncio.create_task(question)
            task.add_done_callback(lambda done: self._woken(vm_id, done))
        await asyncio.shield(task)

    async def ask(
        self, question: Callable[[int], wire.Message], within_s: float = ANSWER_S
    ) -> wire.Message:
        """Ask the server something; return what it answers.

        Raises:
            Unavailable: it does not.
        """
        if len(self._asked) >= ASKED_MAX:
            raise Unavailable(_AWAY)
        try:
            async with asyncio.timeout(within_s):
                answer = await self._answer(question)
        except TimeoutError as error:
            raise Unavailable(_AWAY) from error
        if answer is None:
            raise Unavailable(_AWAY)
        return answer

    def say(self, message: wire.Message) -> None:
        """Tell the server something, if it is there."""
        if self._whole:
            self._say(message)

    async def run(self) -> None:
        """Keep connected, until cancelled."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                if await self._hold():
                    pause_s = RETRY_FIRST_S
            except OSError as error:
                _log.debug("link.none", detail=str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_LAST_S)

    async def _hold(self) -> bool:
        """Hold one connection to its end; say whether the server told everything on it."""
        over = asyncio.Event()
        connection = LineWire(self._hear, over.set)
        self._wire = connection
        self._connections += 1
        self._told = set()
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: connection, str(self._path))
            await over.wait()
            return self._whole
        finally:
            connection.close()
            self._lose()

    def _lose(self) -> None:
        if self._whole:
            _log.warning("link.lost")
        self._wire, self._whole = None, False
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Unavailable(_AWAY))

    def _hear(self, line: bytes) -> None:
        match wire.from_server.validate_json(line):
            case wire.VmRoute() as route:
                self._told.add(route.host)
                self._routes[route.host] = route
                if route.state is not VmState.STARTED:
                    self._activity.forget(route.vm_id)
            case wire.Gone(host=host):
                self._forget(host)
            case wire.Whole():
                for host in self._routes.keys() - self._told:
                    self._forget(host)
                self._told = set()
                self._whole = True
                for key in [key for key in self._gates if key[0] != self._connections]:
                    self._open(key)
                _log.info("link.whole", routes=len(self._routes))
                if self.functions is not None:
                    self.functions.met()
            case wire.Shut() as shut:
                self._shut(shut)
            case wire.Open(gate=gate):
                self._open((self._connections, gate))
            case wire.Told(ask=ask):
                self._heard(ask, None)
            case wire.Woken() as woken:
                self._heard(woken.ask, _why_not(woken))
            case wire.Found() | wire.Checked() | wire.Refused() | wire.Held() as told:
                self._heard(told.ask, None, told)
            case wire.Lent() as lent:
                if not self._heard(lent.ask, None, lent) and self.functions is not None:
                    self.functions.hear(lent)
            case wire.Recall() | wire.Cut() | wire.Noted() as told:
                if self.functions is not None:
                    self.functions.hear(told)

    def _forget(self, host: str) -> None:
        route = self._routes.pop(host, None)
        self._told.discard(host)
        if route is not None:
            self._activity.forget(route.vm_id)

    def _shut(self, shut: wire.Shut) -> None:
        idle_s = self._activity.idle_s(shut.vm_id)
        busy = self._activity.count(shut.vm_id) > 0
        may = shut.idle_s is None or (not busy and idle_s >= shut.idle_s)
        if may:
            key = (self._connections, shut.gate)
            self._gates[key] = shut.vm_id
            self._activity.shut(shut.vm_id, key)
        self._say(wire.Gate(gate=shut.gate, shut=may, idle_s=idle_s))

    def _open(self, key: tuple[int, int]) -> None:
        if (vm_id := self._gates.pop(key, None)) is not None:
            self._activity.open(vm_id, key)

    def _say(self, message: wire.Message) -> None:
        if self._wire is not None:
            self._wire.send(message.line())

    def _woken(self, vm_id: str, task: asyncio.Task[wire.Message | None]) -> None:
        del self._wakes[vm_id]
        if not task.cancelled():
            # Looked at, since everyone who waited may have left.
            task.exception()

    async def _answer(self, question: Callable[[int], wire.Message]) -> wire.Message | None:
        if not self._whole:
            raise Unavailable(_AWAY)
        ask = next(self._numbers)
        answer = self._asked[ask] = asyncio.get_running_loop().create_future()
        self._say(question(ask))
        try:
            return await answer
        finally:
            del self._asked[ask]

    def _heard(
        self, ask: int, error: CakeworkError | None, told: wire.Message | None = None
    ) -> bool:
        """Give an answer to who asked; say whether they still wait."""
        answer = self._asked.get(ask)
        if answer is None or answer.done():
            return False
        if error is None:
            answer.set_result(told)
        else:
            answer.set_exception(error)
        return True


def _why_not(woken: wire.Woken) -> CakeworkError | None:
    if woken.code is None:
        return None
    kind = _REASONS.get(woken.code, CakeworkError)
    return kind(woken.detail, retry_after_s=woken.retry_after_s)
