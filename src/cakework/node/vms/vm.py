"""One VM: a user's program in a machine, from its start to the fact that it has stopped.

    starting ──▶ started ──▶ stopped
        └──────────────────────▲

One task alone, :meth:`Vm.live`, reads what the guest says and decides what becomes of it;
others only ask (stop, keep) or wait (begun, gone). A program that was restored is frozen when
it has its machine: it is started when it was resumed and its hook has run.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from cakework.domain.errors import CakeworkError, Conflict, Unavailable
from cakework.domain.facts import VmStarted, VmStopped
from cakework.domain.orders import VmOrder, VmReport
from cakework.domain.steps import Step
from cakework.domain.vms import STOPPED_ON_REQUEST, EndCause
from cakework.faults import step
from cakework.node.cleanup import cleanup
from cakework.node.guest.protocol import (
    Ack,
    Exited,
    Failed,
    GuestError,
    GuestFrame,
    PowerOff,
    Started,
)
from cakework.node.journal import Journal
from cakework.node.vms.holdings import Ending
from cakework.node.vms.machines import Machine
from cakework.node.vms.pump import Pump
from cakework.node.vms.questions import HookError, Questions, Refused
from cakework.node.vms.runs import how_it_ended
from cakework.unbroken import unbroken

START_TIMEOUT_S = 60.0
"""How long a guest may take to start its program: as a rule some 15 ms, on a host that has no time
for it seconds, and for ever in a machine that its image has brought to a halt."""
CHECK_EVERY_S = 10.0
CHECK_TIMEOUT_S = 10.0
END_NOTICE_S = 2.0
BECAME_SNAPSHOT = "the VM was ended when its snapshot was taken"
UNMOUNT_TIMEOUT_S = 10.0
END_GRACE_S = 3.0 + UNMOUNT_TIMEOUT_S
"""How much longer than its program's grace a guest may take to end on request."""

log = structlog.get_logger("cakework.node.vms")


