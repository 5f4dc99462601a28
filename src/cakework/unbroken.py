"""Work that is not left half done when whoever waits for it is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """Do ``work`` to its end and return what it returns.

    When cancelled meanwhile, the cancellation is raised, but after the work is done: so what
    it acquired is held by then, and what it released is gone.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if task.cancelled() or task.exception() is None:
        raise cancelled
    raise cancelled from task.exception()
