"""Records that are handed to an instance at once, and what it says of them.

An adapter runs an order once; so each has a name of its own: the invocation's, and behind the first
of a call a number.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import ValidationError

from cakework.domain.invocations import Reason
from cakework.server.functions.adapter import Adapter, Answer, Context, HandlerError, NoAnswer
from cakework.server.functions.adapter import Running as Order
from cakework.server.transforms.holds import Hold

OUTS_MAX = 1_000
"""Results of one record."""


class Failed(Exception):
    """Records came to nothing. ``broken``: so did their instance."""

    def __init__(self, reason: Reason, error: HandlerError, *, broken: bool = False) -> None:
        super().__init__(error.message)
        self.reason = reason
        self.error = error
        self.broken = broken


@dataclass(eq=False, slots=True)
class Group:
    """Records, of which the first has ``number`` in its call, and the order for them.

    ``answered`` is there when the handler is done with them; ``task`` ends when nothing of it runs.
    """

    number: int
    records: list[bytes]
    hold: Hold | None = None
    name: str = ""
    answered: asyncio.Future[Order] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    task: asyncio.Task[bool] | None = None

    def ask(self, adapter: Adapter, unit: str, context: Context, account: str) -> None:
        """Hand the records over."""
        if self.hold is not None:
            self.hold.asked.add(self.answered)
            self.answered.add_done_callback(self.hold.asked.discard)
        self.name = context.invocation_id
        self.task = asyncio.create_task(self._ask(adapter, unit, context, account))

    async def _ask(self, adapter: Adapter, unit: str, context: Context, account: str) -> bool:
        """Say, in the end, whether its instance has nothing more of it."""
        if self.hold is None:
            raise TypeError("nobody is asked without an instance")
        try:
            async with adapter.transform(
                self.hold.vm_id, self.records, unit, context, account
            ) as order:
                if not self.answered.done():
                    self.answered.set_result(order)
                await order.idle()
        except NoAnswer as error:
            if not self.answered.done():
                self.answered.set_exception(error)
                # It may be that nobody waits for it any more.
                self.answered.exception()
            return False
        return True

    async def told(self, due_s: float) -> tuple[Answer, list[Any]]:
        """Return what is said of the records, or of the first of them: what came of each; for a
        batch what came of all.

        Raises:
            Failed: nothing is.
        """
        try:
            async with asyncio.timeout_at(due_s):
                order = await asyncio.shield(self.answered)
        except TimeoutError as error:
            why = HandlerError(type="Timeout", message="It took longer than timeoutMs.")
            raise Failed(Reason.TIMEOUT, why, broken=True) from error
        except NoAnswer as error:
            raise _broken(error) from error
        try:
            answer = await order.read()
        except NoAnswer as error:
            raise _broken(error) from error
        if answer.outcome == "error":
            why = answer.error or HandlerError()
            raise Failed(answer.told().reason or Reason.HANDLER_ERROR, why)
        return answer, self._results(answer.result)

    def _results(self, result: Any) -> list[Any]:
        """Return a result for each record that there is one of: a list, or why it has none."""
        told = cast("dict[str, Any]", result) if isinstance(result, dict) else {}
        if isinstance(out := told.get("out"), list):
            return [cast("list[Any]", out)]
        parts = told.get("records")
        if not isinstance(parts, list):
            raise _bad()
        results = [_result(part) for part in cast("list[Any]", parts)]
        if not 0 < len(results) <= len(self.records):
            raise _bad()
        return results


def _result(part: Any) -> Any:
    told = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    if isinstance(out := told.get("out"), list):
        return cast("list[Any]", out)
    with contextlib.suppress(ValidationError):
        return HandlerError.model_validate(told.get("error"))
    raise _bad()


def _bad() -> Failed:
    why = "The instance's answer is not one of its runtime's."
    return Failed(Reason.BAD_ANSWER, HandlerError(type="BadAnswer", message=why), broken=True)


def _broken(error: NoAnswer) -> Failed:
    return Failed(error.reason, error.told().error or HandlerError(), broken=True)
