"""The pool: machines restored and rehearsed ahead of demand, paused, waiting for a program.

A machine that has rehearsed has everything of a start but the user's program behind it: QEMU
is up, the kernel's state is loaded, and under emulation the code that a start runs through is
translated. The pool is refilled while no start is under way, so that refilling costs no start.
"""

import asyncio
from collections.abc import Coroutine, Mapping

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
        self._allowed_mb: float = float("inf")
        self._tasks: set[asyncio.Task[None]] = set()
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
        """Whether nothing is missing that there is memory for."""
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

    def allow(self, memory_mb: int) -> None:
        """Say how much memory waiting machines may come to use; what is beyond is released."""
        self._allowed_mb = memory_mb
        for machines in self._ready.values():
            while machines and self.memory_mb > memory_mb:
                self._spawn(machines.pop().release())
        self._wanted.set()

    def take(self, shape: Shape) -> Machine | None:
        """Take a ready machine of ``shape``; None if there is none."""
        machines = self._ready.get(shape, [])
        if not machines:
            return None
        self._wanted.set()
        return machines.pop()

    async def close(self) -> None:
        """Release every waiting machine."""
        for machines in self._ready.values():
            while machines:
                self._spawn(machines.pop().release())
        while self._tasks:
            await asyncio.wait(set(self._tasks))

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
                await asyncio.sleep(RETRY_S)

    def _missing(self) -> Shape | None:
        short = (
            shape
            for shape, size in self._sizes.items()
            if len(self._ready[shape]) < size
            and self.memory_mb + shape.memory_mb <= self._allowed_mb
        )
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
        if self.memory_mb + shape.memory_mb > self._allowed_mb:
            await machine.release()
            return
        self._ready[shape].append(machine)
        machine.process.when_ended(lambda: self._lost(shape, machine))

    def _lost(self, shape: Shape, machine: Machine) -> None:
        """A process has ended: if it is that of a machine that waits, release the machine."""
        if machine in self._ready[shape]:
            log.warning("pool.machine_lost", machine=machine.machine_id)
            self._ready[shape].remove(machine)
            self._spawn(machine.release())
            self._wanted.set()

    def _spawn(self, release: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(release)
        self._tasks.add(task)
        task.add_done_callback(self._released)

    def _released(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("pool.not_released", exc_info=error)
