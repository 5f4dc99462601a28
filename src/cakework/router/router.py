"""The router: ``http://<hostname>:<proxy port>/`` reaches the VM with that hostname.

See docs/dev/router.md.
"""

import asyncio

import structlog

from cakework.crowd import Crowd, in_the_way
from cakework.dialer import Dialer
from cakework.domain.vms import VmState
from cakework.router.conversation import Conversation, new_request_id
from cakework.router.functions import Functions
from cakework.router.patience import Sleepers
from cakework.router.refusals import AnswerForm, Refusal, render
from cakework.router.routes import Limits, Routes
from cakework.router.upstreams import Destination, Upstreams
from cakework.router.wire import Wire
from cakework.turns import Turns

SWEEP_S = 0.5


class Router:
    """Listens, and passes requests to VMs."""

    def __init__(
        self,
        *,
        routes: Routes,
        dialer: Dialer,
        sleepers: Sleepers,
        limits: Limits | None = None,
        functions: Functions | None = None,
    ) -> None:
        self._functions = functions
        self._routes = routes
        self._sleepers = sleepers
        self._limits = limits or Limits()
        self._crowd = Crowd[Wire](self._limits.connections)
        self._accounts: Turns[str] = Turns(self._limits.connections)
        self._upstreams = Upstreams(dialer, per_vm=self._limits.connections_per_vm)
        self._ending = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._clients: dict[asyncio.Task[None], Wire] = {}
        self._conversations: dict[asyncio.Task[None], Conversation] = {}
        self._log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

    @property
    def port(self) -> int:
        """The port listened on.

        Raises:
            RuntimeError: the router was not started.
        """
        if self._server is None:
            raise RuntimeError("the router was not started")
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, host: str, port: int) -> None:
        """Listen on ``host`` and ``port`` (0: any free one).

        Raises:
            OSError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Wire(self._welcome), host, port)
        self._sweeper = asyncio.create_task(self._sweep())

    async def drain(self, grace_s: float) -> None:
        """Stop listening and close what has no request; return when the others have ended theirs,
        or ``grace_s`` is over."""
        if self._server is None:
            return
        self._server.close()
        self._ending.set()
        for client in self._crowd.silent():
            client.transport.close()
        if self._clients:
            await asyncio.wait(self._clients, timeout=grace_s)

    async def close(self) -> None:
        """Stop listening and close every connection, at once; return when they are gone."""
        if self._server is None or self._sweeper is None:
            return
        self._server.close()
        clients = list(self._clients.values())
        tasks = [self._sweeper, *self._clients]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for client in clients:
            client.abort()
        await asyncio.gather(*(client.gone() for client in clients), self._upstreams.close())
        await self._server.wait_closed()
        self._server = self._sweeper = None

    def _welcome(self, client: Wire) -> None:
        if not self._crowd.admit(client):
            busy = Refusal(503, "too_many_connections", "the router has too many connections")
            client.transport.write(render(busy, AnswerForm(new_request_id())))
            client.transport.close()
            return
        conversation = Conversation(
            client,
            routes=self._routes,
            sleepers=self._sleepers,
            upstreams=self._upstreams,
            crowd=self._crowd,
            accounts=self._accounts,
            ending=self._ending,
            limits=self._limits,
            functions=self._functions,
        )
        task = asyncio.create_task(conversation.hold())
        self._clients[task] = client
        self._conversations[task] = conversation
        task.add_done_callback(self._see_off)

    def _see_off(self, task: asyncio.Task[None]) -> None:
        client = self._clients.pop(task)
        del self._conversations[task]
        self._crowd.leave(client)
        client.abort()
        if not task.cancelled() and (error := task.exception()):
            self._log.error("proxy.failed", exc_info=error)

    async def _sweep(self) -> None:
        """Close what leads to VMs that are gone, or holds too much that nobody takes, and notice
        resets of stalled connections."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self._upstreams.sweep(self._is_live)
                for client in self._clients.values():
                    client.probe()
                for conversation in in_the_way(
                    list(self._conversations.values()), self._limits.held_bytes
                ):
                    self._log.warning("proxy.gave_way", account_id=conversation.account)
                    conversation.give_way()
            except Exception:
                self._log.exception("proxy.sweep_failed")

    def _is_live(self, destination: Destination) -> bool:
        route = self._routes.find(destination.host)
        if route is None and self._functions is not None:
            return self._functions.holds(destination.vm_id)
        if route is None or route.state is not VmState.STARTED:
            return False
        return route.run == destination.run
