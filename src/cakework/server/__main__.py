"""``python -m cakework.server`` runs the API and, in the same process, the router to the VMs.

SIGTERM and SIGINT end it in order: no new connections, streams told to go, the requests at
work finished, the router and the stores closed.
"""

import asyncio
import signal
from types import FrameType

import structlog
import uvicorn
import uvloop

from cakework.server.app import Server, build_server, create_app
from cakework.server.logging import configure
from cakework.server.proxy.dialer import NodeDialer
from cakework.server.proxy.router import Router
from cakework.settings import Settings

GRACE_S = 30
_log = structlog.stdlib.get_logger(__name__)


class Api(uvicorn.Server):
    """uvicorn's server; those who follow a log are sent away as soon as it is to end."""

    def __init__(self, config: uvicorn.Config, parts: Server) -> None:
        """Serve ``config``; ``parts`` has the followers."""
        super().__init__(config)
        self._parts = parts

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, on a signal."""
        self._parts.followers.close()
        super().handle_exit(sig, frame)


async def serve(settings: Settings) -> None:
    """Serve until a signal says to end.

    Raises:
        OSError: an address cannot be listened on.
        SystemExit: uvicorn could not start.
    """
    parts = build_server(settings)
    config = uvicorn.Config(
        create_app(settings, parts),
        host=settings.host,
        port=settings.port,
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    router = Router(routes=parts.routes, dialer=NodeDialer(settings.dial_socket))
    await router.start(settings.proxy_host, settings.proxy_port)
    _log.info("server.starting", port=settings.port, proxy_port=router.port)
    try:
        await Api(config, parts).serve()
    finally:
        await router.close()
    _log.info("server.ended")


def main() -> None:
    """Run the server with the settings of the environment."""
    settings = Settings()  # pyright: ignore[reportCallIssue]
    configure(settings.log_level, settings.log_format)
    # uvicorn raises the signal again once it has ended; by then all is done.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    main()
