"""Clean-ups: what is done after something was done, and cannot undo it by failing.

One that fails is logged, with what it was for, and what follows it is done all the same. What it
leaves is found again: work folders, control groups, containers and whatever is half made or on
its way out at the node's next start, see who removes it there.
"""

import contextlib
from collections.abc import Awaitable, Callable, Generator

import structlog

from cakework.unbroken import unbroken

log = structlog.get_logger("cakework.node")


@contextlib.contextmanager
def cleanup(what: str, **of: object) -> Generator[None]:
    """Within, clean up ``what``, which is ``of`` something: a fault is logged, not raised."""
    try:
        yield
    except Exception:
        log.exception("cleanup.failed", what=what, **of)


async def clean_up(what: str, work: Callable[[], Awaitable[object]], **of: object) -> None:
    """Do ``work``, as within :func:`cleanup`, to its end; then a cancellation is let through."""

    async def done() -> None:
        with cleanup(what, **of):
            await work()

    await unbroken(done())