class Vm:
    """A VM that this node has. ``report`` says how it is; it only ever goes forward."""

    def __init__(
        self, order: VmOrder, journal: Journal, dns: tuple[str, ...], hook_timeout_s: float
    ) -> None:
        self.order = order
        self.report = VmReport(vm_id=order.vm_id, run=order.run, state="starting")
        self.machine: Machine | None = None
        self.launch: asyncio.Task[None] | None = None
        """What gets it its machine; none for a VM that was adopted."""
        self.failure: Exception | None = None
        """Why it did not get one."""
        self.begun = asyncio.Event()
        self.gone = asyncio.Event()
        self._journal = journal
        self._dns = dns
        self._hook_timeout_s = hook_timeout_s
        self._questions: Questions | None = None
        self._keeping = asyncio.Lock()
        self._left = asyncio.Event()
        self._let_go = False
        self.asked_to_stop = False
        self._told_why: str | None = None
        self._out_of_memory = False
        self._ending: Exited | Failed | None = None
        self._log = log.bind(vm_id=order.vm_id)

    async def live(self, machine: Machine) -> None:
        """See the VM through to its end, and release everything it held.

        When cancelled, let go of the machine instead, which goes on.
        """
        self.machine = machine
        machine.when_gone = self._record_end
        try:
            why = await self._watch(machine)
        except asyncio.CancelledError:
            self._let_go = True
            await machine.disconnect()
            raise
        except Exception:
            self._log.exception("vm.fault")
            why = "the VM was ended by a fault of the platform"
        self._end(machine.note_ending(self._ending_of(why)))
        self._log.info("vm.stopped", reason=self.report.reason, machine=machine.machine_id)
        if self._questions is not None:
            self._questions.over()
        try:
            await self._part_with(machine)
        except Exception:
            self._log.exception("vm.not_released", machine=machine.machine_id)
        self.over()

    def never_ran(self) -> None:
        """It was asked to stop before it had a machine."""
        self._end(Ending(reason=STOPPED_ON_REQUEST, cause=EndCause.STOPPED))
        self._record_end()
        self.over()

    def over(self) -> None:
        """Nothing of it is left: nobody needs to wait any more."""
        self.begun.set()
        self.gone.set()

    async def keep(self, save: Callable[[Machine, int], Awaitable[None]]) -> None:
        """Freeze the program, have it saved and end the VM; returns when all is released.

        ``save`` is given the machine and the number of the program's last line.

        Raises:
            CakeworkError: it could not be kept, and goes on.
        """
        async with self._keeping:
            machine, questions = self._running()
            try:
                await self._save(machine, questions, save)
            except GuestError as error:
                raise Unavailable(f"the memory could not be kept: {error.detail}") from error
            ending = Ending(reason=STOPPED_ON_REQUEST, memory_kept=True, cause=EndCause.STOPPED)
            machine.note_ending(ending)
            machine.process.kill()
        await self.gone.wait()

    async def snapshot(
        self,
        save: Callable[[Machine, int], Awaitable[None]],
        hand_over: Callable[[Machine], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Freeze the program and have it saved; then it goes on.

        ``save`` is given the machine and the number of the program's last line. With ``hand_over``
        the VM ends instead: its machine, stopped as it was saved, is not released but given to
        that, which is to see to it; ``save`` has recorded how it ended.

        Raises:
            Conflict: it does not run, or its hook did not go well.
            CakeworkError: it could not be saved. It goes on, or has ended.
        """
        async with self._keeping:
            machine, questions = self._running()
            try:
                await self._save(machine, questions, save)
            except GuestError as error:
                raise Unavailable(f"the snapshot could not be taken: {error.detail}") from error
            except HookError as error:
                raise Conflict(error.detail) from error
            if hand_over is None:
                await unbroken(self._go_on(machine, questions))
            else:
                self._left.set()
                await unbroken(hand_over(machine))

    async def mark(self) -> int:
        """Return the number of the last line printed until now, as the server counts them: what is
        printed from now on comes after it.

        Raises:
            Conflict: it does not run, or its guest is of an earlier version.
            Unavailable: its guest does not answer.
        """
        async with self._keeping:
            # What is frozen for a snapshot is marked when it goes on.
            machine, questions = self._running()
        try:
            last = await questions.mark()
        except GuestError as error:
            raise Unavailable(f"the lines could not be marked: {error.detail}") from error
        record = machine.record
        first = record.lines_before + record.lines_saved
        seq = record.lines_before + last
        if not first <= seq <= max(first, self._journal.last_seq(self.order.vm_id)):
            raise Unavailable("the lines could not be marked: the guest never sent that line")
        return seq

    async def stop(self, grace_s: float, wait_s: float = 0.0) -> None:
        """End the program, then the VM; returns when all is released. It has a machine.

        For ``wait_s`` nothing is done: a program that has ended already is told how it did.
        """
        if wait_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), wait_s)
        async with self._keeping:
            self.asked_to_stop = True
        if self.machine is None or self.report.state == "stopped":
            await self.gone.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s + END_GRACE_S):
                with contextlib.suppress(GuestError):
                    await self.machine.channel.send(PowerOff(int(grace_s * 1000)))
                    step(Step.NODE_VM_STOP_SENT)
                await self.gone.wait()
        self.machine.process.kill()
        await self.gone.wait()

    async def end(self, why: str) -> None:
        """End the VM at once, for a reason of the platform's; returns when all is released."""
        self._told_why = why
        if self.machine is not None:
            self.machine.process.kill()
        await self.gone.wait()

    async def has_died(self) -> bool:
        """Whether its QEMU is gone; what failed for that may be noticed a moment before."""
        if self.machine is None:
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.machine.process.wait(), END_NOTICE_S)
        return self.machine.process.ended

    def now_started(self) -> None:
        """The program runs."""
        self._journal.append(VmStarted(at_ms=_now_ms(), vm_id=self.order.vm_id, run=self.order.run))
        step(Step.NODE_VM_STARTED)
        self.report = self.report.model_copy(update={"state": "started"})
        self.begun.set()

    async def _save(
        self,
        machine: Machine,
        questions: Questions,
        save: Callable[[Machine, int], Awaitable[None]],
    ) -> None:
        before = self.order.hooks.before_snapshot
        await questions.run_hook("before the snapshot", before, self.order.port)
        try:
            lines = await questions.freeze()
            step(Step.NODE_SNAPSHOT_FROZEN)
            await save(machine, lines)
        except Refused:
            raise
        except BaseException:
            await unbroken(self._go_on(machine, questions))
            raise

    async def _go_on(self, machine: Machine, questions: Questions) -> None:
        """Let what was frozen go on; if it cannot, it is ended, and its end says why."""
        try:
            await machine.go_on()
            await self._resume(questions)
        except CakeworkError as error:
            source = self._journal.source(self.order.vm_id, self.order.owner)
            if source.full or self._let_go or self._ending is not None or await self.has_died():
                # It was told to, and its answer waits behind its lines; or nobody hears it.
                return
            self._told_why = f"the program could not be resumed: {error.detail}"
            machine.process.kill()

    async def _part_with(self, machine: Machine) -> None:
        if not self._left.is_set():
            await machine.release()
            return
        self._record_end()
        step(Step.NODE_VM_END_TOLD)
        machine.disown()
        step(Step.NODE_MACHINE_DISOWNED)

    def _running(self) -> tuple[Machine, Questions]:
        machine, questions = self.machine, self._questions
        if machine is None or questions is None or self.report.state != "started":
            raise Conflict(f"VM {self.order.vm_id} does not run")
        return machine, questions

    async def _resume(self, questions: Questions) -> None:
        await questions.resume(self.order, self._dns)
        step(Step.NODE_SNAPSHOT_RESUMED)
        after = self.order.hooks.after_resume
        await questions.run_hook("after the resume", after, self.order.port)

    async def _begin(self, questions: Questions) -> str:
        """Resume a program that is frozen; return only if it cannot be resumed, and why."""
        try:
            await self._resume(questions)
        except CakeworkError as error:
            return f"the program could not be resumed: {error.detail}"
        self.now_started()
        return await asyncio.get_running_loop().create_future()

    async def _be_begun(self) -> str:
        """Wait for the program to be started; return only if it is not, and why."""
        # The pump takes nothing while there is no room for lines.
        await self._journal.source(self.order.vm_id, self.order.owner).room()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self.begun.wait()
        except TimeoutError:
            if self.asked_to_stop:
                return STOPPED_ON_REQUEST
            return f"the VM was ended: it did not start its program in {START_TIMEOUT_S:g} s"
        return await asyncio.get_running_loop().create_future()

    async def _watch(self, machine: Machine) -> str:
        """Return why the VM is over, when it is."""
        questions = self._questions = Questions(machine.channel, self._hook_timeout_s)
        pumping = asyncio.create_task(self._pump(machine, questions))
        ended = asyncio.create_task(machine.process.wait())
        hung = asyncio.create_task(_hang(machine))
        frozen = machine.channel.hello.state == "frozen"
        beginning = asyncio.create_task(self._begin(questions) if frozen else self._be_begun())
        left = asyncio.create_task(self._left.wait())
        tasks: set[asyncio.Task[Any]] = {pumping, ended, hung, beginning, left}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                return BECAME_SNAPSHOT
            if beginning.done() and not pumping.done():
                return beginning.result()
            if ended.done() and not pumping.done():
                await asyncio.wait({pumping}, timeout=CHECK_TIMEOUT_S)
            if pumping.done() and (why := pumping.result()):
                return why
            if not ended.done():
                # A monitor that is cut off by the end of QEMU may say so first.
                await asyncio.wait({ended}, timeout=END_NOTICE_S)
            if not ended.done():
                return "the VM stopped responding"
            return self._how_it_died(machine)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, machine: Machine, questions: Questions) -> str | None:
        """Record what the guest says; return how it ended, None if it went without a word."""
        record = machine.record
        pump = Pump(
            self.order.vm_id,
            machine.channel,
            self._journal.source(self.order.vm_id, self.order.owner),
            record.lines_before,
            record.lines_saved,
        )
        machine.process.when_ended(pump.hurry)
        try:
            while (frames := await pump.receive()) is not None:
                for frame in frames:
                    if not questions.hear(frame):
                        self._take(frame)
                if self._ending is not None:
                    return await self._last_words(machine, self._ending)
        except GuestError as error:
            # A connection that is cut off by the end of QEMU may say so first.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(machine.process.wait(), END_NOTICE_S)
            if machine.process.ended:
                return None
            self._log.warning("vm.protocol_broken", reason=error.detail)
            return f"the VM was ended: {error.detail}"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(machine.process.wait(), CHECK_TIMEOUT_S)
        return None if machine.process.ended else "the VM was ended: it closed its port"

    def _take(self, frame: GuestFrame) -> None:
        if isinstance(frame, Started):
            self.now_started()
        elif isinstance(frame, Exited | Failed):
            step(Step.NODE_VM_ENDED)
            self._ending = frame

    async def _last_words(self, machine: Machine, ending: Exited | Failed) -> str:
        if isinstance(ending, Exited):
            why = STOPPED_ON_REQUEST if self.asked_to_stop else how_it_ended(ending)
            # Before the guest is told: what it knows was taken in, it does not say again.
            machine.note_ending(self._ending_of(why))
            with contextlib.suppress(GuestError, TimeoutError):
                await machine.channel.send(Ack(ending.last))
                if self.order.volume_gb:
                    await machine.channel.send(PowerOff(0))
                    await asyncio.wait_for(machine.process.wait(), UNMOUNT_TIMEOUT_S)
            return why
        return f"the program could not be started: {ending.what}"

    def _how_it_died(self, machine: Machine) -> str:
        if self._told_why is not None:
            return self._told_why
        if self.asked_to_stop:
            return STOPPED_ON_REQUEST
        if machine.cgroup.oom_kills():
            self._out_of_memory = True
            return "the VM used more memory than it may"
        return f"the VM's process {machine.process.how()}"

    def _ending_of(self, why: str) -> Ending:
        code = _exit_code(self._ending) if isinstance(self._ending, Exited) else None
        return Ending(reason=why, exit_code=code, cause=self._cause_of(why))

    def _cause_of(self, why: str) -> EndCause:
        if why in (STOPPED_ON_REQUEST, BECAME_SNAPSHOT):
            return EndCause.STOPPED
        exited = self._ending if isinstance(self._ending, Exited) else None
        if self._out_of_memory or (exited is not None and exited.out_of_memory):
            return EndCause.OUT_OF_MEMORY
        return EndCause.EXITED if exited is not None else EndCause.DIED

    def _end(self, ending: Ending) -> None:
        self.report = self.report.model_copy(update={"state": "stopped", **dict(ending)})

    def _record_end(self) -> None:
        self._journal.append(
            VmStopped(
                at_ms=_now_ms(),
                vm_id=self.order.vm_id,
                run=self.order.run,
                reason=self.report.reason or "",
                exit_code=self.report.exit_code,
                memory_kept=self.report.memory_kept,
                cause=self.report.cause,
            )
        )


async def _hang(machine: Machine) -> None:
    """Return when QEMU gives no sign of life any more."""
    while True:
        await asyncio.sleep(CHECK_EVERY_S)
        try:
            with cleanup("output", machine=machine.machine_id):
                machine.trim_output()
            await machine.monitor.check(CHECK_TIMEOUT_S)
        except CakeworkError:
            return


def _exit_code(exited: Exited) -> int:
    return 128 + exited.value if exited.by_signal else exited.value


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
