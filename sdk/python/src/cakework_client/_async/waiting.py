"""Waiting, work that blocks, and work that is finished though its task is cancelled."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

T = TypeVar("T")


async def sleep(seconds: float) -> None:
    """Wait."""
    import anyio

    await anyio.sleep(seconds)


def shielded() -> AbstractContextManager[object]:
    """Return a context in which a cancelled task goes on."""
    import anyio

    return anyio.CancelScope(shield=True)


async def aside(work: Callable[[], T]) -> T:
    """Do work that blocks, in a thread."""
    import anyio.to_thread

    return await anyio.to_thread.run_sync(work)
