"""Machines that nobody needs any more, released in the background."""

import asyncio

import structlog

from cakework.node.vms.machines import Machine

log = structlog.get_logger("cakework.node.releases")


class Releases:
    """Releases under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, machine: Machine) -> None:
        """Have ``machine`` released; one that cannot be is logged."""
        task = asyncio.create_task(machine.release())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def finish(self) -> None:
        """Return when all that were begun are done."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("machine.not_released", exc_info=error)
