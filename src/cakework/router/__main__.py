"""``python -m cakework.router`` runs the router to the VMs, beside the server that knows of them.

SIGTERM and SIGINT end it in order: no new connections, those without a request closed, the
requests at work finished.
"""

import asyncio
import signal

import structlog
import uvloop

from cakework.dialer import NodeDialer
from cakework.logging import configure
from cakework.open_files import allow_most
from cakework.router.activity import Activity
from cakework.router.functions import Functions
from cakework.router.link import ServerLink
from cakework.router.patience import Sleepers
from cakework.router.router import Router
from cakework.router.routes import Limits
from cakework.settings import Settings

GRACE_S = 20.0
"""For requests at work, when it ends: less than whoever ends it waits before it kills."""
_log = structlog.stdlib.get_logger(__name__)


async def serve(settings: Settings) -> None:
    """Serve until a signal says to end; a second one cuts off what is at work.

    Raises:
        OSError: the address cannot be listened on.
    """
    limits = Limits(
        idle_timeout_s=settings.proxy_idle_timeout_s,
        connections=settings.proxy_connections,
        connections_per_vm=settings.proxy_connections_per_vm,
        wake_timeout_s=settings.wake_timeout_s,
        held_bytes=(settings.router_memory_mb << 20) // 4,
        function_body_bytes=settings.function_body_mb << 20,
    )
    activity = Activity()
    link = ServerLink(settings.routes_socket, activity)
    functions = link.functions = Functions(link, wait_s=limits.place_wait_s)
    router = Router(
        routes=link,
        dialer=NodeDialer(settings.dial_socket),
        sleepers=Sleepers(activity, link),
        limits=limits,
        functions=functions,
    )
    signals = asyncio.Semaphore(0)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.release)
    await router.start(settings.proxy_host, settings.proxy_port)
    _log.info("router.started", proxy_port=router.port)
    linking = asyncio.create_task(link.run())
    holding = asyncio.create_task(functions.run())
    await signals.acquire()
    drained = asyncio.create_task(router.drain(GRACE_S))
    again = asyncio.create_task(signals.acquire())
    await asyncio.wait([drained, again], return_when=asyncio.FIRST_COMPLETED)
    for task in (drained, again):
        task.cancel()
    await asyncio.wait([drained, again])
    await router.close()
    await functions.close()
    for task in (linking, holding):
        task.cancel()
    await asyncio.wait([linking, holding])
    _log.info("router.ended")


def main() -> None:
    """Run the router with the settings of the environment."""
    settings = Settings()  # pyright: ignore[reportCallIssue]
    configure(settings.log_level, settings.log_format)
    # Each connection takes two, and each VM may have hundreds.
    allow_most()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


if __name__ == "__main__":
    main()
