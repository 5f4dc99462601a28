"""A build in a machine: what the Dockerfile says is done in a microVM of the build's own.

    root file system, images fetched ─▶ machine ─▶ input in ─▶ buildah, mkfs ─▶ image out ─▶ gone

What comes out is bytes: no file system and no archive that the machine wrote is opened here.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from cakework.domain.errors import CakeworkError
from cakework.domain.orders import BuildOrder
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.builds.builder.exchange import Exchange, ExchangeError, TooLarge
from cakework.node.builds.builder.input import BuilderInput
from cakework.node.builds.builder.output import BuilderOutput
from cakework.node.builds.builder.yard import PORT, BuilderYard, run_builder
from cakework.node.builds.disk import DiskGuard
from cakework.node.builds.failure import NO_SPACE, BuildError, explain_build
from cakework.node.builds.log import BuildLog, LineSplitter, is_for_people
from cakework.node.builds.made import explain_export, read_config
from cakework.node.builds.recipes import Recipe
from cakework.node.builds.sandbox import Confinement
from cakework.node.builds.shop import MIB, Workshop
from cakework.node.cleanup import clean_up
from cakework.node.guest.protocol import Exited, GuestError
from cakework.node.images import RunConfig
from cakework.node.network.dial import connect
from cakework.node.vms.machines import Machine

TEXT_BYTES = 16_384
CONFIG_BYTES = MIB
"""A machine cannot be told to run an image whose configuration is larger."""
RESULT = "result.erofs"

T = TypeVar("T")

log = structlog.get_logger(__name__)


class VmBuild:
    """Carries ``order`` out in a machine of ``yard``'s; enter it before use."""

    _root: Path
    _machine: Machine
    _exchange: Exchange
    _listening: asyncio.Task[Exited]

    def __init__(
        self,
        shop: Workshop,
        yard: BuilderYard,
        order: BuildOrder,
        build_log: BuildLog,
        confinement: Confinement,
    ) -> None:
        self._shop = shop
        self._yard = yard
        self._order = order
        self._log = build_log
        self._input = BuilderInput(shop, order, build_log, confinement)
        self._stdout = LineSplitter(build_log, "stdout", is_for_people)
        self._stderr = LineSplitter(build_log, "stderr", is_for_people)
        self._held = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the machine, and all that is left of it."""
        await clean_up("builder machine", self._held.aclose, build_id=self._order.build_id)

    def prepare(self, foreign: Sequence[str]) -> None:
        """Write what goes along into the machine."""
        self._input.prepare(foreign)

    async def fetch(self, recipes: Sequence[Recipe], foreign: Sequence[str]) -> None:
        """Have the machine's file system made, with our images; fetch others. Raises BuildError."""
        self._root = await self._shop.roots.ensure(recipes, self._log.say)
        if foreign:
            await self._input.fetch(foreign)

    async def build(self) -> None:
        """Run ``buildah build`` in a machine. Raises BuildError."""
        try:
            async with self._spare_disk():
                await self._start()
                await self._while_it_runs(self._have_built())
        except CakeworkError as error:
            log.warning("builder_failed", build_id=self._order.build_id, reason=error.detail)
            raise BuildError(f"the host cannot build: {error.detail}") from error

    async def export(self) -> tuple[Path, RunConfig]:
        """Take the image out. Raises BuildError."""
        async with self._spare_disk():
            result = await self._while_it_runs(self._take_image())
        self._stdout.finish()
        self._stderr.finish()
        return result

    def _spare_disk(self) -> DiskGuard:
        """Return what ends the build when the host's disk is nearly full; what the machine writes
        is bounded by the size of its disks, and counted in it."""
        return DiskGuard(self._shop.storage.home, self._shop.limits.spare_mb)

    async def _start(self) -> None:
        """Start a machine and its program, and connect to it. Raises CakeworkError."""
        limits = self._shop.limits
        lease = self._yard.lease(
            self._order,
            self._root,
            limits.memory_mb,
            disk_mb(self._shop),
            self._log.say,
        )
        self._machine = await self._held.enter_async_context(lease)
        output = BuilderOutput(self._machine.channel, self._stdout, self._stderr)
        await self._machine.channel.send(run_builder())
        self._listening = asyncio.create_task(output.listen())
        self._held.push_async_callback(_cancelled, self._listening)
        await self._while_it_runs(self._connect(output))

    async def _connect(self, output: BuilderOutput) -> None:
        ready = asyncio.create_task(output.ready.wait())
        try:
            await asyncio.wait({ready, self._listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(ready)
        if not output.ready.is_set():
            raise BuildError(f"the machine for the build did not start: {self._stderr.finish()}")
        connection = await connect(self._machine.namespace.fd, PORT)
        self._exchange = await self._held.enter_async_context(Exchange.over(connection))

    async def _have_built(self) -> None:
        limits, exchange = self._shop.limits, self._exchange
        image_kb = limits.image_mb << 10
        await exchange.order(self._order.build_id, image_kb << 10, image_kb)
        await self._input.pour(exchange.feed)
        await exchange.end_input()
        step(Step.NODE_BUILDER_FED)
        status, fault = await exchange.record("loaded", TEXT_BYTES)
        if status:
            raise BuildError(explain_loading(fault.decode(errors="replace"), limits.image_mb))
        status, over = await exchange.record("built", TEXT_BYTES)
        if over:
            raise BuildError(limits.wrote_too_much)
        if status:
            raise await self._explained(status)

    async def _take_image(self) -> tuple[Path, RunConfig]:
        limits, exchange = self._shop.limits, self._exchange
        status, fault = await exchange.record("exported", TEXT_BYTES)
        if status:
            raise BuildError(explain_export(fault.decode(errors="replace"), limits.image_mb))
        _, image_id = await exchange.record("id", TEXT_BYTES)
        _, inspected = await exchange.record("config", CONFIG_BYTES)
        config = read_config(inspected, image_id.decode(errors="replace"))
        result = self._machine.folder / RESULT
        try:
            await exchange.save("image", result, limits.image_mb * MIB)
        except TooLarge as error:
            raise BuildError(f"the image is larger than {limits.image_mb} MB") from error
        step(Step.NODE_BUILDER_IMAGE_TAKEN)
        await self._listening
        return result, config

    async def _while_it_runs(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work``, and give it up when the machine's process ends, or its program does
        without having said why."""
        doing = asyncio.create_task(work)
        gone = asyncio.create_task(self._machine.process.wait())
        try:
            await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise BuildError(f"the build's machine {self._machine.process.how()}")
            return doing.result()
        except (ExchangeError, GuestError) as error:
            log.info("builder_broke_off", build_id=self._order.build_id, reason=str(error))
            raise await self._explained(None) from error
        finally:
            await _cancelled(doing)
            await _cancelled(gone)

    async def _explained(self, status: int | None) -> BuildError:
        """Return why buildah failed, once all that it printed has come."""
        gone = asyncio.create_task(self._machine.process.wait())
        try:
            await asyncio.wait({self._listening, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(gone)
        if not self._listening.done() or self._listening.exception():
            process = self._machine.process
            how = process.how() if process.ended else "does not speak as it should"
            return BuildError(f"the build's machine {how}")
        end = self._listening.result()
        self._stdout.finish()
        return BuildError(
            explain_build(
                self._stderr.finish(),
                end.value if status is None else status,
                oom=end.out_of_memory,
                memory_mb=self._shop.limits.memory_mb,
            )
        )


def disk_mb(shop: Workshop) -> int:
    """Return the size of a machine's disk: for the input, twice, as archive and unpacked, for
    what is written, as layer and as what a layer is stored from, and for the image."""
    input_mb = max(shop.cloning.size_mb, shop.limits.context_mb)
    return 2 * input_mb + 4 * shop.limits.image_mb


def explain_loading(output: str, image_mb: int) -> str:
    """Say why images from registries could not be put into a machine's storage."""
    if NO_SPACE in output.lower():
        return f"the images that it builds on are larger than {image_mb} MB"
    log.info("builder_not_loaded", output=output[-2000:])
    return "an image that it builds on could not be unpacked"


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
