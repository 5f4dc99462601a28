"""The pool: machines restored ahead of demand, paused, waiting for a start.

Those of templates have rehearsed: QEMU is up, the kernel's state is loaded, and under emulation
the code that a start runs through is translated. Those of snapshots have a frozen program. Some
shapes always have machines that wait; snapshots, and other shapes, have one if they are among those
that were started most lately, and more than once; of a snapshot those with egress apart from those
without. Those of templates have egress. Where guests are emulated, they are
forked from a zygote of their source (:mod:`.zygotes`), which also serves starts beyond what waits.
The pool is refilled while no start is under way, so that refilling costs no start.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from cakework.domain.errors import CakeworkError
from cakework.domain.vms import Shape, VmEgress
from cakework.node.vms.host import Host
from cakework.node.vms.machines import Machine
from cakework.node.vms.releases import Releases
from cakework.node.vms.room import WAITING_MB
from cakework.node.vms.saved import Saved
from cakework.node.vms.workshop import Workshop
from cakework.node.vms.zygotes import Zygotes

RETRY_S = 10.0
BUSY_STARTS = 2
BUSY_WITHIN_S = 600.0
"""A source is busy when it was started so often in this time."""
MOST_NOTED = 100
log = structlog.get_logger("cakework.node.pool")


@dataclass(slots=True, eq=False)
class Stock:
    """The machines of one source that wait. ``snapshot`` is None for those of a template, which
    lies in ``template`` when it was made. A machine that waits has run: so it is known before
    what it is to reach."""

    shape: Shape
    size: int
    snapshot: Saved | None = None
    template: Path | None = None
    egress: VmEgress = "internet"
    ready: list[Machine] = field(default_factory=list[Machine])
    starts: deque[float] = field(default_factory=lambda: deque(maxlen=BUSY_STARTS))


class Pool:
    """Ready machines: as many of each shape as ``sizes`` says, and one of each of at most ``busy``
    others, shapes or snapshots."""

    def __init__(
        self, host: Host, workshop: Workshop, sizes: Mapping[Shape, int], busy: int = 0
    ) -> None:
        self._host = host
        self._workshop = workshop
        self._always = {shape: Stock(shape, size) for shape, size in sizes.items()}
        self._asked: OrderedDict[Shape | tuple[Path, VmEgress], Stock] = OrderedDict()
        self._most_busy = busy
        self._zygotes = Zygotes(host, busy)
        self._allowed_mb = 0
        self._releases = Releases()
        self._wanted = asyncio.Event()
        self._wanted.set()

    @property
    def ready(self) -> int:
        """How many machines wait."""
        return sum(len(stock.ready) for stock in self._stocks())

    @property
    def memory_mb(self) -> int:
        """What the waiting machines use, and those that they are forked from may."""
        return WAITING_MB * self.ready + self._zygotes.memory_mb

    @property
    def full(self) -> bool:
        """Whether nothing is missing that there is memory for."""
        return self._missing() is None

    def allow(self, memory_mb: int) -> None:
        """Say how much memory there is for waiting machines; what is beyond is released.

        What others are forked from goes first, being most of it; then what waits because it was
        asked for. The VM that was just promised memory may be about to take what waits.
        """
        self._allowed_mb = memory_mb
        while self.memory_mb > memory_mb and self._zygotes.shrink():
            pass
        for stock in [*self._asked.values(), *self._always.values()]:
            while stock.ready and self.memory_mb > memory_mb:
                self._releases.begin(stock.ready.pop())
        self._wanted.set()

    def take(self, source: Shape | Saved, egress: VmEgress = "internet") -> Machine | None:
        """Take a ready machine of a shape's template, which has egress, or of a snapshot; None if
        there is none.

        Its processors are paused; what is asked for often is kept ready from then on.
        """
        stock = self._stock_of(source, egress)
        if not stock.ready:
            return None
        self._wanted.set()
        return stock.ready.pop()

    async def fork(
        self,
        saved: Saved,
        image: Path | None = None,
        *,
        make: bool = False,
        forkable: bool = False,
        egress: VmEgress = "internet",
    ) -> Machine | None:
        """Return a machine forked from the zygote of ``saved``, running; None if there is none.

        It is made first where ``make`` says so and there is memory for it. ``image`` is put behind
        its image disk if it waits for a program; ``forkable`` it can become a zygote itself.

        Raises NoRoom if this host has none for a machine.
        """
        if make and not self._zygotes.has(saved) and self._has_room(self._zygote_mb(saved)):
            await self._zygotes.make(saved)
        return await self._zygotes.fork(saved, image, forkable=forkable, network=egress)

    async def offer(self, saved: Saved, machine: Machine) -> None:
        """Take a machine that is just what ``saved`` is as its zygote, or release it."""
        if machine.fork_socket is not None and self._has_room(self._zygote_mb(saved)):
            await self._zygotes.offer(saved, machine)
        else:
            self._zygotes.forget(saved.folder)
            await machine.release()

    def forget(self, folder: Path) -> None:
        """Release the machines of a snapshot that is gone from ``folder``."""
        self._zygotes.forget(folder)
        self._drop((folder, "internet"))
        self._drop((folder, "none"))

    async def close(self) -> None:
        """Release every waiting machine."""
        for stock in self._stocks():
            self._release(stock)
        await self._releases.finish()
        await self._zygotes.close()

    async def fill(self) -> None:
        """Keep the pool full, for ever."""
        while True:
            await self._wanted.wait()
            await self._host.quiet.wait()
            self._trim()
            stock = self._missing()
            if stock is None:
                self._wanted.clear()
                continue
            try:
                await self._add(stock)
            except CakeworkError as error:
                log.warning("pool.not_filled", reason=error.detail)
                if stock.snapshot is not None:
                    self.forget(stock.snapshot.folder)
                else:
                    self._drop(stock.shape)
                await asyncio.sleep(RETRY_S)
            except Exception:
                log.exception("pool.fault")
                await asyncio.sleep(RETRY_S)

    def _stocks(self) -> Iterator[Stock]:
        yield from self._always.values()
        yield from self._asked.values()

    def _stock_of(self, source: Shape | Saved, egress: VmEgress) -> Stock:
        if isinstance(source, Saved):
            new = Stock(source.spec.shape, 1, source, egress=egress)
            return self._asked_for((source.folder, egress), new)
        return self._always.get(source) or self._asked_for(source, Stock(source, 1))

    def _asked_for(self, key: Shape | tuple[Path, VmEgress], new: Stock) -> Stock:
        """Note a start; let go of what is beyond the bound and was asked for longest ago."""
        stock = self._asked.setdefault(key, new)
        self._asked.move_to_end(key)
        stock.starts.append(time.monotonic())
        while len(self._asked) > MOST_NOTED:
            self._drop(next(iter(self._asked)))
        for surplus in list(self._asked.values())[: -self._most_busy or None]:
            self._release(surplus)
        self._wanted.set()
        return stock

    def _drop(self, key: Shape | tuple[Path, VmEgress]) -> None:
        stock = self._asked.pop(key, None)
        if stock is not None:
            self._release(stock)

    def _missing(self) -> Stock | None:
        short = (
            stock
            for stock in (*self._always.values(), *self._busy())
            if len(stock.ready) < self._most_of(stock) and self._has_room(WAITING_MB)
        )
        return next(short, None)

    def _most_of(self, stock: Stock) -> int:
        """Return how many machines are worth having: no more than could be started."""
        startable = self._allowed_mb // self._host.footprint.mb(stock.shape)
        return max(0, min(stock.size, startable))

    def _trim(self) -> None:
        """Release what could not be started. Not while starts are under way: what their VMs were
        promised is no longer there for others, and they are about to take their machines."""
        for stock in self._stocks():
            while len(stock.ready) > self._most_of(stock):
                self._releases.begin(stock.ready.pop())

    def _has_room(self, memory_mb: int) -> bool:
        return self.memory_mb + memory_mb <= self._allowed_mb

    def _zygote_mb(self, saved: Saved) -> int:
        return self._host.footprint.mb(saved.spec.shape)

    def _busy(self) -> list[Stock]:
        """Return what is worth a machine besides, what was asked for last first."""
        since = time.monotonic() - BUSY_WITHIN_S
        latest = list(self._asked.values())[::-1][: self._most_busy]
        return [s for s in latest if len(s.starts) == BUSY_STARTS and s.starts[0] >= since]

    async def _add(self, stock: Stock) -> None:
        saved = stock.snapshot or await self._workshop.template(stock.shape)
        stock.template = saved.folder if stock.snapshot is None else None
        roomy = self._has_room(self._zygote_mb(saved) + WAITING_MB)
        machine = await self.fork(saved, make=roomy, egress=stock.egress)
        rehearsed = machine is not None or stock.snapshot is not None
        machine = machine or await Machine.restore(self._host, saved, network=stock.egress)
        try:
            if not rehearsed:
                await machine.rehearse()
            await machine.monitor.pause()
        except BaseException:
            await machine.release()
            raise
        if stock not in self._stocks() or not self._has_room(WAITING_MB):
            await machine.release()
            return
        stock.ready.append(machine)
        machine.process.when_ended(lambda: self._lost(stock, machine))

    def _lost(self, stock: Stock, machine: Machine) -> None:
        """A process has ended: if it is that of a machine that waits, release the machine."""
        if machine in stock.ready:
            log.warning("pool.machine_lost", machine=machine.machine_id)
            stock.ready.remove(machine)
            self._releases.begin(machine)
            self._wanted.set()

    def _release(self, stock: Stock) -> None:
        if stock.template is not None:
            self._zygotes.forget(stock.template)
        while stock.ready:
            self._releases.begin(stock.ready.pop())
