"""The making of a "ready" snapshot: a program run until it is ready, then frozen and saved.

    fork or restore the template ─▶ run ─▶ ready ─▶ the hook before ─▶ frozen ─▶ saved ─▶
    a zygote, or released

What it prints on the way are lines of its VM. The machine is nobody's: if the node ends
meanwhile, the next one takes it away.
"""

import asyncio
from dataclasses import dataclass

from cakework.domain.errors import Unavailable
from cakework.domain.orders import VmOrder
from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.guest.protocol import (
    Exited,
    Failed,
    GuestError,
    GuestFrame,
    Ready,
    Run,
)
from cakework.node.images import Image
from cakework.node.journal import Journal
from cakework.node.vms.host import Host
from cakework.node.vms.machines import Machine
from cakework.node.vms.manifest import Needs
from cakework.node.vms.pool import Pool
from cakework.node.vms.pump import Pump
from cakework.node.vms.questions import Questions
from cakework.node.vms.runs import how_it_ended, run_order
from cakework.node.vms.saved import Saved
from cakework.node.vms.shelf import Shelf

NOTIFY_SOCKET = "NOTIFY_SOCKET=/run/cakework/notify"
TOLD_LINES = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long programs are waited for, in seconds."""

    ready_s: float
    hook_s: float


class Making:
    """One snapshot being made of the program of ``order``."""

    def __init__(
        self,
        host: Host,
        pool: Pool,
        journal: Journal,
        patience: Patience,
        order: VmOrder,
        image: Image,
    ) -> None:
        self._host = host
        self._pool = pool
        self._journal = journal
        self._patience = patience
        self._order = order
        self._image = image
        self._ready = asyncio.Event()
        self._ended: Exited | Failed | None = None

    async def make(self, template: Saved, shelf: Shelf, needs: Needs) -> int:
        """Make it and put it on the shelf; return the bytes it takes.

        Raises:
            CakeworkError: the program did not become ready, or could not be saved. The
                sentence is for whoever's program it is.
        """
        machine = await self._machine(template)
        try:
            size, made = await self._save(machine, template, shelf, needs)
            await self._pool.offer(made, machine)
        except BaseException:
            await machine.release()
            raise
        return size

    async def _machine(self, template: Saved) -> Machine:
        rootfs = self._image.rootfs
        egress = self._order.egress
        forked = await self._pool.fork(template, rootfs, forkable=True, egress=egress)
        if forked is not None:
            return forked
        forkable = "itself" if template.spec.accelerator == "tcg" else "no"
        return await Machine.restore(
            self._host, template, rootfs, forkable=forkable, network=egress
        )

    async def _save(
        self, machine: Machine, template: Saved, shelf: Shelf, needs: Needs
    ) -> tuple[int, Saved]:
        """Run the program and save it; return the bytes it takes, and what was put on the shelf."""
        vm_id = self._order.vm_id
        before = max(self._journal.last_seq(vm_id), self._order.lines_before)
        source = self._journal.source(vm_id, self._order.owner)
        pump = Pump(vm_id, machine.channel, source, before)
        questions = Questions(machine.channel, self._patience.hook_s)
        await self._send_run(machine)
        listening = asyncio.create_task(self._listen(pump, questions))
        try:
            lines = await self._bring_to_rest(machine, pump, questions, listening)
            with shelf.making(template.spec, lines) as target:
                await machine.save(target)
                step(Step.NODE_SNAPSHOT_SAVED)
                owner = self._order.owner
                size = await asyncio.to_thread(shelf.put, "ready", vm_id, owner, needs, target)
        except OSError as error:
            raise Unavailable(f"the snapshot could not be written: {error}") from error
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        folder = shelf.folder_of(vm_id, "ready")
        return size, Saved(folder, template.spec, lines, self._image.rootfs)

    async def _send_run(self, machine: Machine) -> None:
        run = run_order(self._order, self._image, self._host.dns)
        watched = Run(
            run.identity,
            run.argv,
            (*run.env, NOTIFY_SOCKET),
            run.cwd,
            run.user,
            watch=True,
            port=self._order.port or 0,
        )
        try:
            await machine.channel.send(watched)
        except ValueError as error:
            raise GuestError(f"the guest cannot be told that: {error}") from error

    async def _bring_to_rest(
        self, machine: Machine, pump: Pump, questions: Questions, listening: asyncio.Task[None]
    ) -> int:
        """Wait until the program is ready, and freeze it; return how many lines it printed."""
        resting = asyncio.create_task(self._rest(questions, pump))
        gone = asyncio.create_task(machine.process.wait())
        try:
            await asyncio.wait({resting, listening, gone}, return_when=asyncio.FIRST_COMPLETED)
            if resting.done():
                return resting.result()
            if listening.done():
                listening.result()
            if self._ended is not None:
                raise Unavailable(self._how_it_ended(pump))
            raise Unavailable(f"the VM's process {machine.process.how()}")
        finally:
            for task in (resting, gone):
                task.cancel()
            await asyncio.gather(resting, gone, return_exceptions=True)

    async def _rest(self, questions: Questions, pump: Pump) -> int:
        try:
            async with asyncio.timeout(self._patience.ready_s):
                await self._ready.wait()
        except TimeoutError as error:
            raise Unavailable(self._too_late(pump)) from error
        step(Step.NODE_SNAPSHOT_READY)
        order = self._order
        await questions.run_hook("before the snapshot", order.hooks.before_snapshot, order.port)
        lines = await questions.freeze()
        step(Step.NODE_SNAPSHOT_FROZEN)
        return lines

    async def _listen(self, pump: Pump, questions: Questions) -> None:
        """Take in what the guest says, until it is gone or its program has ended."""
        while (frames := await pump.receive()) is not None:
            for frame in frames:
                if not questions.hear(frame):
                    self._take(frame)
            if self._ended is not None:
                return

    def _take(self, frame: GuestFrame) -> None:
        if isinstance(frame, Ready):
            self._ready.set()
        elif isinstance(frame, Exited | Failed):
            self._ended = frame

    def _how_it_ended(self, pump: Pump) -> str:
        if isinstance(self._ended, Failed):
            return f"the program could not be started: {self._ended.what}"
        how = how_it_ended(self._ended) if self._ended else "the program ended"
        return f"{how} before it was {'frozen' if self._ready.is_set() else 'ready'}{_told(pump)}"

    def _too_late(self, pump: Pump) -> str:
        port = self._order.port
        listens = f"nothing listened on port {port}, and " if port else ""
        return (
            f"the program was not ready within {self._patience.ready_s:g} s: {listens}it did "
            f"not send READY=1 to $NOTIFY_SOCKET{_told(pump)}"
        )


def _told(pump: Pump) -> str:
    """Return the last lines of the program, as the end of a sentence."""
    lines = [line for line in list(pump.newest)[-TOLD_LINES:] if line.strip()]
    return f"; it last printed: {' / '.join(lines)}" if lines else ""
