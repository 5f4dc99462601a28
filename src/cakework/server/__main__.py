"""``python -m cakework.server`` runs the API, and the loops that carry out what it recorded.

SIGTERM and SIGINT end it in order: no new connections, streams told to go, the requests at
work finished, routers sent away and the stores closed.
"""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Generator

import structlog
import uvicorn
import uvloop

from cakework.logging import configure
from cakework.open_files import allow_most
from cakework.server.api.connection import api_config
from cakework.server.app import Server, build_server, create_app
from cakework.settings import Settings

GRACE_S = 30
_log = structlog.stdlib.get_logger(__name__)


class Api(uvicorn.Server):
    """uvicorn's server, ended by :meth:`end` and not by its own handling of signals."""

    def __init__(self, config: uvicorn.Config, parts: Server) -> None:
        """Serve ``config``; ``parts`` has the followers to send away."""
        super().__init__(config)
        self._parts = parts
        self._work = asyncio.current_task()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone: whoever runs this server has them."""
        yield

    def end(self) -> None:
        """Begin to end: send away who follows a log. Asked again, do not wait for requests.

        Before it serves, nobody waits for anything: the start is broken off.
        """
        self._parts.followers.close()
        self.force_exit = self.should_exit
        self.should_exit = True
        if not self.started and self._work is not None:
            self._work.cancel()


async def serve(settings: Settings) -> None:
    """Serve until a signal says to end.

    Raises:
        SystemExit: the API could not start.
    """
    parts = build_server(settings)
    config = api_config(
        create_app(settings, parts),
        settings.api_connections,
        (settings.server_memory_mb << 20) // 8,
        host=settings.host,
        port=settings.port,
        # By itself uvicorn believes whoever connects from 127.0.0.1.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=GRACE_S,
    )
    api = Api(config, parts)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, api.end)
    try:
        _spare_what_stays()
        _log.info("server.starting", port=settings.port, spared=gc.get_freeze_count())
        await api.serve()
    except asyncio.CancelledError:
        if not api.should_exit:
            raise
    if not (api.started or api.should_exit):
        raise SystemExit(1)
    _log.info("server.ended")


def _spare_what_stays() -> None:
    """Have Python look for garbage among what comes from now on. To look through all that the
    server is made of takes a tenth of a second, whenever somebody sends JSON of many lists; nobody
    else has a turn meanwhile."""
    gc.collect()
    gc.freeze()


def main() -> None:
    """Run the server with the settings of the environment."""
    settings = Settings()  # pyright: ignore[reportCallIssue]
    configure(settings.log_level, settings.log_format)
    # Debian's usual 1,024 are fewer than the connections that are taken.
    allow_most()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


if __name__ == "__main__":
    main()
