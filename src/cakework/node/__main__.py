"""``python -m cakework.node``: run this host's node, as root, until SIGTERM."""

import asyncio
import os
import signal
import sys

import uvloop

from cakework.domain.errors import CakeworkError
from cakework.logging import configure
from cakework.node.app import run_node
from cakework.node.vms.artifacts import Artifacts
from cakework.open_files import allow_most
from cakework.settings import Settings


def main() -> int:
    """Run the node; return the exit status."""
    settings = Settings()
    configure(settings.log_level, settings.log_format)
    # Each machine takes about ten, those that wait too.
    allow_most()
    os.umask(0o022)
    try:
        uvloop.run(_main(settings))
    except CakeworkError as error:
        print(f"cakework node: {error.detail}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


async def _main(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run_node(settings, Artifacts(settings.artifacts_dir), stop)


if __name__ == "__main__":
    sys.exit(main())
