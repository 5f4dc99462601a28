"""The pool: machines restored and rehearsed ahead of demand, paused, waiting for a program.

A machine that has rehearsed has everything of a start but the user's program behind it: QEMU
is up, the kernel's state is loaded, and under emulation the code that a start runs through is
translated. The pool is refilled while no start is under way, so that refilling costs no start.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import structlog

from cakework.domain.errors import CakeworkError
from cakework.domain.vms import Shape
from cakework.node.vms.machines import Host, Machine
from cakework.node.vms.workshop import Workshop

RETRY_S = 10.0
log = structlog.get_logger("cakework.node.pool")


class Pool:
    """Ready machines by shape, at most as many of each as ``sizes`` says."""

    def __init__(self, host: Host, workshop: Workshop, sizes: Mapping[Shape, int]) -> None:
        self._host = host
        self._workshop = workshop
        self._sizes = dict(sizes)
        self._ready: dict[Shape, list[Machine]] = {shape: [] for shape in sizes}
        self._wanted = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._starts = 0
        self._wanted.set()

    @property
    def ready(self) -> int:
        """How many machines wait."""
        return sum(len(machines) for machines in self._ready.values())

    @property
    def memory_mb(self) -> int:
        """What the waiting machines may come to use."""
        return sum(shape.memory_mb * len(machines) for shape, machines in self._ready.items())

    @property
    def full(self) -> bool:
        """Whether nothing is missing."""
        return self._missing() is None

    def begin_start(self) -> None:
        """Hold refilling back while a start is under way."""
        self._starts += 1
        self._quiet.clear()

    def end_start(self) -> None:
        """The start is over."""
        self._starts -= 1
        if not self._starts:
            self._quiet.set()

    def take(self, shape: Shape) -> Machine | None:
        """Take a ready machine of ``shape``; None if there is none."""
        machines = self._ready.get(shape, [])
        while machines:
            machine = machines.pop()
            self._wanted.set()
            if not machine.process.ended:
                return machine
            asyncio.get_running_loop().create_task(machine.release())
        return None

    async def drain(self) -> None:
        """Release every waiting machine: there is better use for the memory."""
        for machines in self._ready.values():
            while machines:
                await machines.pop().release()

    async def fill(self) -> None:
        """Keep the pool full, for ever."""
        while True:
            await self._wanted.wait()
            await self._quiet.wait()
            shape = self._missing()
            if shape is None:
                self._wanted.clear()
                continue
            try:
                await self._add(shape)
            except CakeworkError as error:
                log.warning("pool.not_filled", reason=error.detail)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._never(), RETRY_S)

    def _missing(self) -> Shape | None:
        short = (s for s, size in self._sizes.items() if len(self._ready[s]) < size)
        return next(short, None)

    async def _add(self, shape: Shape) -> None:
        template = await self._workshop.template(shape)
        machine = await Machine.restore(self._host, template, image=None)
        try:
            await machine.rehearse()
            await machine.monitor.pause()
        except BaseException:
            await machine.release()
            raise
        self._ready[shape].append(machine)

    async def _never(self) -> None:
        await asyncio.Event().wait()
