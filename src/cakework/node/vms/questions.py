"""Questions to a guest whose program runs, while another task receives what it says."""

import asyncio
import errno
import os
import secrets
import time
from typing import TypeVar

from cakework.domain.errors import CakeworkError, Conflict
from cakework.domain.orders import ExecHook, Hook, VmOrder
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.protocol import (
    Exited,
    Failed,
    Freeze,
    Frozen,
    GuestError,
    GuestFrame,
    Hooked,
    HostFrame,
    Identity,
    Mark,
    Marked,
    Resume,
    Resumed,
    RunHook,
)
from cakework.node.vms.processes import signal_name

ANSWER_TIMEOUT_S = 20.0
MARK_TIMEOUT_S = 90.0
"""A mark comes behind the lines that a guest keeps, 131,072, and pump.LINES_PER_S of them are taken
in a second."""
F = TypeVar("F", bound=GuestFrame)


class HookError(CakeworkError):
    """A hook did not go well; the sentence says how."""


class Refused(GuestError):
    """The guest said that it could not do what it was asked to; ``number`` is an errno."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.what)
        self.number = failed.error


class Questions:
    """Asks a guest one thing at a time. Whoever receives its frames shows them to :meth:`hear`."""

    def __init__(self, channel: GuestChannel, hook_timeout_s: float) -> None:
        self._channel = channel
        self._hook_timeout_s = hook_timeout_s
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[GuestFrame] | None = None
        self._expected: type[GuestFrame] = Failed
        self._token: int | None = None

    def over(self) -> None:
        """The guest is gone: whoever waits for an answer gets none."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(GuestError("the VM ended"))

    def hear(self, frame: GuestFrame) -> bool:
        """Take in a frame; say whether it was an answer, and so nothing else."""
        answers = isinstance(frame, Hooked | Frozen | Resumed | Marked | Failed | Exited)
        if not answers or self._answer is None or self._answer.done():
            return False
        stale = isinstance(frame, Marked) and frame.token != self._token
        if stale or not isinstance(frame, (self._expected, Failed, Exited)):
            # Whoever asked for it gave up waiting.
            return True
        self._answer.set_result(frame)
        return not isinstance(frame, Exited)

    async def run_hook(self, what: str, hook: Hook | None, port: int | None) -> None:
        """Run ``hook``, if there is one; ``what`` is what it is called.

        Raises:
            HookError: it did not end well.
            GuestError: the guest does not answer.
        """
        if hook is None:
            return
        try:
            hooked = await self._ask(
                self._order(hook, port), Hooked, self._hook_timeout_s + ANSWER_TIMEOUT_S
            )
        except GuestError as error:
            raise HookError(f"the hook {what} could not be run: {error.detail}") from error
        if hooked.end == "timeout":
            raise HookError(f"the hook {what} took longer than {self._hook_timeout_s:g} s")
        if hooked.end == "signal":
            raise HookError(f"the hook {what} was ended by {signal_name(hooked.value)}")
        if hooked.value and not isinstance(hook, ExecHook):
            raise HookError(f"the hook {what}, POST {hook.path}, was not answered with 2xx")
        if hooked.value:
            raise HookError(f"the hook {what} ended with exit code {hooked.value}")

    async def freeze(self) -> int:
        """Stop all processes of the user's; return the number of the last line they printed.

        Raises:
            Refused: the guest cannot; they go on.
            GuestError: the guest does not answer.
        """
        return (await self._ask(Freeze(), Frozen, ANSWER_TIMEOUT_S)).last

    async def resume(self, order: VmOrder, dns: tuple[str, ...]) -> None:
        """Make the machine that of ``order``, now, and let the user's processes go on.

        Raises:
            GuestError: the guest does not answer, or cannot.
        """
        await self._ask(Resume(identity_of(order, dns)), Resumed, ANSWER_TIMEOUT_S)

    async def mark(self) -> int:
        """Have all that the program has printed made lines; return the number of the last.

        Raises:
            Conflict: the guest is of an earlier version, which cannot.
            GuestError: the guest does not answer, or cannot now.
        """
        try:
            return (await self._ask(Mark(secrets.randbits(64)), Marked, MARK_TIMEOUT_S)).last
        except Refused as error:
            if error.number != errno.EBADMSG:
                raise
            # It knows no such frame.
            raise Conflict("the VM was started with an earlier guest, which marks none") from error

    def _order(self, hook: Hook, port: int | None) -> RunHook:
        timeout_ms = round(self._hook_timeout_s * 1000)
        if isinstance(hook, ExecHook):
            return RunHook(timeout_ms, tuple(hook.argv))
        return RunHook(timeout_ms, (), port or 0, hook.path)

    async def _ask(self, order: HostFrame, answer: type[F], timeout_s: float) -> F:
        async with self._turn:
            self._answer = asyncio.get_running_loop().create_future()
            self._expected = answer
            self._token = order.token if isinstance(order, Mark) else None
            try:
                async with asyncio.timeout(timeout_s):
                    await self._channel.send(order)
                    said = await self._answer
            except TimeoutError as error:
                raise GuestError(f"the guest did not answer in {timeout_s:g} s") from error
            except ValueError as error:
                raise GuestError(f"the guest cannot be told that: {error}") from error
            finally:
                self._answer = self._token = None
        if isinstance(said, Exited):
            raise GuestError("the program ended")
        if isinstance(said, Failed):
            raise Refused(said)
        if not isinstance(said, answer):
            raise GuestError(f"the guest answered {type(said).__name__.lower()}")
        return said


def identity_of(order: VmOrder, dns: tuple[str, ...]) -> Identity:
    """Return what makes the machine of ``order`` itself, as of now."""
    return Identity(
        clock_ns=time.time_ns(),
        seed=os.urandom(32),
        hostname=order.hostname.partition(".")[0],
        dns=dns,
        vm_id=order.vm_id,
        domain=order.hostname,
    )
