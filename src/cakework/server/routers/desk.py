"""Where routers come to: on a unix socket, to be told of every VM that may be reached.

What changes is written to them before whoever changed it is answered.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from cakework.domain import routes as wire
from cakework.domain.errors import CakeworkError
from cakework.domain.ids import VmId
from cakework.line_wire import LineWire
from cakework.server.functions.lendings import Lendings
from cakework.server.routers.gates import Gates
from cakework.server.services.routes import Route, Routes
from cakework.server.services.wakes import Wakes

AT_ONCE = 500
"""Routes that are told without letting others have their turn."""
DETAIL_CHARS_MAX = 1000
"""Of why a VM was not woken, in which a guest or an image may have a part: longer than a line may
be, it would end the connection, and everybody's wakes with it."""
_log = structlog.stdlib.get_logger(__name__)


class Desk:
    """Tells routers of ``routes``, asks them through ``gates``, and has VMs woken for them and
    instances of functions lent to them."""

    def __init__(self, routes: Routes, gates: Gates, wakes: Wakes, lendings: Lendings) -> None:
        self._routes = routes
        self._gates = gates
        self._wakes = wakes
        self._lendings = lendings
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._closing = False

    async def open(self, path: Path) -> None:
        """Listen at ``path``, for this user alone.

        Raises:
            OSError: it cannot be listened on.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._welcome, str(path))
        self._routes.watch(self._tell)

    async def close(self) -> None:
        """Send every router away; what is lent to them stays so for a while."""
        self._closing = True
        self._routes.watch(None)
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            await link.close()

    def _welcome(self) -> LineWire:
        link = _Link(self._gates, self._wakes, self._lendings, self._see_off)
        self._links.add(link)
        self._gates.join(link)
        link.do(self._tell_all(link))
        return link.connection

    def _see_off(self, link: "_Link") -> None:
        self._links.discard(link)
        self._gates.leave(link)
        link.end()
        if not self._closing:
            link.borrower.close()
        _log.info("router.left")

    async def _tell_all(self, link: "_Link") -> None:
        hosts = self._routes.hosts()
        for start in range(0, len(hosts), AT_ONCE):
            for host in hosts[start : start + AT_ONCE]:
                if (route := self._routes.find(host)) is not None:
                    link.tell(_message(host, route))
            await link.connection.drained()
            await asyncio.sleep(0)
        link.tell(wire.Whole())
        _log.info("router.came", routes=len(hosts))

    def _tell(self, host: str, route: Route | None) -> None:
        message = wire.Gone(host=host) if route is None else _message(host, route)
        for link in self._links:
            link.tell(message)


class _Link:
    """One router."""

    def __init__(
        self, gates: Gates, wakes: Wakes, lendings: Lendings, see_off: Callable[["_Link"], None]
    ) -> None:
        self.connection = LineWire(self.hear, lambda: see_off(self))
        self._gates = gates
        self._wakes = wakes
        self._tasks: set[asyncio.Task[None]] = set()
        self.borrower = lendings.borrower(self.tell)
        self.do(self.borrower.run())

    def tell(self, message: wire.Message) -> None:
        self.connection.send(message.line())

    def hear(self, line: bytes) -> None:
        match wire.from_router.validate_json(line):
            case wire.Ask(ask=ask):
                self.tell(wire.Told(ask=ask))
            case wire.Wake() as wake:
                self.do(self._wake(wake))
            case wire.Gate() as gate:
                self._gates.answered(self, gate)
            case wire.Find() | wire.Key() | wire.Borrow() as question:
                self.do(self.borrower.answer(question))
            case wire.Hold() | wire.Work() as told:
                self.borrower.hear(told)

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        tasks = list(self._tasks)
        self.end()
        self.connection.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wake(self, wake: wire.Wake) -> None:
        try:
            await self._wakes.wake(VmId(wake.vm_id))
        except CakeworkError as error:
            self.tell(
                wire.Woken(
                    ask=wake.ask,
                    code=error.code,
                    detail=error.detail[:DETAIL_CHARS_MAX],
                    retry_after_s=error.retry_after_s,
                )
            )
        except Exception:
            _log.exception("wake.failed", vm_id=wake.vm_id)
            self.tell(wire.Woken(ask=wake.ask, code=CakeworkError.code, detail="it failed"))
        else:
            self.tell(wire.Woken(ask=wake.ask))


def _message(host: str, route: Route) -> wire.VmRoute:
    return wire.VmRoute(
        host=host,
        vm_id=route.vm_id,
        account_id=route.account_id,
        port=route.port,
        state=route.state,
        run=route.run,
        auto_start=route.auto_start,
    )
